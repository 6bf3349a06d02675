"""scikit-learn's handwritten digits (UCI, Alpaydin and Kaynak 1998): 1,797 real images of 8x8, inside the library."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.raw import DATASETS, Raw, checked, held_out

TEST_IMAGES = 500
TEST_SEED = 0


@DATASETS.register("digits", source="sklearn.datasets.load_digits")
def digits(root: Path | None) -> Raw:
    """Ten digits, 1 x 8 x 8, embedded: ``root`` is not looked at.

    The levels 0 to 16 become 0 to 255, rounded. The library has no test set; ours is 500 images, every class in
    proportion, drawn once and for all by :func:`training.data.raw.held_out` with seed 0.
    """
    table = _table()
    images = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    whole = checked(images, table[:, -1], 10, "data.name: digits")
    test = held_out(whole.labels, TEST_IMAGES, TEST_SEED)
    return Raw(whole.take(~test), whole.take(test), 10)


def _table() -> NDArray[np.uint8]:
    """(1797, 65): 64 levels and the label. Read without the library, whose import takes every process seconds."""
    library = find_spec("sklearn")
    assert library is not None
    assert library.submodule_search_locations is not None
    file = Path(library.submodule_search_locations[0], "datasets/data/digits.csv.gz")
    with gzip.open(file, "rt") as lines:
        table: NDArray[np.uint8] = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    return table

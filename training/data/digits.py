"""scikit-learn's handwritten digits (UCI, Alpaydin and Kaynak 1998): 1,797 real images of 8x8, inside the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.raw import DATASETS, Raw, checked, held_out

TEST_IMAGES = 500
TEST_SEED = 0


@DATASETS.register("digits", source="sklearn.datasets.load_digits")
def digits(root: Path | None) -> Raw:
    """Ten digits, 1 x 8 x 8, embedded: ``root`` is not looked at.

    The levels 0 to 16 become 0 to 255, rounded. The library has no test set; ours is 500 images, every class in
    proportion, drawn once and for all by :func:`training.data.raw.held_out` with seed 0.
    """
    from sklearn.datasets import load_digits  # half a second, and only this data set needs it

    read = load_digits()
    images = np.rint(read.images[:, None] * (255 / 16)).astype(np.uint8)
    whole = checked(images, read.target, 10, "data.name: digits")
    test = held_out(whole.labels, TEST_IMAGES, TEST_SEED)
    return Raw(whole.take(~test), whole.take(test), 10)

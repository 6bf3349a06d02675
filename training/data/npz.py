"""Any images in a NumPy archive."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from training.data.raw import DATASETS, Part, Raw, as_part, folder_of, held_out
from training.errors import UserError

SPLIT = ("train_images", "train_labels", "test_images", "test_labels")
WHOLE = (("images", "labels"), ("image", "label"))
TEST_SHARE = 5  # one in so many images is for testing where the file does not say which
TEST_SEED = 0


@DATASETS.register("npz")
def npz(root: Path | None) -> Raw:
    """An .npz file: ``root`` is the file, or a folder with exactly one.

    It holds train_images, train_labels, test_images and test_labels; or images and labels (or image and label),
    of which one in five, every class in proportion, is then the test set (drawn once and for all by
    :func:`training.data.raw.held_out` with seed 0). Images are uint8 as NHWC, NCHW or NHW with one or three
    channels; labels count from 0 and every class has an image. Nothing in the file is unpickled.
    """
    file = _file(folder_of(root, "npz", "an .npz file, or a folder with exactly one"))
    arrays = arrays_of(file, (SPLIT, *WHOLE))
    if len(arrays) == 4:
        train = as_part(arrays["train_images"], arrays["train_labels"], None, f"data.root: {file} (train)")
        classes = _classes(train, file)
        test = as_part(arrays["test_images"], arrays["test_labels"], classes, f"data.root: {file} (test)")
        if train.images.shape[1:] != test.images.shape[1:]:
            raise UserError(
                f"data.root: {file} holds training images of shape {train.images.shape[1:]} and test images of"
                f" {test.images.shape[1:]}; they must be alike"
            )
        return Raw(train, test, classes)
    images, labels = arrays.values()
    whole = as_part(images, labels, None, f"data.root: {file}")
    classes = _classes(whole, file)
    rows = held_out(whole.labels, len(whole.labels) // TEST_SHARE, TEST_SEED)
    if not rows.any():
        raise UserError(f"data.root: {file} holds {len(rows)} images, at least {TEST_SHARE} are needed")
    return Raw(whole.take(~rows), whole.take(rows), classes)


def _file(root: Path) -> Path:
    if root.is_file():
        return root
    found = sorted(root.glob("*.npz"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:3]) or "none"
        raise UserError(f"data.root: {root} must hold exactly one .npz file, or name one; it holds {names}")
    return found[0]


def arrays_of(
    file: Path, possible: Sequence[tuple[str, ...]], field: str = "data.root"
) -> dict[str, NDArray[np.generic]]:
    """The arrays of an archive, under the first of the ``possible`` sets of names that it has all of.

    Raises:
        UserError: naming ``field`` and the file.
    """
    with _reading(file, field):
        archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, NpzFile):
        raise UserError(f"{field}: {file} is a single array, not an .npz archive")
    with archive:
        keys = next((keys for keys in possible if set(keys) <= set(archive.files)), None)
        if keys is None:
            held = ", ".join(archive.files) or "nothing"
            wanted = ", or ".join(f"{', '.join(keys[:-1])} and {keys[-1]}" for keys in possible)
            raise UserError(f"{field}: {file} must hold {wanted}; it holds {held}")
        with _reading(file, field):
            return {key: archive[key] for key in keys}


@contextmanager
def _reading(file: Path, field: str) -> Iterator[None]:
    """What NumPy and zipfile raise for a bad file, as the sentence for the user."""
    try:
        yield
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{field}: {file} is truncated or damaged: {error}") from None
    except (ValueError, NotImplementedError, RuntimeError):  # Python objects, no archive, encrypted, ...
        raise UserError(f"{field}: {file} is damaged, or holds Python objects, which are not read") from None
    except OSError as error:
        raise UserError(f"{field}: {file} cannot be read: {error.strerror or error}") from None


def _classes(part: Part, file: Path) -> int:
    present = np.unique(part.labels)
    if len(present) < 2 or present[-1] != len(present) - 1:
        absent = next((k for k in range(len(present)) if present[k] != k), len(present))
        raise UserError(
            f"data.root: {file}: labels must count from 0, at least two classes, without gaps;"
            f" no training image has label {absent}"
        )
    return len(present)

"""Any images in a NumPy archive."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from training.data.raw import DATASETS, Part, Raw, checked, folder_of, held_out
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
    arrays = _arrays(file)
    if len(arrays) == 4:
        train = _part(arrays["train_images"], arrays["train_labels"], None, f"data.root: {file} (train)")
        classes = _classes(train, file)
        test = _part(arrays["test_images"], arrays["test_labels"], classes, f"data.root: {file} (test)")
        if train.images.shape[1:] != test.images.shape[1:]:
            raise UserError(
                f"data.root: {file} holds training images of shape {train.images.shape[1:]} and test images of"
                f" {test.images.shape[1:]}; they must be alike"
            )
        return Raw(train, test, classes)
    images, labels = arrays.values()
    whole = _part(images, labels, None, f"data.root: {file}")
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


def _arrays(file: Path) -> dict[str, NDArray[np.generic]]:
    """The four arrays, or images and labels."""
    with _reading(file):
        archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, NpzFile):
        raise UserError(f"data.root: {file} is a single array, not an .npz archive")
    with archive:
        keys = next((keys for keys in (SPLIT, *WHOLE) if set(keys) <= set(archive.files)), None)
        if keys is None:
            held = ", ".join(archive.files) or "nothing"
            raise UserError(
                f"data.root: {file} must hold {', '.join(SPLIT)}, or images and labels; it holds {held}"
            )
        with _reading(file):
            return {key: archive[key] for key in keys}


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """What NumPy and zipfile raise for a bad file, as the sentence for the user."""
    try:
        yield
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"data.root: {file} is truncated or damaged: {error}") from None
    except (ValueError, NotImplementedError, RuntimeError):  # Python objects, no archive, encrypted, ...
        raise UserError(
            f"data.root: {file} is damaged, or holds Python objects, which are not read"
        ) from None
    except OSError as error:
        raise UserError(f"data.root: {file} cannot be read: {error.strerror or error}") from None


def _part(images: NDArray[np.generic], labels: NDArray[np.generic], classes: int | None, where: str) -> Part:
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return checked(images, labels, classes, where)


def _classes(part: Part, file: Path) -> int:
    present = np.unique(part.labels)
    if len(present) < 2 or present[-1] != len(present) - 1:
        absent = next((k for k in range(len(present)) if present[k] != k), len(present))
        raise UserError(
            f"data.root: {file}: labels must count from 0, at least two classes, without gaps;"
            f" no training image has label {absent}"
        )
    return len(present)

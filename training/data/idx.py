"""MNIST and Fashion-MNIST from their IDX files, gzipped or not, as published or as torchvision lays them out."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.raw import DATASETS, Part, Raw, checked, folder_of
from training.errors import UserError

UNSIGNED_BYTE = 8  # the type code of IDX; the only one that images and labels come in
CLASSES = 10


@DATASETS.register("mnist", source="LeCun et al. 1998")
def mnist(root: Path | None) -> Raw:
    """Handwritten digits, 1 x 28 x 28, 60,000 + 10,000; ``root`` holds the four files, or raw/, or MNIST/raw/."""
    return _read(root, "mnist", "MNIST", (0.1307,), (0.3081,))


@DATASETS.register("fashion-mnist", source="Xiao et al. 2017")
def fashion_mnist(root: Path | None) -> Raw:
    """Articles of clothing, 1 x 28 x 28, 60,000 + 10,000; ``root`` as for mnist, or FashionMNIST/raw/."""
    return _read(root, "fashion-mnist", "FashionMNIST", (0.2860,), (0.3530,))


def _read(root: Path | None, name: str, own: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Raw:
    folder = folder_of(root, name, "the folder with its four IDX files")
    for candidate in (folder / own / "raw", folder / "raw", folder):
        if any(_find(candidate, f"train-images-idx3-ubyte{end}") for end in ("", ".gz")):
            folder = candidate
            break
    train, test = _part(folder, "train"), _part(folder, "t10k")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"data.root: {folder} holds training images of {train.images.shape[2:]} and test images of"
            f" {test.images.shape[2:]} pixels; they must be alike"
        )
    return Raw(train, test, CLASSES, mean, std)


def _part(folder: Path, which: str) -> Part:
    images = _array(folder, f"{which}-images-idx3-ubyte", dimensions=3)
    labels = _array(folder, f"{which}-labels-idx1-ubyte", dimensions=1)
    return checked(images[:, None], labels, CLASSES, f"data.root: {folder}/{which}-*")


def _array(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """One IDX file: two zero bytes, type, number of dimensions, their big-endian sizes, then the bytes."""
    file = _find(folder, name) or _find(folder, f"{name}.gz")
    if file is None:
        raise UserError(f"data.root: {folder} holds neither {name} nor {name}.gz; nothing is downloaded")
    content = _content(file)
    start = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, UNSIGNED_BYTE, dimensions)) or len(content) < start:
        raise UserError(f"data.root: {file} is not an IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise UserError(
            f"data.root: {file} is truncated or damaged: it should hold {expected} bytes, it holds {len(content)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    return folder / name if (folder / name).is_file() else None


def _content(file: Path) -> bytearray:
    """Mutable, because torch wants to own what it wraps."""
    try:
        if file.suffix == ".gz":
            with gzip.open(file) as packed:
                return bytearray(packed.read())
        return bytearray(file.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"data.root: {file} is truncated or damaged: {error}") from None
    except OSError as error:
        raise UserError(f"data.root: {file} cannot be read: {error.strerror}") from None

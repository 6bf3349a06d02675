"""Street View House Numbers, cropped digits, from their MATLAB files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from training.data.raw import DATASETS, Part, Raw, checked, folder_of
from training.errors import UserError

CLASSES = 10
HEADER, COMPRESSED = 128, 15  # of MATLAB 5 files: bytes before the first element, type of a compressed one


@DATASETS.register("svhn", source="Netzer et al. 2011")
def svhn(root: Path | None) -> Raw:
    """Ten digits, 3 x 32 x 32, 73,257 + 26,032; ``root`` holds train_32x32.mat and test_32x32.mat.

    In the files label 10 is the digit 0, and it is label 0 here. The 531,131 easier images of extra_32x32.mat are
    not looked at; ``data.extra: {path: .../extra_32x32.mat, share: 0.5}`` mixes them in.
    """
    folder = folder_of(root, "svhn", "the folder with train_32x32.mat and test_32x32.mat")
    return Raw(read_mat(folder / "train_32x32.mat"), read_mat(folder / "test_32x32.mat"), CLASSES)


def read_mat(file: Path, field: str = "data.root") -> Part:
    """One of SVHN's files: X uint8 [32, 32, 3, N] and y [N, 1], 1 to 10.

    Raises:
        UserError: naming ``field`` and the file.
    """
    from scipy.io import loadmat  # a third of a second, and only this data set needs it

    where = f"{field}: {file}"
    if not file.is_file():
        raise UserError(f"{where} is missing; nothing is downloaded")
    try:
        _check_packing(file.read_bytes())
        held = loadmat(str(file), variable_names=["X", "y"])
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # SciPy lets out whatever it stumbles over
        raise UserError(
            f"{where} is truncated or damaged, or no compressed MATLAB 5 file ({error})"
        ) from None
    if "X" not in held or "y" not in held:
        raise UserError(f"{where} must hold X and y")
    images, labels = held["X"], held["y"]
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise UserError(f"{where}: X must be of shape (32, 32, 3, N), it is {images.shape}")
    labels = labels.ravel()
    if np.issubdtype(labels.dtype, np.integer) and labels.size and labels.min() < 1:
        raise UserError(f"{where}: labels must be 1 to 10, they go from {labels.min()}")
    images = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return checked(images, np.where(labels == 10, 0, labels), CLASSES, where)


def _check_packing(content: bytes) -> None:
    """Raise where a checksum of zlib's does not agree: SciPy 1.17.1 trusts a damaged file, up to a segmentation fault.

    After 128 bytes come elements: type, size, bytes. Published files, and MATLAB's since version 7, compress each.
    """
    at = HEADER
    while at < len(content):
        kind, size = struct.unpack_from("<II", content, at)
        if kind != COMPRESSED or at + 8 + size > len(content):
            raise ValueError(f"no whole compressed element at byte {at}")
        zlib.decompress(content[at + 8 : at + 8 + size])
        at += 8 + size

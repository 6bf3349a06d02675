"""CIFAR-10-C, CIFAR-100-C and ImageNet-C: test images under common corruptions (Hendrycks and Dietterich 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.files import Files
from training.data.folders import class_folders, listing
from training.data.raw import Part, checked
from training.errors import UserError
from training.registry import nearest

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
FURTHER = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # for tuning; no part of published means
SEVERITIES = (1, 2, 3, 4, 5)
PUBLISHED_SIZE = 224  # pixels of a side of ImageNet-C's files


def cifar_c(
    root: Path,
    corruption: str,
    severity: int,
    *,
    classes: int = 10,
    count: int | None = None,
) -> Part:
    """Test images [N, 3, H, W] under one corruption, from CORRUPTION.npy [5 N, H, W, 3] and labels.npy [5 N].

    Both hold severity 1, 2, ... 5 one after the other, N = 10,000 images each. Only the images that are returned are
    read from the disk.

    Args:
        root: holds the .npy files, or CIFAR-10-C (for 100 classes CIFAR-100-C) with them.
        corruption: one of ``CORRUPTIONS`` or ``FURTHER``.
        severity: 1 to 5.
        count: the first so many images, all when None.

    Raises:
        UserError: naming ``data.root`` and the file, or an unknown corruption or severity.
    """
    _check(corruption, severity)
    folder = root / f"CIFAR-{classes}-C"
    folder = folder if folder.is_dir() else root
    file = folder / f"{corruption}.npy"
    images, labels = _array(file), _array(folder / "labels.npy")
    if images.ndim != 4 or images.shape[3] != 3 or len(images) % len(SEVERITIES) or images.dtype != np.uint8:
        raise UserError(
            f"data.root: {file} must be uint8 of shape (5 N, H, W, 3), it is {images.dtype} of shape {images.shape}"
        )
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"data.root: {folder / 'labels.npy'} must hold {len(images)} labels, its shape is {labels.shape}"
        )
    whole = len(images) // len(SEVERITIES)
    start = (severity - 1) * whole
    rows = slice(start, start + _wanted(count, whole))
    pixels = np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))
    return checked(pixels, np.asarray(labels[rows]), classes, f"data.root: {file}")


def imagenet_c(
    root: Path,
    corruption: str,
    severity: int,
    *,
    classes: Sequence[str] | None = None,
    size: int = PUBLISHED_SIZE,
    count: int | None = None,
) -> Part:
    """Test images under one corruption, from CORRUPTION/SEVERITY/CLASS/*.JPEG, as files that :meth:`Part.pixels` reads.

    The published files are cut to 224 x 224 already and are taken as they are. Another ``size`` is made of them as
    ``imagenet`` makes its test images of photographs, but without cutting again.

    Args:
        root: holds the corruptions' folders, or folders that hold them (noise, blur, weather, digital, extra).
        corruption: one of ``CORRUPTIONS`` or ``FURTHER``.
        severity: 1 to 5.
        classes: names of the class folders by label (sorted, as the training set's); None: all that are there.
        count: the first so many images (of all classes in turn), all when None.

    Raises:
        UserError: naming ``data.root`` and the folder, or an unknown corruption or severity.
    """
    _check(corruption, severity)
    found = [root / corruption, *sorted(root.glob(f"*/{corruption}"))]
    folder = next((f / str(severity) for f in found if (f / str(severity)).is_dir()), None)
    if folder is None:
        raise UserError(f"data.root: {root} holds no folder {corruption}/{severity}")
    names, labels = listing(folder, class_folders(folder) if classes is None else classes)
    files = Files(folder, names, (3, size, size), None if size == PUBLISHED_SIZE else 1.0, by_contents=False)
    rows = slice(_wanted(count, len(names)))
    return Part(files[rows], labels[rows])


def _check(corruption: str, severity: int) -> None:
    known = CORRUPTIONS + FURTHER
    if corruption not in known:
        hint = nearest(corruption, known)
        raise UserError(f"data.root: no corruption '{corruption}'{hint}; there are: {', '.join(known)}")
    if severity not in SEVERITIES:
        raise UserError(f"data.root: severity must be 1 to 5, got {severity}")


def _wanted(count: int | None, there: int) -> int:
    if count is not None and count > there:
        raise UserError(f"data.root: {count} images asked for, and there are {there}")
    return there if count is None else count


def _array(file: Path) -> NDArray[np.generic]:
    """One .npy file, mapped into memory."""
    if not file.is_file():
        raise UserError(f"data.root: {file} is missing; nothing is downloaded")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(
            f"data.root: {file} is truncated or damaged, or no array of numbers ({error})"
        ) from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"data.root: {file} is an archive, not a single array")
    return array

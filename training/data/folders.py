"""Images as files in class folders: anybody's own, ImageNet, ImageNet-100."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.files import Files, opened
from training.data.raw import DATASETS, Part, Raw, folder_of
from training.errors import UserError

# What torchvision takes for images by their names, in any case.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A test image of 224 pixels is the middle of one whose short side was scaled to 256.
IMAGENET_ZOOM = 256 / 224
CLASS_LIST = "classes.txt"


@DATASETS.register("image-folder")
def image_folder(root: Path | None, *, size: int | None = None) -> Raw:
    """Any images of one's own: ``root`` holds train/CLASS/* and test/CLASS/* (or val/CLASS/*).

    Classes are the folders' names, sorted; both must have the same. All images have one size, or ``size`` is given:
    the short side is then scaled to so many pixels, and the middle square taken. Gray if the first image is.
    The first N images (``train_size``, ``evaluate.images``) are of all classes in turn.
    """
    folder = folder_of(root, "image-folder", "a folder with train/CLASS/* and test/CLASS/*")
    names = [name for name in ("test", "val") if (folder / name).is_dir()]
    if not names or not (folder / "train").is_dir():
        raise UserError(
            f"data.root: {folder} must hold folders train and test (or val), with class folders in them"
        )
    classes = class_folders(folder / "train")
    if len(classes) < 2:
        raise UserError(
            f"data.root: {folder / 'train'} holds {len(classes)} class folders, at least 2 are needed"
        )
    differing = sorted(set(classes) ^ set(class_folders(folder / names[0])))
    if differing:
        raise UserError(f"data.root: {folder} has class '{differing[0]}' in only one of train and {names[0]}")
    first = opened(str(folder / "train" / listing(folder / "train", classes[:1])[0][0]))
    channels = 1 if first.mode == "L" else 3
    image = (channels, first.height, first.width) if size is None else (channels, size, size)
    return _raw(folder, names[0], classes, image, None if size is None else 1.0, by_contents=True)


@DATASETS.register("imagenet", source="Russakovsky et al. 2015")
def imagenet(root: Path | None, *, size: int = 224) -> Raw:
    """A thousand classes: ``root`` holds train/CLASS/* and val/CLASS/*; the labelled validation images are the test.

    Where images are held in memory (test, validation, or all without resized-crop) the short side is scaled to
    256/224 of ``size`` and the middle taken. At 224 pixels an image has 150,528 bytes, so a tenth of the training
    images is 19 GB: a smaller ``data.val`` (0.01) is enough to select by. A digest goes by names and sizes of files.
    """
    folder = folder_of(root, "imagenet", "the folder with train/CLASS/* and val/CLASS/*")
    classes = class_folders(folder / "train")
    if len(classes) != 1000:
        raise UserError(f"data.root: {folder / 'train'} has {len(classes)} class folders, ImageNet has 1000")
    return _imagenet(folder, classes, size)


@DATASETS.register("imagenet-100", source="Laidlaw et al. 2021")
def imagenet_100(root: Path | None, *, size: int = 224) -> Raw:
    """A hundred classes of ImageNet: a folder like it, of just these; or all of it and a list, ``root``/classes.txt.

    The list has a class folder's name per line (empty lines and those that begin with # do not count), in any
    order: labels go by the sorted names either way. Otherwise as ``imagenet``.
    """
    folder = folder_of(root, "imagenet-100", "the folder with train/CLASS/* and val/CLASS/*")
    classes = class_folders(folder / "train")
    if (folder / CLASS_LIST).is_file():
        classes = _listed(folder / CLASS_LIST, classes)
    if len(classes) != 100:
        raise UserError(
            f"data.root: {folder} has {len(classes)} classes instead of 100; keep the folders of 100, or list their"
            f" names in {folder / CLASS_LIST}"
        )
    return _imagenet(folder, classes, size)


def _imagenet(folder: Path, classes: Sequence[str], size: int) -> Raw:
    raw = _raw(folder, "val", classes, (3, size, size), IMAGENET_ZOOM, by_contents=False)
    return replace(raw, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _listed(file: Path, there: Sequence[str]) -> list[str]:
    """The class folders that a file lists, sorted."""
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.root: {file} cannot be read: {error}") from None
    names = sorted({line for line in lines if line and not line.startswith("#")})
    for name in names:
        if name not in there:
            raise UserError(f"data.root: {file} lists '{name}', and train has no such folder")
    return names


def _raw(
    folder: Path,
    test: str,
    classes: Sequence[str],
    image: tuple[int, int, int],
    zoom: float | None,
    by_contents: bool,
) -> Raw:
    """train/CLASS/* and test/CLASS/* of the same classes; those that the list leaves out do not count."""
    parts = []
    for name in ("train", test):
        names, labels = listing(folder / name, classes)
        parts.append(Part(Files(folder / name, names, image, zoom, by_contents), labels))
    return Raw(parts[0], parts[1], len(classes))


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones do not count. UserError when there is none."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"data.root: {folder} cannot be read: {error.strerror}") from None
    if not names:
        raise UserError(f"data.root: {folder} holds no class folders")
    return names


def listing(folder: Path, classes: Sequence[str]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Names [N], relative to ``folder``, and labels [N] of all images below ``folder``/CLASS.

    Their order is one image of each class, then the next of each, in the order of their names: so the first images
    are a fair part of all. What has no image's ending, or is hidden, does not count.

    Raises:
        UserError: a class has no image.
    """
    names: list[str] = []
    labels, ranks = [], []
    for label, name in enumerate(classes):
        found = sorted(_below(folder, name))
        if not found:
            raise UserError(f"data.root: {folder / name} holds no image ({', '.join(ENDINGS)})")
        names += found
        labels.append(np.full(len(found), label, np.int64))
        ranks.append(np.arange(len(found)))
    label_of = np.concatenate(labels)
    order = np.lexsort((label_of, np.concatenate(ranks)))
    return np.array(names, dtype=np.object_)[order], label_of[order]


def _below(folder: Path, name: str) -> Iterator[str]:
    for top, _, files in os.walk(folder / name, followlinks=True):
        below = Path(top).relative_to(folder).as_posix()
        for file in files:
            if file.lower().endswith(ENDINGS) and not file.startswith("."):
                yield f"{below}/{file}"

"""Tiny-ImageNet-200 in the layout it was published in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.files import Files
from training.data.folders import listing
from training.data.raw import DATASETS, Part, Raw, folder_of
from training.errors import UserError

SIZE = 64  # pixels of a side, as published
FOLDER = "tiny-imagenet-200"


@DATASETS.register("tiny-imagenet", source="Le and Yang 2015")
def tiny_imagenet(root: Path | None, *, size: int = SIZE) -> Raw:
    """Two hundred classes, 3 x 64 x 64, 100,000 + 10,000: the labelled validation images are the test.

    ``root`` holds (or is) tiny-imagenet-200, with wnids.txt, train/CLASS/images/*.JPEG, val/images/*.JPEG and
    val/val_annotations.txt. Labels go by the sorted names of wnids.txt. ``size`` 32 scales all images, as LBGAT does.
    """
    folder = folder_of(root, "tiny-imagenet", f"the folder that holds {FOLDER}")
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    classes = sorted(set(_lines(folder / "wnids.txt")))
    if len(classes) < 2:
        raise UserError(
            f"data.root: {folder / 'wnids.txt'} names {len(classes)} classes, at least 2 are needed"
        )
    image, zoom = (3, size, size), None if size == SIZE else 1.0
    train, labels = listing(folder / "train", classes)
    test, test_labels = _validation(folder / "val", classes)
    return Raw(
        Part(Files(folder / "train", train, image, zoom), labels),
        Part(Files(folder / "val" / "images", test, image, zoom), test_labels),
        len(classes),
    )


def _validation(folder: Path, classes: list[str]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Names and labels as val_annotations.txt gives them, in its order; it and the images there must agree."""
    notes = folder / "val_annotations.txt"
    index = {name: label for label, name in enumerate(classes)}
    label_of: dict[str, int] = {}
    for number, line in enumerate(_lines(notes), 1):
        name, _, rest = line.partition("\t")
        label = index.get(rest.partition("\t")[0])
        if label is None:
            raise UserError(
                f"data.root: {notes}, line {number}: should be an image, a tab, a class of wnids.txt"
            )
        if name in label_of:
            raise UserError(f"data.root: {notes}, line {number}: {name} is there twice")
        label_of[name] = label
    if not label_of:
        raise UserError(f"data.root: {notes} is empty")
    there = {file.name for file in (folder / "images").glob("*.JPEG")}
    for name in label_of:
        if name not in there:
            raise UserError(f"data.root: {folder / 'images' / name} is missing; {notes.name} names it")
    for name in sorted(there - set(label_of)):
        raise UserError(f"data.root: {folder / 'images' / name} has no label in {notes.name}")
    return np.array(list(label_of), dtype=np.object_), np.array(list(label_of.values()), dtype=np.int64)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"data.root: {file} is missing; nothing is downloaded") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.root: {file} cannot be read: {error}") from None

"""CIFAR-10 and CIFAR-100 through torchvision, which checks the files' published checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from training.data.raw import DATASETS, Part, Raw, checked, folder_of
from training.data.torchvision_import import datasets
from training.errors import UserError


@DATASETS.register("cifar10", source="Krizhevsky 2009")
def cifar10(root: Path | None) -> Raw:
    """Ten classes, 3 x 32 x 32, 50,000 + 10,000; ``root`` holds (or is) cifar-10-batches-py."""
    folder = folder_of(root, "cifar10", "the folder that holds cifar-10-batches-py")
    kind = datasets().CIFAR10
    return _read(kind, folder, 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


@DATASETS.register("cifar100", source="Krizhevsky 2009")
def cifar100(root: Path | None) -> Raw:
    """A hundred classes, 3 x 32 x 32, 50,000 + 10,000; ``root`` holds (or is) cifar-100-python."""
    folder = folder_of(root, "cifar100", "the folder that holds cifar-100-python")
    kind = datasets().CIFAR100
    return _read(kind, folder, 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def _read(kind: Any, folder: Path, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Raw:
    if folder.name == kind.base_folder:
        folder = folder.parent
    if not (folder / kind.base_folder).is_dir():
        raise UserError(f"data.root: {folder} holds no folder {kind.base_folder}; nothing is downloaded")
    return Raw(_part(kind, folder, True, classes), _part(kind, folder, False, classes), classes, mean, std)


def _part(kind: Any, folder: Path, train: bool, classes: int) -> Part:
    where = f"data.root: {folder / kind.base_folder}"
    try:
        read = kind(root=str(folder), train=train, download=False)
    except (RuntimeError, OSError) as error:  # torchvision's word for a missing file or a wrong checksum
        raise UserError(
            f"{where} is incomplete or damaged (torchvision: {str(error).partition('.')[0]})"
        ) from None
    images = np.ascontiguousarray(read.data.transpose(0, 3, 1, 2))
    return checked(images, np.asarray(read.targets), classes, where)

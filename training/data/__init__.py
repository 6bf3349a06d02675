"""Images by name: read, verified, split, and digested by their contents. Importing this costs NumPy, not torch.

A new data set is a function ``(root) -> Raw`` under ``@DATASETS.register(name)``, in a module that is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.data import cifar, digits, idx, npz
from training.data.raw import DATASETS, Part, Raw, held_out, statistics
from training.errors import UserError
from training.spec import DataSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DATASETS", "Dataset", "Images", "cifar", "digest", "digits", "idx", "load", "npz", "split"]


@dataclass(frozen=True)
class Images:
    """``images`` uint8 [N, C, H, W] and ``labels`` int64 [N]."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """What a trial sees. ``mean`` and ``std`` are of the training images, per channel, in [0, 1]."""

    train: Images
    test: Images
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str


def load(spec: DataSpec) -> Dataset:
    """The data that a spec names, checked; the first ``train_size`` and ``test_size`` images of them.

    Raises:
        UserError: naming ``data.name``, or ``data.root`` and the file, or the size that asks for too many.
    """
    raw = _read(spec)
    mean, std = raw.mean, raw.std
    if mean is None or std is None:
        mean, std = statistics(raw.train.images)
    return Dataset(_tensors(raw.train), _tensors(raw.test), raw.classes, mean, std, spec.name)


def digest(spec: DataSpec) -> str:
    """16 hexadecimal digits that stand for the pixels and labels :func:`load` returns; raises as it does."""
    return _read(spec).digest()


def split(images: Images, val: float, seed: int) -> tuple[Images, Images]:
    """Training and validation images, each in the order they came in.

    round(val * N) are held out, every class in proportion, drawn by ``seed`` alone.

    Raises:
        UserError: one of the two would be empty.
    """
    import torch

    count = len(images.labels)
    wanted = round(val * count)
    if not 0 < wanted < count:
        raise UserError(
            f"data.val: a share of {val:g} of {count} images leaves none to train on or to judge by"
        )
    rows = torch.from_numpy(held_out(images.labels.numpy(), wanted, seed))
    return (
        Images(images.images[~rows], images.labels[~rows]),
        Images(images.images[rows], images.labels[rows]),
    )


def _read(spec: DataSpec) -> Raw:
    reader = DATASETS.get(spec.name, "data.name").build
    raw: Raw = reader(Path(spec.root) if spec.root else None)
    train = raw.train.first(spec.train_size, "data.train_size")
    test = raw.test.first(spec.test_size, "data.test_size")
    return Raw(train, test, raw.classes, raw.mean, raw.std)


def _tensors(part: Part) -> Images:
    import torch

    return Images(torch.from_numpy(part.images), torch.from_numpy(part.labels))

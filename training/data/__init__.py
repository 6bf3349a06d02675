"""Images by name: read, verified, split, and digested by their contents. Importing this costs NumPy, not torch.

A new data set is a function ``(root) -> Raw`` under ``@DATASETS.register(name)``, in a module that is imported here.
One that can be had in several sizes has a keyword ``size`` with a default (pixels of a side).

Training images are in memory (:class:`Images`), or stay in their files (:class:`Stream`) where ``data.augment`` is
``resized-crop``: every epoch then decodes them again. Test images and held-out ones are always in memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.data import cifar, digits, folders, hat_toy, idx, npz, svhn, tiny_imagenet
from training.data.extra import read_extra
from training.data.files import Files
from training.data.raw import DATASETS, Part, Raw, held_out, statistics
from training.errors import UserError
from training.spec import DataSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DATASETS",
    "Dataset",
    "Extra",
    "Images",
    "Stream",
    "cifar",
    "digest",
    "digits",
    "folders",
    "hat_toy",
    "idx",
    "load",
    "npz",
    "split",
    "svhn",
    "tiny_imagenet",
]

STREAMED = "resized-crop"  # the augmentation for which training images stay in their files
SAMPLE = 1000  # streamed images whose mean and deviation stand for all, where none are published


@dataclass(frozen=True)
class Extra:
    """``images`` uint8 [M, C, H, W] and ``labels`` int64 [M]; ``share`` of every minibatch is of them."""

    images: Tensor
    labels: Tensor
    share: float


class Images:
    """Images in memory, with their labels int64 [N].

    Args:
        images: uint8 [N, C, H, W], or the files that hold them.
        extra: what is mixed into them in training.
    """

    def __init__(self, images: Tensor | Files, labels: Tensor, extra: Extra | None = None) -> None:
        self._images, self.labels, self.extra = images, labels, extra

    @functools.cached_property
    def images(self) -> Tensor:
        """uint8 [N, C, H, W]. Files are decoded when this is first asked for; UserError when one cannot be."""
        return _tensor(self._images.read()) if isinstance(self._images, Files) else self._images


@dataclass(frozen=True)
class Stream:
    """Training images that stay in their files, with their labels int64 [N]."""

    images: Files
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """What a trial sees. ``mean`` and ``std`` are of the training images, per channel, in [0, 1]."""

    train: Images | Stream
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
    train = _train(raw, spec)
    if mean is None or std is None:
        some = Part(raw.train.images[:SAMPLE], raw.train.labels[:SAMPLE])
        mean, std = statistics(some.pixels() if isinstance(train, Stream) else train.images.numpy())
    test = raw.test.images
    images = Images(test if isinstance(test, Files) else _tensor(test), _tensor(raw.test.labels))
    return Dataset(train, images, raw.classes, mean, std, spec.name)


def digest(spec: DataSpec) -> str:
    """16 hexadecimal digits that stand for the pixels and labels :func:`load` returns; raises as it does.

    But for images that cannot be decoded, which only load finds, and of ImageNet only for names and sizes of its
    files: to read them all would take as long as an epoch.
    """
    return _read(spec).digest()


def split(images: Images | Stream, val: float, seed: int) -> tuple[Images | Stream, Images]:
    """Training and validation images, each in the order they came in.

    round(val * N) are held out, every class in proportion, drawn by ``seed`` alone. Extra images stay with the
    training images.

    Raises:
        UserError: one of the two would be empty.
    """
    count = len(images.labels)
    wanted = round(val * count)
    if not 0 < wanted < count:
        raise UserError(
            f"data.val: a share of {val:g} of {count} images leaves none to train on or to judge by"
        )
    held = held_out(images.labels.numpy(), wanted, seed)
    rows = _tensor(held)
    if isinstance(images, Stream):
        files, labels = images.images, images.labels
        return Stream(files[~held], labels[~rows]), Images(files[held], labels[rows])
    own = Images(images.images[~rows], images.labels[~rows], images.extra)
    return own, Images(images.images[rows], images.labels[rows])


def _read(spec: DataSpec) -> Raw:
    entry = DATASETS.get(spec.name, "data.name")
    if spec.size is not None and "size" not in entry.parameters:
        raise UserError(f"data.size: '{spec.name}' comes in one size")
    size = {} if spec.size is None else {"size": spec.size}
    raw: Raw = entry.build(Path(spec.root) if spec.root else None, **size)
    if spec.augment == STREAMED and not isinstance(raw.train.images, Files):
        raise UserError(
            f"data.augment: {STREAMED} is for images in files of their own, '{spec.name}' has none; take crop-flip"
        )
    extra = None
    if spec.extra is not None:
        if spec.augment == STREAMED:
            raise UserError(
                f"data.extra: {STREAMED} streams images from files, which extra images cannot join"
            )
        extra = read_extra(Path(spec.extra.path).expanduser(), raw.train.images.shape[1:], raw.classes)
    train = raw.train.first(spec.train_size, "data.train_size")
    test = raw.test.first(spec.test_size, "data.test_size")
    return replace(raw, train=train, test=test, extra=extra)


def _train(raw: Raw, spec: DataSpec) -> Images | Stream:
    labels = _tensor(raw.train.labels)
    if spec.augment == STREAMED:
        assert isinstance(raw.train.images, Files)
        return Stream(raw.train.images, labels)
    extra = None
    if raw.extra is not None:
        assert spec.extra is not None
        extra = Extra(_tensor(raw.extra.pixels()), _tensor(raw.extra.labels), spec.extra.share)
    return Images(_tensor(raw.train.pixels()), labels, extra)


def _tensor(array: NDArray[np.generic]) -> Tensor:
    import torch

    return torch.from_numpy(array)

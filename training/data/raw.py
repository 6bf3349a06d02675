"""Images as they lie on disk, checked: what every reader returns. NumPy only, so that a digest needs no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.files import Bytes, Files
from training.errors import UserError
from training.registry import Registry

DATASETS = Registry("data set")  # readers: see Reader

ROOT_VARIABLE = "PARAPET_DATA"  # where data lie when a spec has no data.root

_AT_ONCE = 4096  # images that statistics counts the levels of


@dataclass(frozen=True)
class Part:
    """``images`` uint8 [N, C, H, W], or files that hold such, and ``labels`` int64 [N]."""

    images: Bytes | Files
    labels: NDArray[np.int64]

    def first(self, count: int | None, field: str) -> Part:
        """The first ``count`` images (all when None); UserError naming ``field`` when there are fewer."""
        if count is None:
            return self
        if count > len(self.labels):
            raise UserError(f"{field}: {count} is more than the {len(self.labels)} images that there are")
        return Part(self.images[:count], self.labels[:count])

    def take(self, rows: NDArray[np.bool_]) -> Part:
        """The images where ``rows`` is true, in their order."""
        return Part(self.images[rows], self.labels[rows])

    def pixels(self) -> Bytes:
        """uint8 [N, C, H, W]: files are decoded. UserError naming the first that cannot be."""
        return self.images.read() if isinstance(self.images, Files) else self.images


@dataclass(frozen=True)
class Raw:
    """A data set as read. Without ``mean`` and ``std`` they are computed from the training images that are used.

    ``extra``: images that are mixed into the training images, of the same shape and classes.
    """

    train: Part
    test: Part
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    extra: Part | None = None

    def digest(self) -> str:
        """16 hexadecimal digits of SHA-256 over shapes, pixels and labels: equal however the files were packed.

        Of image files it digests names and contents (or sizes, see :class:`training.data.files.Files`) instead of
        pixels, which depend a little on who decodes them.
        """
        sha = hashlib.sha256(f"{self.classes}".encode())
        for part in (self.train, self.test, *([] if self.extra is None else [self.extra])):
            sha.update(f"{part.images.shape}".encode())
            if isinstance(part.images, Files):
                part.images.feed(sha.update)
            else:
                sha.update(np.ascontiguousarray(part.images).data)
            sha.update(np.ascontiguousarray(part.labels.astype("<i8")).data)
        return sha.hexdigest()[:16]


def checked(
    images: NDArray[np.generic], labels: NDArray[np.generic], classes: int | None, where: str
) -> Part:
    """A part, once its arrays are what they should be; ``where`` names the field and the file in messages.

    Args:
        images: uint8 [N, C, H, W] with one or three channels.
        labels: whole numbers [N], 0 <= label < classes; None: any that are not negative.

    Raises:
        UserError: wrong dtype, shape or count, or a label out of range.
    """
    if images.dtype != np.uint8:
        raise UserError(f"{where}: images must be uint8 (0 to 255), they are {images.dtype}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"{where}: images must be gray or of three channels, at least one of them; their shape is {images.shape}"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{where}: labels must be a row of whole numbers, they are {labels.dtype} of shape {labels.shape}"
        )
    if len(images) != len(labels):
        raise UserError(f"{where}: there are {len(images)} images but {len(labels)} labels")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        highest = "" if classes is None else f" to {classes - 1}"
        raise UserError(f"{where}: labels must be 0{highest or ' or more'}, they go from {low} to {high}")
    writable = images.astype(np.uint8, copy=not images.flags.writeable)  # torch wants to own what it wraps
    return Part(writable, labels.astype(np.int64))


def as_part(
    images: NDArray[np.generic], labels: NDArray[np.generic], classes: int | None, where: str
) -> Part:
    """:func:`checked` for images as NHWC, NCHW or NHW, and labels also as one column."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return checked(images, labels, classes, where)


def statistics(images: Bytes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in [0, 1], exact to rounding and equal on every machine.

    A channel that never changes gets a standard deviation of 1, so that normalising it is harmless.
    """
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), _AT_ONCE):  # bincount makes eight bytes of each
            counts += np.bincount(images[start : start + _AT_ONCE, channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ levels)
        std = float(np.sqrt(share @ (levels - mean) ** 2))
        means.append(mean)
        stds.append(std or 1.0)
    return tuple(means), tuple(stds)


def held_out(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.bool_]:
    """Which of the images to hold out: ``count`` of them, every class in proportion, drawn by ``seed``.

    Images get random 64-bit numbers, and the smallest of each class are held out. The numbers are Philox's raw
    output, which NumPy promises never to change; places left over by rounding go to the largest remainders,
    the lower class first.
    """
    _, of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    quota, remainder = np.divmod(sizes * count, len(labels))
    left_over = np.argsort(-remainder, kind="stable")[: count - quota.sum()]
    quota[left_over] += 1
    ticket = np.random.Philox(seed).random_raw(len(labels))
    order = np.lexsort((ticket, of))
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(rank < quota[of])


def folder_of(root: Path | None, name: str, what: str) -> Path:
    """``root``, or the folder that the environment variable PARAPET_DATA names; it must exist.

    ``what`` says what is expected there. Nothing is ever downloaded.
    """
    if root is None and os.environ.get(ROOT_VARIABLE):
        root = Path(os.environ[ROOT_VARIABLE])
    if root is None:
        raise UserError(
            f"data.root: '{name}' needs {what}, as data.root or {ROOT_VARIABLE}; nothing is downloaded"
        )
    root = root.expanduser()
    if not root.exists():
        raise UserError(f"data.root: {root} does not exist; '{name}' needs {what}, nothing is downloaded")
    return root


Reader = Callable[..., Raw]
"""``(root: Path | None) -> Raw``; where images come in any size ``(root: Path | None, *, size: int = 64) -> Raw``."""

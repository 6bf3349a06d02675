"""Image files that stand for an array: listed at once, decoded when their pixels are needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.data.torchvision_import import transforms
from training.errors import UserError

Bytes = NDArray[np.uint8]

GRAY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
SLOW = 5_000  # images; from so many on, people at a terminal are shown how far it is
_AT_ONCE = 64  # images that a thread decodes between two looks at whether to go on


@dataclass(frozen=True, eq=False)
class Files:
    """Images on disk, as if they were an array uint8 [N, C, H, W].

    Args:
        folder: what the names are relative to.
        names: of the files, str [N] (as objects), with slashes.
        image: C, H and W of every image. Gray images can be read as colour, but not the other way round.
        zoom: images are scaled (bilinear, antialiased) until the short side is ``zoom * H``, rounded, and H x W are
            cut from the middle (torchvision's Resize and CenterCrop). None: they must have that size already.
        by_contents: does a digest read the files? Else it goes by their names and sizes.
    """

    folder: Path
    names: NDArray[np.object_]
    image: tuple[int, int, int]
    zoom: float | None = None
    by_contents: bool = True

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of the array: N, C, H, W."""
        return (len(self.names), *self.image)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> Files:
        """The images of a slice, or where a mask is true; nothing is read."""
        return replace(self, names=self.names[rows])

    def path(self, row: int) -> str:
        """The file of one image."""
        return os.path.join(self.folder, self.names[row])

    def read(self) -> Bytes:
        """The pixels, uint8 [N, C, H, W], decoded on all cores that this process may use.

        Raises:
            UserError: naming the first file that is missing, no image, damaged, or of another size.
        """
        if self.zoom is not None:
            transforms()  # imported once, before threads meet there; a digest needs neither it nor torch
        images = np.empty(self.shape, np.uint8)
        starts = range(0, len(self), _AT_ONCE)
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))  # Pillow decodes and scales without the GIL
        try:
            with _progress(f"reading {self.folder}", len(self)) as advance:
                for count in pool.map(partial(self._read_some, images), starts):
                    advance(count)
        finally:
            pool.shutdown(cancel_futures=True)
        return images

    def feed(self, update: Callable[[bytes], object]) -> None:
        """Hand a digest everything that decides the pixels: names, sizes, and contents (see ``by_contents``)."""
        update(f"files {self.image} {self.zoom}".encode())
        for row, name in enumerate(self.names):
            file = self.path(row)
            try:
                content = Path(file).read_bytes() if self.by_contents else b""
                size = len(content) if self.by_contents else os.stat(file).st_size
            except OSError as error:
                raise _unreadable(file, error) from None
            update(os.fsencode(name) + f"\0{size}\0".encode())
            update(content)

    def _read_some(self, images: Bytes, start: int) -> int:
        rows = range(start, min(start + _AT_ONCE, len(self)))
        channels, height, width = self.image
        for row in rows:
            file = self.path(row)
            image = _fitted(opened(file, channels), height, width, self.zoom, file)
            pixels = np.asarray(image)
            images[row] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
        return len(rows)


def opened(file: str, channels: int | None = None) -> Image.Image:
    """The image in a file, decoded: of mode ``L`` (gray) or ``RGB``.

    Args:
        channels: 1 or 3, which gray images are then made to have as well; None: as many as the image has.

    Raises:
        UserError: the file is missing, no image, damaged, of more than 8 bits, or in colour where it should be gray.
    """
    try:
        with Image.open(file) as image:
            image.load()
    except UnidentifiedImageError:
        raise UserError(f"data.root: {file} is no image") from None
    except OSError as error:
        raise _unreadable(file, error) from None
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise UserError(f"data.root: {file} is a damaged image ({error})") from None
    if image.mode not in GRAY + COLOUR:
        raise UserError(f"data.root: {file} has more than 8 bits per channel (Pillow's mode {image.mode})")
    if image.mode in GRAY and channels != 3:
        return image.convert("L")
    if channels == 1:
        raise UserError(f"data.root: {file} is in colour, and the first image of the data set is gray")
    return image.convert("RGB")


def _fitted(image: Image.Image, height: int, width: int, zoom: float | None, file: str) -> Image.Image:
    if zoom is None:
        if image.size != (width, height):
            raise UserError(
                f"data.root: {file} has {image.width} x {image.height} pixels instead of {width} x {height};"
                " data.size scales images"
            )
        return image
    scale = transforms().functional
    fitted: Image.Image = scale.center_crop(scale.resize(image, round(zoom * height)), [height, width])
    return fitted


def _unreadable(file: str, error: OSError) -> UserError:
    if error.errno is not None:
        return UserError(f"data.root: {file} cannot be read: {error.strerror}")
    return UserError(f"data.root: {file} is truncated or damaged: {error}")


@contextmanager
def _progress(what: str, count: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error for what takes long; gives the function that moves it."""
    if count < SLOW or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=count)
        yield lambda done: bar.advance(task, done)

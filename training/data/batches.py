"""Minibatches: which images, in which order, and their pixels in [0, 1] on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from training.data import Extra, Images, Stream
from training.data.stream import Streamed
from training.errors import UserError

PAD = 4  # pixels on every side; a crop is of the original size


class Batches:
    """The training images of one epoch after the other, in full batches; a last short one is left out.

    Images in memory are held on the device as bytes. Images in files are decoded ahead by worker processes
    (:class:`training.data.stream.Streamed`), and only their batch is on the device.

    With extra images, every batch is round(B * (1 - share)) of the data set's own and extra ones after them. An epoch
    still has N // B steps, N the number of own images ("CIFAR-10-equivalent epochs", Gowal et al. 2020), so it sees a
    part of either; no image comes twice in it unless there are fewer than are needed, and then as evenly as can be.

    Args:
        data: images uint8 [N, C, H, W] and labels [N].
        batch_size: B.
        augment: of images in memory ``none``, or ``crop-flip``: pad by 4 black pixels, crop at random, mirror every
            second one. Of images in files: always a random part, scaled, and mirrored every second time.
        channels_last: the memory format of what :meth:`batch` returns.

    Raises:
        UserError: there are fewer images than one batch, or a batch has no room for own and extra images.
    """

    def __init__(
        self,
        data: Images | Stream,
        batch_size: int,
        device: torch.device | str,
        augment: str,
        channels_last: bool = False,
    ) -> None:
        self.count = len(data.labels)
        if batch_size > self.count:
            raise UserError(
                f"train.batch_size: {batch_size} is more than the {self.count} images to train on"
                " (what data.val holds out is not among them)"
            )
        self.batch_size = batch_size
        self.form = torch.channels_last if channels_last else torch.contiguous_format
        self.labels = data.labels.to(device)
        self.extra: Extra | None = None
        self.pixels: _Held | Streamed
        if isinstance(data, Stream):
            self.pixels = Streamed(data.images, batch_size, device)
            return
        images = data.images
        if data.extra is not None:
            self.extra = data.extra
            self.own = _own(batch_size, data.extra.share)
            images = torch.cat([images, data.extra.images])
            self.labels = torch.cat([self.labels, data.extra.labels.to(device)])
        self.pixels = _Held(images.to(device), batch_size, augment)

    @property
    def images(self) -> Tensor:
        """Bytes on the device, of images in memory: own and then extra ones, with a margin if they are cropped."""
        assert isinstance(self.pixels, _Held), "images in files are never all there"
        return self.pixels.images

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.count // self.batch_size

    def order(self, generator: torch.Generator) -> Tensor:
        """The images of an epoch, B after B: a permutation [N], or with extra images [len(self) * B].

        It is on the device, or on the CPU where images are in files; drawn on the generator's, so give it a CPU one.
        """
        if self.extra is None:
            order = torch.randperm(self.count, generator=generator, device=generator.device)
        else:
            own = _rows(self.count, len(self) * self.own, generator).view(len(self), -1)
            many = len(self) * (self.batch_size - self.own)
            extra = _rows(len(self.extra.labels), many, generator).view(len(self), -1) + self.count
            order = torch.cat([own, extra], dim=1).flatten()
        return order if isinstance(self.pixels, Streamed) else order.to(self.labels.device)

    def batch(self, order: Tensor, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, H, W] in [0, 1] and labels [B] of one step.

        Args:
            order: from :meth:`order`.
            step: 0 <= step < len(self).
            generator: on the images' device; draws the crops and the mirroring of images in memory.
        """
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        x = self.pixels.batch(order, step, generator).contiguous(memory_format=self.form)
        return x.float().div_(255), self.labels.index_select(0, rows.to(self.labels.device))


class _Held:
    """Images [N, C, H, W] on a device as bytes."""

    def __init__(self, images: Tensor, batch_size: int, augment: str) -> None:
        assert augment in ("none", "crop-flip"), augment
        self.images, self.batch_size = images, batch_size
        self.crops: Tensor | None = None
        if augment == "crop-flip":
            height, width = images.shape[2:]
            self.images = pad(images, (PAD, PAD, PAD, PAD))
            self.crops = self.images.unfold(2, height, 1).unfold(3, width, 1)  # a view: [N, C, 9, 9, H, W]

    def batch(self, order: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """Bytes [B, C, H, W] of one step, every image cropped and mirrored on its own, in one gather."""
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        if self.crops is None:
            return self.images.index_select(0, rows)
        device, count = rows.device, len(rows)
        down, right = torch.randint(2 * PAD + 1, (2, count), generator=generator, device=device)
        mirror = torch.randint(
            2, (count, 1, 1, 1), generator=generator, device=device, dtype=self.images.dtype
        )
        x = self.crops[rows, :, down, right]
        # x + mirror * (mirrored - x): bytes wrap around, so it is exact, and five times as fast as torch.where
        return x.flip(3).sub_(x).mul_(mirror).add_(x)


def _own(batch_size: int, share: float) -> int:
    """How many images of a batch are the data set's own."""
    own = round(batch_size * (1 - share))
    if not 0 < own < batch_size:
        raise UserError(
            f"data.extra.share: a batch of {batch_size} with a share of {share:g} has {own} images of the data set's"
            f" own and {batch_size - own} extra ones; give it some of both"
        )
    return own


def _rows(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """``wanted`` of ``count`` rows: a permutation's first ones, or as many permutations as it takes."""
    drawn = [torch.randperm(count, generator=generator) for _ in range(-(-wanted // count))]
    return torch.cat(drawn)[:wanted]

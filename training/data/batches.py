"""Training images on the device as bytes, and minibatches of them, cropped and flipped there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from training.data import Images
from training.errors import UserError

PAD = 4  # pixels on every side; a crop is of the original size


class Batches:
    """The images of one epoch after the other, in full batches; a last short one is left out.

    Args:
        data: images uint8 [N, C, H, W] and labels [N].
        batch_size: B.
        augment: ``none``, or ``crop-flip``: pad by 4 black pixels, crop at random, mirror every second one.
        channels_last: the memory format of what :meth:`batch` returns.

    Raises:
        UserError: there are fewer images than one batch.
    """

    def __init__(
        self,
        data: Images,
        batch_size: int,
        device: torch.device | str,
        augment: str,
        channels_last: bool = False,
    ) -> None:
        if batch_size > len(data.labels):
            raise UserError(
                f"train.batch_size: {batch_size} is more than the {len(data.labels)} images to train on"
                " (what data.val holds out is not among them)"
            )
        assert augment in ("none", "crop-flip"), augment
        images = data.images.to(device)
        self.batch_size = batch_size
        self.labels = data.labels.to(device)
        self.form = torch.channels_last if channels_last else torch.contiguous_format
        self.images = images
        self.crops: Tensor | None = None
        if augment == "crop-flip":
            height, width = images.shape[2:]
            self.images = pad(images, (PAD, PAD, PAD, PAD))
            self.crops = self.images.unfold(2, height, 1).unfold(3, width, 1)  # a view: [N, C, 9, 9, H, W]

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.labels) // self.batch_size

    def order(self, generator: torch.Generator) -> Tensor:
        """A permutation [N] of the images, on the device. Drawn on the generator's, so give it a CPU one."""
        order = torch.randperm(len(self.labels), generator=generator, device=generator.device)
        return order.to(self.labels.device)

    def batch(self, order: Tensor, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, H, W] in [0, 1] and labels [B] of one step.

        Args:
            order: from :meth:`order`.
            step: 0 <= step < len(self).
            generator: on the images' device; draws the crops and the mirroring.
        """
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        x = self.images.index_select(0, rows) if self.crops is None else self._augmented(rows, generator)
        x = x.contiguous(memory_format=self.form)
        return x.float().div_(255), self.labels.index_select(0, rows)

    def _augmented(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Bytes [B, C, H, W], every image cropped and mirrored on its own, in one gather."""
        assert self.crops is not None
        device, count = rows.device, len(rows)
        down, right = torch.randint(2 * PAD + 1, (2, count), generator=generator, device=device)
        mirror = torch.randint(
            2, (count, 1, 1, 1), generator=generator, device=device, dtype=self.images.dtype
        )
        x = self.crops[rows, :, down, right]
        # x + mirror * (mirrored - x): bytes wrap around, so it is exact, and five times as fast as torch.where
        return x.flip(3).sub_(x).mul_(mirror).add_(x)

"""How an epoch is judged: clean and PGD accuracy on held-out images.

PGD-20 on cross-entropy from a uniform start, steps of eps / 4, unless the spec says otherwise (Rice et al. 2020 select
this way).
"""

from __future__ import annotations

import torch
from torch import nn

from training.batchnorm import searching
from training.data import Images
from training.errors import Diverged
from training.randomness import seed_of
from training.spec import TrialSpec
from training.stages import PGD
from training.terms import CE, Margin
from training.threat import ball
from training.views import Forward, Moment, Views

BATCH = 512


class Judge:
    """Measures a network on the images that selection looks at."""

    def __init__(
        self, spec: TrialSpec, held_out: Images, classes: int, device: torch.device, forward: Forward
    ) -> None:
        self.seed, self.forward, self.device = seed_of(spec.seed, "validation"), forward, device
        self.images = held_out.images.to(device)
        self.labels = held_out.labels.to(device)
        self.classes = classes
        self.form = torch.channels_last if spec.train.channels_last else torch.contiguous_format
        goal = CE("adv") if spec.train.validate_loss == "ce" else Margin("adv")
        steps = spec.train.validate_steps
        self.search = PGD(ball(spec.attack), goal, steps, spec.attack.eps / 4, "uniform", "eval")

    def __call__(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """``val/clean`` and ``val/robust``: shares of held-out images that the network gets right, in [0, 1].

        Raises Diverged when it answers an image with something that is no finite number.
        """
        broken = torch.zeros((), device=self.device)
        clean = torch.zeros((), device=self.device)
        robust = torch.zeros((), device=self.device)
        with searching(network, "eval"):
            for i, (images, labels) in enumerate(
                zip(torch.split(self.images, BATCH), torch.split(self.labels, BATCH), strict=True)
            ):
                x = images.float().div(255).contiguous(memory_format=self.form)
                label = torch.nn.functional.one_hot(labels, self.classes).to(x.dtype)
                now = Moment(epoch, i, len(self.images), epoch + 1)
                views = Views(
                    {"student": network}, {"clean": x}, {"label": label}, now, self.forward, self.seed
                )
                with torch.no_grad():
                    right = views.logits("clean").argmax(1) == labels
                    clean += right.sum()
                    broken += (~views.logits("clean").isfinite()).sum()
                views = self.search(views)
                with torch.no_grad():
                    robust += (right & (views.logits("adv").argmax(1) == labels)).sum()
        if float(broken):
            raise Diverged(f"the network's answers stopped being finite numbers in epoch {epoch}")
        count = len(self.labels)
        return {"val/clean": float(clean) / count, "val/robust": float(robust) / count}

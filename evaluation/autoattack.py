"""AutoAttack (Croce and Hein 2020) through ``pyautoattack``, one member at a time.

The standard ensemble is APGD-CE, APGD-T, FAB-T and Square, with one restart each, 100 iterations, up to nine target
classes and 5,000 queries. The library seeds the generator anew for every batch (here with 0), so verdicts depend on
the batches: their size belongs to the evaluation's digest.

With fewer than ten classes the targeted members take every other class as a target. APGD-T's loss, a ratio of
differences of the four greatest logits, needs four classes; with two or three only APGD-CE and Square are run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.spec import AttackSpec

MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square")  # in the order of the standard ensemble
TARGETED = ("apgd-t", "fab-t")
TARGETS = 9  # classes other than the label that the standard ensemble aims at


def members(classes: int) -> tuple[str, ...]:
    """The members that a network with so many classes can be attacked with, in order."""
    return MEMBERS if classes > 3 else tuple(name for name in MEMBERS if name not in TARGETED)


@dataclass(frozen=True)
class Member:
    """One member of the standard ensemble against one network with ``classes`` classes."""

    name: str
    threat: AttackSpec
    classes: int
    seed: int = 0

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Adversarial images for ``x`` [N, C, H, W], as one batch; ``x`` itself where none was found."""
        from pyautoattack import AutoAttack

        norm = {"linf": "Linf", "l2": "L2"}[self.threat.norm]
        ensemble = AutoAttack(network, norm=norm, eps=self.threat.eps, seed=self.seed, device=x.device)
        ensemble.attacks_to_run = [self.name]
        targets = min(TARGETS, self.classes - 1)
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
        with _undisturbed(x.device):
            x_adv, _ = ensemble.run_standard_evaluation(x, labels, batch_size=len(x))
        found: Tensor = x_adv
        return found


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Gives back what the library takes: the state of torch's generators, and Python's trace function."""
    trace = sys.gettrace()
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        sys.settrace(trace)

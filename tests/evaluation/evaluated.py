"""An evaluation of a small network, in this process: metrics, and the outcome as it was written."""

from __future__ import annotations

from pathlib import Path

import torch
from small_digits import Pair
from torch import nn

from evaluation import outcomes, run
from evaluation.outcomes import Outcome
from evaluation.spec import EvaluationSpec
from training.spec import AttackSpec

CPU = torch.device("cpu")
Trained = tuple[nn.Module, Pair]


def evaluate(
    network: nn.Module,
    test: Pair,
    file: Path,
    attacks: tuple[str, ...],
    *,
    eps: float = 0.1,
    norm: str = "linf",
    tell: run.Tell = lambda attack, done, of: None,
    stop: run.Stop = lambda: None,
    seed: int = 0,
    **spec: float,
) -> tuple[dict[str, float], Outcome]:
    wanted = EvaluationSpec(attacks=attacks, **spec)
    threat = AttackSpec(norm=norm, eps=eps)
    metrics = run.evaluate(
        network, test, wanted, threat, key="k", outcome=file, device=CPU, seed=seed, tell=tell, stop=stop
    )
    return metrics, outcomes.read(file)

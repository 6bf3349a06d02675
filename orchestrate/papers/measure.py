"""What a run has for a column of a sheet, read from its per-image outcomes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evaluation.scales import UNSCALED
from evaluation.spec import EvaluationSpec
from orchestrate.papers.images import DATA
from orchestrate.papers.sheet import Column
from training.spec import TrialSpec

if TYPE_CHECKING:
    from evaluation.outcomes import Outcome

Mask = npt.NDArray[np.bool_]
ALONE = ("pgd", "autoattack")  # attacks whose column speaks of themselves, whatever else was run


@dataclass(frozen=True)
class Measured:
    """One number of one run, in %. ``whole``: on all test images of the row's data set."""

    value: float
    images: int
    whole: bool


def measure(
    outcomes: Iterable[Outcome], column: Column, checkpoint: str, trained: TrialSpec, scaled: bool
) -> Measured | None:
    """A column's number, on as many images as there are; None where nothing was evaluated so.

    Args:
        checkpoint: the one that the column is of when it does not say.
        trained: the row's resolved spec; only outcomes in its threat model count, unless the run is ``scaled`` down.
    """
    if column.not_yet:
        return None
    wanted = column.evaluation(checkpoint)
    found = []
    for outcome in outcomes:
        spec = EvaluationSpec.model_validate(outcome.facts["spec"])
        if spec.checkpoint != (column.checkpoint or checkpoint):
            continue
        threat = outcome.facts["threat"]
        same = threat["norm"] == trained.attack.norm and math.isclose(threat["eps"], trained.attack.eps)
        right = _right(outcome, spec, wanted) if wanted is None or same or scaled else None
        if right is not None:
            data = DATA.get(trained.data.name)
            whole = spec.images is None and (data is None or len(right) == data.test)
            found.append(Measured(100 * float(np.mean(right)), len(right), whole))
    return max(found, key=lambda one: one.images) if found else None


def _right(outcome: Outcome, spec: EvaluationSpec, wanted: EvaluationSpec | None) -> Mask | None:
    """Which images are right as the column means it; None where the outcome does not tell."""
    if wanted is None:
        return outcome.columns["correct"]
    eps = outcome.facts["threat"]["eps"]
    if "pgd" in wanted.attacks and _strength(spec, eps) != _strength(wanted, eps):
        return None
    if spec.attacks == wanted.attacks:
        return outcome.columns["robust"]
    if len(wanted.attacks) > 1 or wanted.attacks[0] not in ALONE or wanted.attacks[0] not in spec.attacks:
        return None
    right = outcome.columns["correct"]
    for ending in ("", UNSCALED):  # a hypersphere network must stand at both scales
        right = right & outcome.columns.get(f"{wanted.attacks[0]}{ending}", right)
    return right


def _strength(spec: EvaluationSpec, eps: float) -> tuple[int, float, int]:
    step = eps / 4 if spec.pgd_step_size is None else spec.pgd_step_size
    return spec.pgd_steps, round(step, 9), spec.pgd_restarts

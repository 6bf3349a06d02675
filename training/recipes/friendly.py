"""Friendly adversarial training: searches that end soon after an image is misclassified (Zhang et al. 2020)."""

from __future__ import annotations

import dataclasses

from training.annealing import Weight, annealed
from training.method import Method
from training.recipes.base import MODIFIERS, refuse, searches, with_searches
from training.stages import PGD
from training.terms import CE, objective


@MODIFIERS.register("fat", source="Zhang et al. 2020, Algorithm 1 and Sec. 5; schedules of its program")
def friendly(method: Method, *, tau: Weight | None = None) -> Method:
    """Each image moves at most ``tau`` times after it was first misclassified.

    With tau at the number of steps it is PGD. Unless given, tau grows as in the published programs, whose epochs are
    taken as shares of all: 0, 1, 2 from 0, 50/120 and 90/120 on where the search increases a cross-entropy; 0, 1, 2, 3
    from 0, 30/85, 50/85 and 70/85 on elsewhere. The start is clipped to [0, 1], as there.
    """
    found = searches(method)
    if not found:
        raise refuse("fat", "ends PGD searches early, and this method has none")
    if all(search.steps == 1 for search in found):
        raise refuse("fat", "a search of one step cannot end early")

    def changed(search: PGD) -> PGD:
        by_label = any(isinstance(term, CE) for term in objective(search.objective).named)
        given = (BY_LABEL if by_label else BY_PREDICTION) if tau is None else tau
        return dataclasses.replace(search, patience=annealed(given), clip_start=True)

    return with_searches(method, changed)


BY_LABEL = {"steps": [[0, 0], [50 / 120, 1], [90 / 120, 2]]}
BY_PREDICTION = {"steps": [[0, 0], [30 / 85, 1], [50 / 85, 2], [70 / 85, 3]]}

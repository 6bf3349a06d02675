"""Weight averaging, label smoothing and trained starts: what any method can be given."""

from __future__ import annotations

import dataclasses
from typing import Literal

from training.guides import Average, Helper
from training.method import Method
from training.recipes.base import MODIFIERS, RECIPES, Share, refuse, retargeted, with_searches
from training.stages import Smooth

Statistics = Literal["average", "copy"]


@MODIFIERS.register("wa", source="Izmailov et al. 2018; decay and warm-up as in Gowal et al. 2021")
def averaged(
    method: Method, *, decay: Share = 0.995, warmup: bool = False, statistics: Statistics = "average"
) -> Method:
    """Evaluate an exponential moving average of the weights. With ADR it is ADR's own teacher that is evaluated."""
    average = Average(decay, warmup, statistics)
    teacher = method.guides.get("average", average)
    if teacher != average:
        raise refuse(
            "wa",
            f"the method averages already, as {teacher!r}; give wa the same decay, or leave it out there",
        )
    return dataclasses.replace(method, guides={**method.guides, "average": average}, evaluate="average")


@MODIFIERS.register("label-smoothing", source="Szegedy et al. 2016, Sec. 7; Pang et al. 2021")
def smoothed(
    method: Method, *, amount: Share = 0.1, where: Literal["everywhere", "loss", "clean"] = "loss"
) -> Method:
    """Spread ``amount`` of each label evenly over all classes.

    In the ``loss``; in its cross-entropy on ``clean`` images only (HAT's large recipe); or ``everywhere``, in the
    search too, which is ADR at infinite temperature.
    """
    loss = method.objective
    if where == "clean":
        loss = loss.map(
            lambda term: retargeted(term, "label", "smooth").terms[0][1] if "clean" in term.reads else term
        )
    else:
        loss = retargeted(loss, "label", "smooth")
    if loss == method.objective:
        raise refuse(
            "label-smoothing", f"there is no cross-entropy against the label to smooth in {method.formula}"
        )
    smooth = dataclasses.replace(method, stages=(Smooth(amount), *method.stages), objective=loss)
    if where != "everywhere":
        return smooth
    return with_searches(
        smooth,
        lambda search: dataclasses.replace(search, objective=retargeted(search.objective, "label", "smooth")),
    )


@MODIFIERS.register("pretrained", source="Wu et al. 2024, App. L, Table 9")
def pretrained(method: Method, *, by: str = "standard") -> Method:
    """Start from a network trained before: a trial of its own by this method, or ``helpers: {start: ...}``."""
    if RECIPES.get(by, "method.with.pretrained.by").helpers:
        raise refuse(
            "pretrained.by",
            f"'{by}' needs a helper itself; give its trained network as helpers: {{start: ...}}",
        )
    return dataclasses.replace(method, start=Helper("start", by))

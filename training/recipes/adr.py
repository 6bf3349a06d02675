"""Annealing self-distillation rectification (Wu et al. 2024)."""

from __future__ import annotations

import dataclasses

from training.annealing import Ratio, Temperature, annealed
from training.batchnorm import BatchNormMode
from training.guides import Average
from training.method import Method
from training.misclassified import RunnerUp, WeightedKL
from training.recipes.base import MODIFIERS, Share, refuse, retargeted, searches
from training.stages import PGD, Rectify, Stage
from training.terms import CE, objective


@MODIFIERS.register("adr", source="Wu et al. 2024, Eqs. 3 to 5 and Algorithm 1")
def adr(
    method: Method,
    *,
    tau: Temperature = {"cosine": [2.5, 2.0]},  # noqa: B006  a default of a spec: read, never changed
    ratio: Ratio = {"cosine": [0.7, 0.95]},  # noqa: B006
    decay: Share = 0.995,
    batchnorm: BatchNormMode = "train-tracked",
) -> Method:
    """Labels softened by an average of the student, in the search and in the loss (``ratio`` is the paper's lambda).

    The defaults are CIFAR-10's. As in the published program the search keeps moving running statistics, and on TRADES
    it starts at x + 0.001 U[0, 1) and the loss forwards clean and adversarial images as one batch; there only the clean
    cross-entropy reads the label.
    """
    if not searches(method):
        raise refuse(
            "adr", "rectifies the labels of a PGD search and its loss, and this method has no such search"
        )
    if any(isinstance(term, (RunnerUp, WeightedKL)) for term in objective(method.objective).named):
        raise refuse("adr", "MART asks which images are misclassified, which a softened label does not say")
    if "natural" in method.guides:
        raise refuse(
            "adr", "the label is the natural network's alone here, which the student's average does not know"
        )
    if "average" in method.guides and method.guides["average"] != Average(decay):
        raise refuse("adr", "the method averages with another decay already; give both the same")
    loss = retargeted(method.objective, "label", "rectified")
    if loss == method.objective:
        raise refuse("adr", f"there is no cross-entropy against the label to rectify in {method.formula}")
    by_label = any(
        isinstance(term, CE) for search in searches(method) for term in objective(search.objective).named
    )

    def changed(stage: Stage) -> Stage:
        if not isinstance(stage, PGD):
            return stage
        goal = retargeted(stage.objective, "label", "rectified")
        start = stage.start if by_label else "positive"
        return dataclasses.replace(stage, objective=goal, batchnorm=batchnorm, start=start)

    return dataclasses.replace(
        method,
        stages=(Rectify(annealed(tau), annealed(ratio)), *map(changed, method.stages)),
        objective=loss,
        guides={**method.guides, "average": Average(decay)},
        together=method.together if by_label else (("clean", "adv"),),
    )

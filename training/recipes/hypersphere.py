"""Hypersphere embedding (Pang et al. 2020): logits from angles, with a margin in training."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from training.guides import Frozen, Joint, Shared
from training.method import Method
from training.models.heads import Head, Weights
from training.recipes.base import MODIFIERS, Positive, refuse
from training.terms import CE, MSE, At, Term

Gap = Annotated[float, Field(ge=0, le=3.2)]


@MODIFIERS.register("he", source="Pang et al. 2020, Eqs. 4 to 6 and Table 1")
def hypersphere(
    method: Method,
    *,
    scale: Positive | None = None,
    margin: Gap = 0.2,
    features: bool = True,
    weights: Weights = "project",
    angle: bool = False,
) -> Method:
    """Normalise features (FN) and class weights (WN), multiply by ``scale``, and ask for an angular margin (AM).

    Each can be had on its own: ``features: false``, ``weights: free``, ``margin: 0``. The scale is in search and loss,
    the margin in training's cross-entropies only (of logits, where they are no cosines), and ALP's pairing is of
    cosines. ``scale`` is 15 unless given, 1 where features are not normalised (the paper does not say; logits are
    bounded by nothing then).
    """
    if not features and weights == "free" and not margin:
        raise refuse(
            "he", "with neither features nor weights normalised and no margin, there is nothing left of it"
        )
    if angle and (not features or weights == "free"):
        raise refuse("he.angle", "an angle needs features and weights both normalised")
    _expect_a_free_student("he", method)
    factor = (15.0 if features else 1.0) if scale is None else scale

    def changed(term: Term) -> Term:
        if isinstance(term, CE) and _students(term.at):
            return dataclasses.replace(term, margin=factor * margin)
        if isinstance(term, MSE) and _students(term.a) and _students(term.b):
            return dataclasses.replace(term, scale=factor)
        return term

    head = Head(factor, features, weights, angle)
    return dataclasses.replace(method, objective=method.objective.map(changed), head=head)


@MODIFIERS.register("m-he", source="Pang et al. 2020, Sec. 3.5")
def modified(
    method: Method,
    *,
    scale: Positive = 15.0,
    margin: Gap = 0.1,
    weights: Literal["project", "differentiate"] = "project",
) -> Method:
    """Hypersphere embedding with minus the angle in place of its cosine, which keeps a slope far from the boundary."""
    _expect_a_free_student("m-he", method)
    embedded: Method = hypersphere(method, scale=scale, margin=margin, weights=weights, angle=True)
    return embedded


def _expect_a_free_student(name: str, method: Method) -> None:
    """Raise UserError where the student's last layer is not free to become a hypersphere."""
    if any(
        isinstance(guide, (Joint, Shared)) or (isinstance(guide, Frozen) and guide_name == "natural")
        for guide_name, guide in method.guides.items()
    ):
        raise refuse(
            name,
            "the natural network's logits have no bound, so the student's, s times a cosine, cannot follow them",
        )
    if method.head is not None:
        raise refuse(name, "the method has a hypersphere head already")


def _students(at: At) -> bool:
    return isinstance(at, str) or at[1] == "student"

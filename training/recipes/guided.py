"""Boundary-guided adversarial training, with a frozen (BGAT) or a learnt (LBGAT) natural network (Cui et al. 2021)."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field

from training.annealing import Weight
from training.batchnorm import BatchNormMode
from training.errors import UserError
from training.guides import Frozen, Guide, Helper, Joint, Shared
from training.method import Method
from training.misclassified import RunnerUp, WeightedKL
from training.models import MODELS
from training.recipes.base import MODIFIERS, RECIPES, Threat, refuse, searches
from training.recipes.baselines import trades
from training.terms import CE, KL, MSE, Objective, objective

Guidance = Literal["mse", "kl"]
NATURAL = ("clean", "natural")


@MODIFIERS.register("lbgat", source="Cui et al. 2021, Eq. 3 and Algorithm 1")
def learnt(
    method: Method,
    *,
    guidance: Guidance = "mse",
    student_ce: bool = False,
    shared: bool = False,
    model: str | None = None,
    parameters: dict[str, Any] | None = None,
) -> Method:
    """In place of its cross-entropy, the student's adversarial logits follow a natural network trained beside it.

    The gradient flows into both; the natural network has the cross-entropy, and stays in train mode. ``model`` (with
    its ``parameters``) is its architecture, the student's own unless given; the paper's is lbgat-resnet18.
    ``shared``: it shares the student's weights and has a BatchNorm of its own (Table 2). ``student_ce`` keeps the
    student's cross-entropy on adversarial images (Table 1).
    """
    guide = _natural("method.with.lbgat", shared, model, parameters or {})
    return _guided(method, "lbgat", guidance, student_ce, guide, objective(CE(NATURAL)))


@MODIFIERS.register("bgat", source="Cui et al. 2021, Eq. 2")
def frozen(
    method: Method,
    *,
    guidance: Guidance = "mse",
    student_ce: bool = False,
    networks: Annotated[int, Field(ge=1, le=9)] = 1,
) -> Method:
    """In place of its cross-entropy, the student's adversarial logits follow those of trained, frozen natural networks.

    ``networks`` of them, their logits averaged: helpers ``natural``, ``natural-2``, ... (standard training with seeds
    0, 1, ... unless given; the paper's are a WideResNet and an InceptionResNetV2).
    """
    names = ["natural", *(f"natural-{n}" for n in range(2, networks + 1))]
    helpers = tuple(Helper(name, "standard", seed) for seed, name in enumerate(names))
    return _guided(method, "bgat", guidance, student_ce, Frozen(helpers), None)


@RECIPES.register("lbgat", source="Cui et al. 2021, Sec. 3.4 and Table 4")
def lbgat(
    threat: Threat,
    *,
    beta: Weight = 0.0,
    guidance: Guidance = "mse",
    student_ce: bool = False,
    shared: bool = False,
    model: str | None = None,
    parameters: dict[str, Any] | None = None,
    batchnorm: BatchNormMode = "eval",
) -> Method:
    """LBGAT on TRADES (trades+lbgat): its search is TRADES' also at beta 0. ``beta`` is the paper's alpha."""
    guide = _natural("method", shared, model, parameters or {})
    return _guided(
        trades(threat, beta=beta, batchnorm=batchnorm),
        "lbgat",
        guidance,
        student_ce,
        guide,
        objective(CE(NATURAL)),
    )


def _natural(where: str, shared: bool, model: str | None, parameters: dict[str, Any]) -> Guide:
    """The natural network that is trained beside the student. UserError, naming ``where``, for what there is not."""
    if shared and (model or parameters):
        raise UserError(
            f"{where}.shared: a network that shares the student's weights has no model of its own"
        )
    if shared:
        return Shared()
    if model is None and parameters:
        raise UserError(f"{where}.parameters: are those of a model; name it too, as {where}.model")
    if model is not None:
        MODELS.get(model, f"{where}.model").resolve(parameters, f"{where}.parameters")
    return Joint(model, parameters)


def _guided(
    method: Method, name: str, guidance: Guidance, student_ce: bool, guide: Guide, natural: Objective | None
) -> Method:
    points = [search.point for search in searches(method)]
    if not points:
        raise refuse(
            name, "guides the adversarial logits that a PGD search finds, and this method has no such search"
        )
    if points != ["adv"]:
        raise refuse(
            name, "guides one adversarial point; write two-neighbours after it, which doubles that too"
        )
    if any(isinstance(term, (RunnerUp, WeightedKL)) for term in method.objective.named):
        raise refuse(name, "MART's boost belongs to the cross-entropy that guidance replaces")
    if "natural" in method.guides:
        raise refuse(name, "the method has a natural network already")
    if method.head is not None:
        raise refuse(
            name, "the natural network's logits have no bound, so a hypersphere student cannot follow them"
        )
    own = [t for _, t in method.objective.terms if isinstance(t, CE) and t.target == "label"]
    if not own:
        raise refuse(name, f"there is no cross-entropy against the label to replace in {method.formula}")
    follow = MSE("adv", NATURAL) if guidance == "mse" else KL("adv", NATURAL)
    loss = objective(follow)
    if natural is not None:
        loss = loss + natural
    if student_ce:
        loss = loss + CE("adv")
    rest = Objective(tuple((w, t) for w, t in method.objective.terms if t not in own)).without_idle()
    if rest.terms:
        loss = loss + rest
    return dataclasses.replace(method, objective=loss, guides={**method.guides, "natural": guide})

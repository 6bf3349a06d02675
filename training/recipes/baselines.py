"""The methods that the five papers start from or compare with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from training.annealing import Weight, annealed
from training.batchnorm import BatchNormMode
from training.divergences import Divergence
from training.method import Method
from training.misclassified import RunnerUp, WeightedKL
from training.recipes.base import RECIPES, Positive, Threat
from training.stages import Again, Free
from training.terms import CE, KL, MSE, objective

Regulariser = Literal["kl", "symmetric-kl", "js", "l2"]
Part = Annotated[float, Field(ge=0, le=1)]
RandomStart = Literal["gaussian", "uniform"]


@RECIPES.register("standard", source="plain training on clean images")
def standard(threat: Threat) -> Method:
    """Cross-entropy on clean images; its best epoch is the most accurate one."""
    return Method((), objective(CE("clean")), select="clean")


@RECIPES.register("pgd-at", source="Madry et al. 2018, Eq. 2.1")
def pgd_at(threat: Threat, *, start: RandomStart = "uniform", batchnorm: BatchNormMode = "eval") -> Method:
    """Cross-entropy on the images that PGD finds from a uniform start."""
    return Method((threat.search(CE("adv"), start, batchnorm),), objective(CE("adv")))


@RECIPES.register("trades", source="Zhang et al. 2019, Eq. 5; other regularisers: Li et al. 2023, Fig. 6")
def trades(
    threat: Threat,
    *,
    beta: Weight = 6.0,
    regulariser: Regulariser = "kl",
    start: RandomStart = "gaussian",
    batchnorm: BatchNormMode = "eval",
    clean_twice: bool = False,
) -> Method:
    """Cross-entropy on clean images, and beta times how far the prediction moves within the ball.

    The regulariser is what the search increases, too. Differs from the published code in forwarding the clean batch
    once per step in train mode; with ``clean_twice`` it is forwarded again after the adversarial one, as there.
    """
    search = threat.search(_moved(regulariser, "clean"), start, batchnorm)
    if not clean_twice:
        return Method((search,), CE("clean") + annealed(beta) * _moved(regulariser, "clean"))
    moved = _moved(regulariser, "again", adv_first=True)
    return Method((search, Again()), CE("clean") + annealed(beta) * moved)


def _moved(regulariser: Regulariser, clean: str, adv_first: bool = False) -> KL | Divergence:
    if regulariser == "kl":
        return KL("adv", clean, adv_first)
    return Divergence(regulariser, "adv", clean, adv_first)


@RECIPES.register("mart", source="Wang et al. 2020, Eqs. 8 to 11")
def mart(threat: Threat, *, beta: Weight = 5.0, batchnorm: BatchNormMode = "eval") -> Method:
    """Cross-entropy with a boost against the runner-up, and a KL weighed by how wrong the clean prediction is."""
    search = threat.search(CE("adv"), "gaussian", batchnorm)
    boosted = CE("adv") + RunnerUp("adv")
    return Method(
        (search,), annealed(beta) * WeightedKL("adv", "clean") + boosted
    )  # clean is forwarded first


@RECIPES.register("alp", source="Kannan et al. 2018; as in Pang et al. 2020, Table 1")
def alp(
    threat: Threat, *, clean: Part = 0.5, pairing: Weight = 0.5, batchnorm: BatchNormMode = "eval"
) -> Method:
    """Cross-entropy on clean (share ``clean``) and adversarial images, and how far their logits are apart.

    LBGAT compares with ``clean`` 0 and ``pairing`` 1. The pairing is the mean squared difference, as in the published
    programs; Pang et al.'s Table 1 prints its root.
    """
    search = threat.search(CE("adv"), "gaussian", batchnorm)
    loss = clean * CE("clean") + (1 - clean) * CE("adv") + annealed(pairing) * MSE("adv", "clean")
    return Method((search,), loss)


@RECIPES.register("free-at", source="Shafahi et al. 2019, Algorithm 1")
def free_at(
    threat: Threat,
    *,
    replays: Annotated[int, Field(ge=1, le=64)] = 8,
    step: Positive = 1.0,
    clip: Literal["point", "noise"] = "point",
) -> Method:
    """Adversarial training at the price of plain training: each backward moves the weights and the noise.

    A minibatch is trained on ``replays`` times, so it takes that many times fewer epochs. ``step`` is the noise's
    move in units of eps (``attack.steps`` and ``attack.step_size`` are not used). BatchNorm sees every replay.
    ``clip`` is what keeps pixels in [0, 1]: the point (Shafahi et al.'s program), or the noise (Wong et al.'s).
    """
    return Method((Free(threat.ball, step * threat.ball.eps, clip),), objective(CE("adv")), replays=replays)


@RECIPES.register("fast-at", source="Wong et al. 2020, Algorithm 3")
def fast_at(threat: Threat, *, step: Positive = 1.25, batchnorm: BatchNormMode = "train-tracked") -> Method:
    """One step from a uniform start, ``step`` in units of eps (10/255 at 8/255); ``attack.steps`` is not used."""
    search = threat.search(
        CE("adv"), "uniform", batchnorm, steps=1, step_size=step * threat.ball.eps, clip_start=True
    )
    return Method((search,), objective(CE("adv")))


@RECIPES.register("rst", source="Carmon et al. 2019, Eq. 5")
def rst(
    threat: Threat, *, beta: Weight = 6.0, start: RandomStart = "uniform", batchnorm: BatchNormMode = "eval"
) -> Method:
    """TRADES on the data set's own and on extra, pseudo-labelled images (``data.extra``)."""
    search = threat.search(KL("adv", "clean"), start, batchnorm)
    return Method((search,), CE("clean") + annealed(beta) * KL("adv", "clean"), extra=True)

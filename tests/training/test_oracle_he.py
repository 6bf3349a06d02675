"""Hypersphere embedding (Pang et al. 2020): ``he`` and ``m-he`` on five methods against straight-line code.

The other side is written as the published program is: its network hands out cosines (with ``project``, after
overwriting its weight with unit rows inside forward), and every loss multiplies them by s. Ours scales in the head.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from oracle_steps import (
    EPS,
    NOW,
    START,
    THREE,
    ascend,
    assert_same_steps,
    kl,
    method,
    step_on,
    three_batches,
    uniform,
    weigh,
    while_searching,
)
from torch import nn

from training.setups import laid_over

S, M = 15.0, 0.2


class Cosines(nn.Module):
    """Features to products with class weights, without bias."""

    def __init__(self, weight, features, weights):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.features, self.weights = features, weights

    def forward(self, z):
        if self.features:
            z = z / z.norm(dim=1, keepdim=True)
        if self.weights == "project":
            self.weight.data = self.weight.data / self.weight.data.norm(dim=1, keepdim=True)
        weight = self.weight
        if self.weights == "differentiate":
            weight = weight / weight.norm(dim=1, keepdim=True)
        return z @ weight.t()


def sides(tiny, ours, features=True, weights="project"):
    """Our network and the published one, with the same weights."""
    net = tiny()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ours.head.attach(net)
    net.double()
    lengths = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
    with torch.no_grad():
        net.head.weight /= net.head.weight.norm(dim=1, keepdim=True)
        if weights != "project":  # rows of different lengths, so that normalising them matters
            net.head.weight *= lengths
    theirs = copy.deepcopy(net)
    theirs.head = Cosines(net.head.weight, features, weights)
    return {"student": net}, {"student": theirs}


def unit_rows(networks):
    """What the published program does at the next forward."""
    head = networks["student"].head
    if head.weights == "project":
        head.weight.data = head.weight.data / head.weight.data.norm(dim=1, keepdim=True)


def he(cos, y, s=S, m=0.0):
    """Eq. 6."""
    return F.cross_entropy(s * (cos - m * F.one_hot(y, 4).double()), y)


def published_step(base, s=S, m=M, angle=False, start=None, carried=None):
    """One step of a published program on cosines, or on minus the angles."""

    def product(net, x):
        return -net(x).clamp(-1 + 1e-6, 1 - 1e-6).arccos() if angle else net(x)

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        if base == "free-at":
            noise = carried.clone().requires_grad_(True)
            loss = he(product(net, (x + noise).clamp(0, 1)), y, s, m)  # one backward: the margin is in it
            sgd.zero_grad()
            loss.backward()
            carried.add_(EPS * noise.grad.sign()).clamp_(-EPS, EPS)
            sgd.step()
            return {"loss": loss, "CE.adv": loss}
        net.train(base == "fast-at")
        if base == "fast-at":
            begin = uniform(x, now).clamp(0, 1)
            adv = ascend(lambda x: product(net, x), x, begin, lambda cos: he(cos, y, s), 1, 1.25 * EPS)
        elif base == "trades":
            with torch.no_grad():
                clean = product(net, x)
            adv = ascend(
                lambda x: product(net, x),
                x,
                START[start](x, now),
                lambda cos: kl(s * clean, s * cos).sum(),
            )
        else:
            adv = ascend(lambda x: product(net, x), x, START[start](x, now), lambda cos: he(cos, y, s))
        net.train()
        if base == "alp":
            clean, far = product(net, x), product(net, adv)
            loss, terms = weigh(
                (0.5, "CE.clean", he(clean, y, s, m)),
                (0.5, "CE.adv", he(far, y, s, m)),
                (0.5, "MSE.adv.clean", F.mse_loss(far, clean)),
            )
        elif base == "trades":
            clean, far = product(net, x), product(net, adv)
            loss, terms = weigh(
                (1, "CE.clean", he(clean, y, s, m)), (6, "KL.adv.clean", kl(s * clean, s * far).mean())
            )
        else:
            loss, terms = weigh((1, "CE.adv", he(product(net, adv), y, s, m)))
        step_on(sgd, loss)
        return terms | {"adv": adv}

    return published


BASES = {
    "pgd-at": {"start": "gaussian"},
    "alp": {},
    "trades": {},
    "free-at": {"replays": 1},
    "fast-at": {},
}


@pytest.mark.parametrize("weights", ["project", "differentiate"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", ["he", "m-he"])
def test_hypersphere_embedding_equals_its_program_on_every_method(tiny, minibatch, kind, base, weights):
    margin = M if kind == "he" else 0.1
    ours = method(base, **BASES[base], **{"with": {kind: {"weights": weights}}})
    networks, theirs = sides(tiny, ours, weights=weights)
    carried = torch.zeros_like(minibatch[0])
    published = published_step(base, S, margin, kind == "m-he", "gaussian", carried)
    assert_same_steps(
        ours,
        networks,
        published,
        three_batches(minibatch),
        THREE,
        theirs=theirs,
        settle=unit_rows,
        not_compared={"head.scale"},
    )


def test_free_at_replays_with_the_margin_in_the_shared_backward(tiny, minibatch):
    ours = method("free-at", replays=3, **{"with": {"he": {"scale": 10.0}}})
    networks, theirs = sides(tiny, ours)
    carried = torch.zeros_like(minibatch[0])
    once = published_step("free-at", 10.0, M, carried=carried)

    def published(*step):
        return [once(*step) for _ in range(3)][-1]

    assert_same_steps(
        ours,
        networks,
        published,
        three_batches(minibatch),
        THREE,
        theirs=theirs,
        settle=unit_rows,
        not_compared={"head.scale"},
    )


@pytest.mark.parametrize(
    ("features", "weights", "margin"),
    [
        (True, "free", 0.0),
        (False, "project", 0.0),
        (False, "differentiate", 0.0),
        (True, "project", 0.0),
        (False, "free", 0.3),
        (True, "free", 0.3),
        (False, "project", 0.3),
    ],
    ids=[
        "features alone",
        "weights alone",
        "weights alone, differentiated",
        "both",
        "margin alone",
        "features and margin",
        "weights and margin",
    ],
)
@pytest.mark.parametrize("base", ["pgd-at", "trades", "alp"])
def test_each_normalisation_and_the_margin_stand_alone(tiny, minibatch, base, features, weights, margin):
    parts = {"features": features, "weights": weights, "margin": margin, "scale": 4.0}
    ours = method(base, **BASES[base], **{"with": {"he": parts}})
    networks, theirs = sides(tiny, ours, features, weights)
    published = published_step(base, 4.0, margin, start="gaussian")
    assert_same_steps(
        ours,
        networks,
        published,
        three_batches(minibatch),
        THREE,
        theirs=theirs,
        settle=unit_rows,
        not_compared={"head.scale"},
    )


def test_the_two_weight_normalisations_have_different_gradients(tiny, minibatch):
    x, y = minibatch
    heads = []
    for weights in ("project", "differentiate"):
        _, theirs = sides(tiny, method("pgd-at", **{"with": {"he": {"weights": "project"}}}))
        theirs["student"].head.weights = weights
        he(theirs["student"](x), y).backward()
        heads.append(theirs["student"].head.weight.grad)
    assert (heads[0] - heads[1]).norm() > 0.1 * heads[0].norm()


def test_without_a_margin_the_loss_is_the_cross_entropy_of_scaled_cosines(tiny, minibatch):
    x, y = minibatch
    ours = method("standard", **{"with": {"he": {"margin": 0.0}}})
    networks, theirs = sides(tiny, ours)
    cos = F.cosine_similarity(
        _features(theirs["student"], x)[:, None], theirs["student"].head.weight[None], dim=2
    )
    assert (networks["student"].train()(x) - 15 * cos).abs().max() < 1e-10
    sgd = torch.optim.SGD(networks["student"].parameters(), 0.1)
    log = ours.step(networks, sgd, x, F.one_hot(y, 4).double(), NOW)
    assert abs(log["loss"] - F.cross_entropy(15 * cos, y)) < 1e-10


def _features(net, x):
    return torch.relu(net.norm(net.conv(x))).flatten(1)


def test_a_margin_moves_only_the_training_loss(tiny, minibatch):
    x, y = minibatch
    found = []
    for margin in (0.0, 0.2):
        ours = method("pgd-at", **{"with": {"he": {"margin": margin}}})
        networks, theirs = sides(tiny, ours)
        searched = while_searching(theirs["student"], "eval")
        adv = ascend(searched, x, uniform(x), lambda cos: he(cos, y))
        assert_same_steps(
            ours,
            networks,
            published_step("pgd-at", S, margin, start="uniform"),
            [minibatch],
            theirs=theirs,
            settle=unit_rows,
            not_compared={"head.scale"},
        )
        found.append(adv)
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("setup", ["he/cifar10", "he/cifar10-benchmark"])
@pytest.mark.parametrize("name", ["pgd-at", "pgd-at+he", "trades+he", "alp+m-he"])
def test_the_papers_setups_start_every_search_at_gaussian_noise(setup, name):
    """Its program has one start for all, PGD-AT without the embedding included."""
    chosen = laid_over({"setup": setup, "method": name})["method"]
    (search,) = method(**chosen).stages
    assert search.start == "gaussian"

"""Annealing Self-Distillation Rectification (Wu et al. 2024, Alg. 1) against straight-line code, in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from oracle_steps import (
    ALPHA,
    NOW,
    THREE,
    K,
    assert_same_steps,
    average,
    ce_points,
    draw,
    kl,
    method,
    project,
    sam,
    smooth,
    step_on,
    three_batches,
    weigh,
)

from training.views import Moment

MOMENTS = [Moment(0, 0, 10, 20), Moment(3, 7, 10, 20), Moment(10, 0, 10, 20), Moment(19, 9, 10, 20)]


def halfway(start, end, now):
    """Half a cosine from start to end over all iterations."""
    iteration, iterations = now.epoch * now.steps + now.step, now.epochs * now.steps
    return end + (start - end) * (1 + math.cos(math.pi * iteration / iterations)) / 2


def rectified(teacher, x, y, tau, ratio):
    """Eqs. 3 to 5, image by image; and how much of the teacher each label holds."""
    labels, trusts = [], []
    with torch.no_grad():
        for p, label in zip((teacher(x) / tau).softmax(1), y.tolist(), strict=True):
            trust = min(max(ratio - (p.max() - p[label]).item(), 0.0), 1.0)
            hard = torch.zeros(4, dtype=torch.float64)
            hard[label] = 1.0
            labels.append(trust * p + (1 - trust) * hard)
            trusts.append(trust)
    return torch.stack(labels), trusts


def sure_teacher(tiny):
    """A network that is sure of itself, and often wrong."""
    teacher = tiny(6).eval().requires_grad_(False)
    teacher.head.weight *= 50
    return teacher


def plain(net, sgd, terms_of):
    terms = terms_of(net)
    step_on(sgd, terms["loss"])
    return terms


def adr_at(tau=(2.5, 2.0), ratio=(0.7, 0.95), decay=0.995, update=plain):
    """Algorithm 1 on PGD-AT: every step of the search is one more update of running statistics."""

    def published(nets, sgd, x, y, now):
        net, teacher = nets["student"], nets["average"]
        label, _ = rectified(teacher, x, y, halfway(*tau, now), halfway(*ratio, now))
        adv = ce_points(net, x, label, now, "uniform", "train-tracked")

        def terms_of(net):
            loss = F.cross_entropy(net(adv), label)
            return {"loss": loss, "CE.adv.rectified": loss}

        terms = update(net, sgd, terms_of)
        average(teacher, net, decay)
        return terms | {"adv": adv}

    return published


def adr_trades(beta=6.0, update=plain):
    """ADR's program on TRADES: the search in train mode, then clean and adversarial images as one batch."""

    def published(nets, sgd, x, y, now):
        net, teacher = nets["student"], nets["average"]
        label, _ = rectified(teacher, x, y, halfway(2.5, 2.0, now), halfway(0.7, 0.95, now))
        adv = x + 0.001 * torch.empty_like(x).uniform_(0, 1, generator=draw(now))
        with torch.no_grad():
            clean = net(x)
        for _ in range(K):
            adv = adv.detach().requires_grad_(True)
            (grad,) = torch.autograd.grad(kl(clean, net(adv)).mean(), adv)
            adv = project(adv.detach() + ALPHA * grad.sign(), x)

        def terms_of(net):
            both = net(torch.cat([x, adv]))
            natural, far = both[: len(x)], both[len(x) :]
            robust = F.kl_div(far.log_softmax(1), natural.softmax(1), reduction="batchmean")
            natural = F.cross_entropy(natural, label)
            return weigh((1, "CE.clean.rectified", natural), (beta, "KL.adv.clean", robust))[1]

        terms = update(net, sgd, terms_of)
        average(teacher, net, 0.995)
        return terms | {"adv": adv}

    return published


def networks(tiny):
    return {"student": tiny(), "average": sure_teacher(tiny)}


@pytest.mark.parametrize("now", MOMENTS, ids=lambda now: f"epoch {now.epoch} step {now.step}")
@pytest.mark.parametrize("base", ["pgd-at", "trades"])
def test_adr_equals_algorithm_1_at_every_moment(tiny, minibatch, base, now):
    published = adr_at() if base == "pgd-at" else adr_trades()
    ours = method(base, **{"with": {"adr": {}}})
    assert_same_steps(ours, networks(tiny), published, [minibatch], [now])


@pytest.mark.parametrize("base", ["pgd-at", "trades"])
def test_adr_follows_its_teacher_from_the_first_step(tiny, minibatch, base):
    published = adr_at() if base == "pgd-at" else adr_trades()
    ours, student = method(base, **{"with": {"adr": {}}}), tiny()
    teacher = ours.guides["average"].make(student, {}, None)
    nets = {"student": student, "average": teacher}
    assert_same_steps(ours, nets, published, three_batches(minibatch), THREE)
    assert not teacher.training
    assert student.norm.num_batches_tracked == (3 * (K + 1) if base == "pgd-at" else 3 * (K + 2))


def test_the_teacher_is_trusted_less_the_surer_it_is_of_a_wrong_class(tiny, minibatch):
    x, y = minibatch
    teacher = sure_teacher(tiny)
    _, trusts = rectified(teacher, x, y, 1.0, 0.7)
    assert 0.0 in trusts  # clipped
    assert 0.7 in trusts  # right
    assert any(0 < trust < 0.7 for trust in trusts)
    ours = method("pgd-at", **{"with": {"adr": {"tau": 1.0, "ratio": 0.7, "decay": 0.9}}})
    published = adr_at((1.0, 1.0), (0.7, 0.7), 0.9)
    assert_same_steps(
        ours, {"student": tiny(), "average": teacher}, published, three_batches(minibatch), THREE
    )


@pytest.mark.parametrize("base", ["pgd-at", "trades"])
def test_weight_averaging_evaluates_the_teacher_itself(tiny, minibatch, base):
    published = adr_at() if base == "pgd-at" else adr_trades()
    ours = method(base, **{"with": {"adr": {}, "wa": {}}})
    assert ours.evaluate == "average"
    assert set(ours.guides) == {"average"}
    assert_same_steps(ours, networks(tiny), published, three_batches(minibatch), THREE)


@pytest.mark.parametrize("base", ["pgd-at", "trades"])
def test_adr_with_its_weight_perturbation_puts_weights_back_before_the_step(tiny, minibatch, base):

    def update(net, sgd, terms_of):
        return sam(net, sgd, terms_of, 0.05)

    published = adr_at(update=update) if base == "pgd-at" else adr_trades(update=update)
    ours = method(base, **{"with": {"adr": {}, "wa": {}, "awp": {"radius": 0.05, "form": "sam"}}})
    assert_same_steps(
        ours,
        networks(tiny),
        published,
        three_batches(minibatch),
        THREE,
        nesterov=False,
        not_compared={"norm.num_batches_tracked"},  # a momentum of 0 counts on; nobody reads the count
    )


def test_a_ratio_of_0_leaves_the_hard_label(tiny, minibatch):
    def published(nets, sgd, x, y, now):
        adv = ce_points(nets["student"], x, y, now, "uniform", "train-tracked")
        loss = F.cross_entropy(nets["student"](adv), y)
        step_on(sgd, loss)
        average(nets["average"], nets["student"], 0.995)
        return {"loss": loss, "CE.adv.rectified": loss, "adv": adv}

    ours = method("pgd-at", **{"with": {"adr": {"ratio": 0.0}}})
    assert_same_steps(ours, networks(tiny), published, three_batches(minibatch), THREE)


def test_at_an_infinite_temperature_the_label_is_a_smooth_one(tiny, minibatch):
    name = "CE.adv.rectified"

    def published(nets, sgd, x, y, now):
        soft = smooth(y, 0.8)
        adv = ce_points(nets["student"], x, soft, now, "uniform", "train-tracked")
        loss = F.cross_entropy(nets["student"](adv), y, label_smoothing=0.8)
        step_on(sgd, loss)
        return {"loss": loss, name: loss, "adv": adv}

    hot = method("pgd-at", **{"with": {"adr": {"tau": 1e15, "ratio": 0.8}}})
    smoothing = {"label-smoothing": {"amount": 0.8, "where": "everywhere"}}
    smoothed = method("pgd-at", batchnorm="train-tracked", **{"with": smoothing})
    nets = {"student": tiny(), "average": sure_teacher(tiny)}
    theirs = {"student": copy.deepcopy(nets["student"])}
    assert_same_steps(hot, nets, published, [minibatch], [NOW], theirs=theirs)
    name = "CE.adv.smooth"
    assert_same_steps(smoothed, {"student": tiny()}, published, [minibatch], [NOW])

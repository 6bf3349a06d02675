"""Learnable boundary guidance (Cui et al. 2021, Eqs. 2 to 5, Alg. 1) against straight-line code, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from oracle_steps import (
    THREE,
    assert_same_steps,
    ce_points,
    kl,
    kl_points,
    method,
    step_on,
    three_batches,
    weigh,
)


def mse(a, b):
    """Eq. 2's L: the mean over images and classes of squared differences of logits."""
    total = 0
    for i in range(len(a)):
        for k in range(4):
            total = total + (a[i, k] - b[i, k]) ** 2
    return total / (4 * len(a))


def distilled(student, natural):
    """KL of the student's prediction from the natural network's."""
    return kl(natural, student).mean()


def lbgat(base="trades", beta=0.0, alpha=1.0, guidance=mse, frozen=False, student_ce=False):
    """Alg. 1: adversarial points of the student; then student(adv), natural(clean), and student(clean) if needed."""

    def published(nets, sgd, x, y, now):
        net, natural = nets["student"], nets["natural"]
        if base == "trades":
            adv = kl_points(net, x, now)
        else:
            adv = ce_points(net, x, y, now, "uniform" if base == "pgd-at" else "gaussian")
        far = net(adv)
        guide = natural(x)
        follows = guidance(far, guide.detach() if frozen else guide)
        parts = [(1, "MSE.adv.clean.natural" if guidance is mse else "KL.adv.clean.natural", follows)]
        if not frozen:
            parts.append((1, "CE.clean.natural", F.cross_entropy(guide, y)))
        if student_ce:
            parts.append((1, "CE.adv", F.cross_entropy(far, y)))
        if base == "alp":
            parts.append((alpha, "MSE.adv.clean", mse(far, net(x))))
        elif base == "trades" and beta > 0:
            parts.append((beta, "KL.adv.clean", kl(net(x), far).mean()))
        loss, terms = weigh(*parts)
        step_on(sgd, loss)
        return terms | {"adv": adv}

    return published


BOTH = ("student", "natural")


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_lbgat_equals_algorithm_1_with_two_networks_in_one_optimiser(tiny, minibatch, beta):
    nets = {"student": tiny(), "natural": tiny(4)}
    assert_same_steps(
        method("lbgat", beta=beta), nets, lbgat(beta=beta), three_batches(minibatch), THREE, BOTH
    )
    assert nets["natural"].training
    assert nets["natural"].norm.num_batches_tracked == 3
    assert nets["student"].norm.num_batches_tracked == (6 if beta else 3)


def test_lbgat_guides_with_mse_and_no_cross_entropy_of_the_student():
    assert method("lbgat") == method("lbgat", beta=0.0, guidance="mse", student_ce=False)


@pytest.mark.parametrize(("base", "parameters"), [("pgd-at", {}), ("alp", {"pairing": 1.0}), ("trades", {})])
def test_guidance_takes_the_place_of_cross_entropy_in_every_base(tiny, minibatch, base, parameters):
    nets = {"student": tiny(), "natural": tiny(4)}
    ours = method(base, **parameters, **{"with": {"lbgat": {}}})
    assert_same_steps(ours, nets, lbgat(base, beta=6.0), three_batches(minibatch), THREE, BOTH)


def test_the_recipe_is_guidance_on_trades(tiny):
    assert method("lbgat", beta=6.0).objective == method("trades", **{"with": {"lbgat": {}}}).objective


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_guidance_by_kl_moves_both_networks(tiny, minibatch, beta):
    nets = {"student": tiny(), "natural": tiny(4)}
    ours = method("lbgat", beta=beta, guidance="kl")
    published = lbgat(beta=beta, guidance=distilled)
    assert_same_steps(ours, nets, published, three_batches(minibatch), THREE, BOTH)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_an_additional_cross_entropy_is_the_students_on_adversarial_images(tiny, minibatch, beta):
    nets = {"student": tiny(), "natural": tiny(4)}
    ours = method("lbgat", beta=beta, student_ce=True)
    assert_same_steps(ours, nets, lbgat(beta=beta, student_ce=True), three_batches(minibatch), THREE, BOTH)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_shared_convolutions_have_two_batch_normalisations(tiny, minibatch, beta):
    """Table 2's ablation: one convolution that both losses move, statistics and affine parameters apart."""
    ours, student = method("lbgat", beta=beta, shared=True), tiny()
    natural = ours.guides["natural"].make(student, {}, None)
    assert natural.conv.weight is student.conv.weight
    assert natural.norm.weight is not student.norm.weight
    nets = {"student": student, "natural": natural}
    with torch.no_grad():  # so that the two differ from the start
        natural.norm.weight *= 1.5
        natural.norm.running_mean += 0.1
    theirs = copy.deepcopy(nets)
    assert theirs["natural"].conv.weight is theirs["student"].conv.weight
    assert_same_steps(ours, nets, lbgat(beta=beta), three_batches(minibatch), THREE, BOTH, theirs=theirs)
    assert torch.equal(natural.conv.weight, student.conv.weight)
    assert not torch.equal(natural.norm.weight, student.norm.weight)


class Mean(torch.nn.Module):
    """The mean logits of several networks."""

    def __init__(self, *members):
        super().__init__()
        self.members = torch.nn.ModuleList(members)

    def forward(self, x):
        total = 0
        for member in self.members:
            total = total + member(x)
        return total / len(self.members)


def frozen(net):
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("base", "parameters"), [("pgd-at", {}), ("alp", {"pairing": 1.0}), ("trades", {})])
def test_bgat_is_guided_by_the_mean_of_frozen_networks(tiny, minibatch, base, parameters, count):
    ours, student = method(base, **parameters, **{"with": {"bgat": {"networks": count}}}), tiny()
    members = [frozen(tiny(4 + n)) for n in range(count)]
    helpers = dict(zip(("natural", "natural-2"), members, strict=False))
    natural = ours.guides["natural"].make(student, helpers, None)
    before = copy.deepcopy(natural.state_dict())
    nets = {"student": student, "natural": natural}
    theirs, mean = {"student": copy.deepcopy(student)}, Mean(*copy.deepcopy(members))

    def published(sides, *step):
        return lbgat(base, beta=6.0, frozen=True)(sides | {"natural": mean}, *step)

    assert_same_steps(ours, nets, published, three_batches(minibatch), THREE, ("student",), theirs=theirs)
    assert not natural.training
    for entry, value in natural.state_dict().items():
        assert torch.equal(value, before[entry]), entry


def test_bgat_of_trades_at_beta_0_needs_no_clean_forward_of_the_student(tiny, minibatch):
    ours, student = method("trades", beta=0.0, **{"with": {"bgat": {}}}), tiny()
    natural = frozen(tiny(4))
    nets = {"student": student, "natural": natural}
    assert_same_steps(ours, nets, lbgat(beta=0.0, frozen=True), three_batches(minibatch), THREE, ("student",))
    assert student.norm.num_batches_tracked == 3

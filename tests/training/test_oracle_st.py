"""Squeeze Training (Li et al. 2023, Eq. 6 and Alg. 1) against a loop over images, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from oracle_steps import (
    ALPHA,
    DIVERGENCE,
    NOW,
    START,
    THREE,
    K,
    assert_same_steps,
    ce_points,
    gaussian,
    kl,
    kl_points,
    mart,
    method,
    original_awp,
    project,
    step_on,
    three_batches,
    weigh,
)
from torch.func import functional_call

NAMES = ("clean", "col", "adv")
SYMMETRIC = ["symmetric-kl", "js", "l2"]


def picked(logits, y):
    """Per image, where among the three the label is least probable, and where it is most probable."""
    low, high = [], []
    for i, label in enumerate(y.tolist()):
        belief = {name: logits[name][i].softmax(0)[label].item() for name in NAMES}
        low.append(min(belief, key=belief.get))
        high.append(max(belief, key=belief.get))
    return low, high


def rows(tensors, choice):
    return torch.stack([tensors[name][i] for i, name in enumerate(choice)])


def squeeze_points(net, x, y, now, divergence, start="gaussian", log=None, mode="train-untracked"):
    """Both points, moved up the regulariser from wherever the extremes are: always re-chosen, as the paper says."""
    searched = copy.deepcopy(net).train() if mode == "train-untracked" else net.eval()
    points = {"clean": x} | {name: START[start](x, now, name) for name in ("col", "adv")}
    for _ in range(K):
        points = {name: point.detach().requires_grad_(True) for name, point in points.items()}
        logits = {name: searched(points[name]) for name in NAMES}
        low, high = picked(logits, y)
        gap = divergence(rows(logits, low), rows(logits, high)).sum()
        gradients = torch.autograd.grad(gap, [points[name] for name in NAMES], allow_unused=True)
        slope = dict(zip(NAMES, gradients, strict=True))
        adv = rows(points, low).detach() + ALPHA * rows(slope, low).sign()
        col = rows(points, high).detach() + ALPHA * rows(slope, high).sign()
        if log is not None:
            log.append((low, high))
        points = {"clean": x, "col": project(col, x), "adv": project(adv, x)}
    net.train()
    return points


def squeeze_loss(net, points, y, beta, name):
    """Clean and adversarial batches move running statistics, the collaborative one does not; then logits are picked."""
    scratch = {name: value.clone() for name, value in net.named_buffers()}
    logits = {
        "clean": net(points["clean"]),
        "col": functional_call(net, scratch, (points["col"],)),
        "adv": net(points["adv"]),
    }
    low, high = picked(logits, y)
    gap = DIVERGENCE[name](rows(logits, low), rows(logits, high)).mean()
    return weigh((1, "CE.clean", F.cross_entropy(logits["clean"], y)), (beta, f"gap.{name}", gap))


def st(beta=6.0, regulariser="symmetric-kl", start="gaussian", mode="train-untracked"):
    divergence = DIVERGENCE[regulariser]

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        points = squeeze_points(net, x, y, now, divergence, start, mode=mode)
        loss, terms = squeeze_loss(net, points, y, beta, regulariser)
        step_on(sgd, loss)
        return terms | {"adv": points["adv"], "col": points["col"]}

    return published


@pytest.mark.parametrize("regulariser", SYMMETRIC)
@pytest.mark.parametrize("beta", [4.0, 6.0])
def test_st_equals_algorithm_1_image_by_image(tiny, minibatch, regulariser, beta):
    net = tiny()
    ours = method("st", regulariser=regulariser, beta=beta)
    assert_same_steps(ours, {"student": net}, st(beta, regulariser), three_batches(minibatch), THREE)
    assert net.norm.num_batches_tracked == 6


@pytest.mark.parametrize("start", ["gaussian", "uniform"])
@pytest.mark.parametrize("mode", ["eval", "train-untracked"])
def test_st_starts_and_searches_as_asked(tiny, minibatch, start, mode):
    ours = method("st", start=start, batchnorm=mode)
    published = st(start=start, mode=mode)
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


def test_st_searches_on_batch_statistics_with_symmetric_kl_and_beta_6():
    plain = method("st", beta=6.0, regulariser="symmetric-kl", start="gaussian", batchnorm="train-untracked")
    assert method("st") == plain


def test_the_search_chooses_among_all_three_points(tiny, minibatch):
    """What the comparisons above rest on: clean images are chosen, and points change places, at some step."""
    x, y = minibatch
    log = []
    squeeze_points(tiny(), x, y, NOW, DIVERGENCE["symmetric-kl"], log=log)
    low, high = [{name for step in log for name in step[side]} for side in (0, 1)]
    assert low == {"clean", "col", "adv"}
    assert high == {"clean", "col", "adv"}


@pytest.mark.parametrize("regulariser", SYMMETRIC)
def test_st_with_weight_perturbation_squeezes_at_the_moved_weights(tiny, minibatch, regulariser):
    divergence = DIVERGENCE[regulariser]

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        points = squeeze_points(net, x, y, now, divergence)
        terms = original_awp(net, sgd, lambda net: squeeze_loss(net, points, y, 6.0, regulariser)[1], 0.05)
        return terms | {"adv": points["adv"], "col": points["col"]}

    ours = method("st", regulariser=regulariser, **{"with": {"awp": {"radius": 0.05}}})
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


@pytest.mark.parametrize("base", ["pgd-at", "trades", "mart"])
def test_two_neighbours_average_what_depends_on_the_adversarial_point(tiny, minibatch, base):
    """App. C, Table 6: two searches that differ in their start, and the mean of what each adds to the loss."""

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        if base == "trades":
            points = {name: kl_points(net, x, now, point=name) for name in ("adv", "twin")}
        else:
            start = "uniform" if base == "pgd-at" else "gaussian"
            points = {name: ce_points(net, x, y, now, start, point=name) for name in ("adv", "twin")}
        clean = None if base == "pgd-at" else net(x)
        said = {name: net(point) for name, point in points.items()}
        parts = [] if base != "trades" else [(1, "CE.clean", F.cross_entropy(clean, y))]
        for name, far in said.items():
            if base == "pgd-at":
                parts.append((0.5, f"CE.{name}", F.cross_entropy(far, y)))
            elif base == "trades":
                parts.append((3, f"KL.{name}.clean", kl(clean, far).mean()))
            else:
                cross, runner_up, weighted = mart(clean, far, y)
                parts.append((2.5, f"weighted-KL.{name}.clean", weighted))
                parts += [(0.5, f"CE.{name}", cross), (0.5, f"runner-up.{name}", runner_up)]
        loss, terms = weigh(*parts)
        step_on(sgd, loss)
        return terms | points

    ours = method(base, **{"with": {"two-neighbours": {}}})
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


def test_the_two_points_start_from_noise_of_their_own():
    x = torch.zeros(2, 2, 6, 6, dtype=torch.float64)
    adv, col, twin = (gaussian(x, NOW, point) for point in ("adv", "col", "twin"))
    assert (adv - col).abs().max() > 1e-4
    assert (adv - twin).abs().max() > 1e-4

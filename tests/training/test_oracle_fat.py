"""Friendly adversarial training (Zhang et al. 2020, Alg. 1) against a loop over images and index lists, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from oracle_steps import (
    ALPHA,
    NOW,
    START,
    THREE,
    K,
    assert_same_steps,
    ce_points,
    kl,
    kl_points,
    method,
    project,
    step_on,
    three_batches,
    weigh,
)

from training.views import Moment


def friendly_points(net, x, y, tau, goal, now, start):
    """Images leave the search for good when they were misclassified more than tau times.

    ``goal(logits, indices)`` is what the images that are left increase. How often each was moved comes second.
    """
    net.eval()
    found = START[start](x, now).clamp(0, 1)
    patience, moved = [tau] * len(x), [0] * len(x)
    going = list(range(len(x)))
    for _ in range(K):
        here = found[going].detach().requires_grad_(True)
        logits = net(here)
        (grad,) = torch.autograd.grad(goal(logits, going), here)
        stay = []
        for row, i in enumerate(going):
            if logits[row].argmax() != y[i]:
                if patience[i] == 0:
                    continue
                patience[i] -= 1
            stay.append(i)
            found[i] = project(here[row].detach() + ALPHA * grad[row].sign(), x[i])
            moved[i] += 1
        going = stay
        if not going:
            break
    net.train()
    return found, moved


def fat_points(base, net, x, y, tau, now):
    if base == "pgd-at":
        return friendly_points(
            net, x, y, tau, lambda logits, left: F.cross_entropy(logits, y[left]), now, "uniform"
        )
    with torch.no_grad():
        clean = copy.deepcopy(net).eval()(x)
    return friendly_points(
        net, x, y, tau, lambda logits, left: kl(clean[left], logits).sum(), now, "gaussian"
    )


def base_loss(base, nets, x, adv, y):
    net = nets["student"]
    if base == "pgd-at":
        return weigh((1, "CE.adv", F.cross_entropy(net(adv), y)))
    clean, far = net(x), net(adv)
    natural = (1, "CE.clean", F.cross_entropy(clean, y))
    if base == "trades":
        return weigh(natural, (6, "KL.adv.clean", kl(clean, far).mean()))
    helped = F.cross_entropy(net(x + 2 * (adv - x)), nets["standard"](adv).argmax(1))
    return weigh(natural, (2.5, "KL.adv.clean", kl(clean, far).mean()), (0.5, "CE.help.help", helped))


def fat(base, tau):
    def published(nets, sgd, x, y, now):
        adv, _ = fat_points(base, nets["student"], x, y, tau, now)
        loss, terms = base_loss(base, nets, x, adv, y)
        step_on(sgd, loss)
        return terms | {"adv": adv}

    return published


def networks(tiny, base):
    standard = {"standard": tiny(5).eval().requires_grad_(False)} if base == "hat" else {}
    return {"student": tiny()} | standard


@pytest.mark.parametrize("base", ["pgd-at", "trades", "hat"])
@pytest.mark.parametrize("tau", [0, 1, 2])
def test_fat_stops_moving_an_image_tau_steps_after_it_was_misclassified(tiny, minibatch, base, tau):
    ours = method(base, **{"with": {"fat": {"tau": tau}}})
    assert_same_steps(ours, networks(tiny, base), fat(base, tau), three_batches(minibatch), THREE)


@pytest.mark.parametrize("base", ["pgd-at", "trades"])
def test_some_images_of_the_comparison_stop_early_and_some_never(tiny, minibatch, base):
    """What the comparisons above rest on."""
    x, y = minibatch
    with (
        torch.no_grad()
    ):  # the network's own classes, but for two images: only some are misclassified at first
        y = tiny().eval()(x).argmax(1)
    y = torch.cat([(y[:2] + 1) % 4, y[2:]])
    counts = [fat_points(base, tiny(), x, y, tau, NOW)[1] for tau in (0, 1, 2)]
    assert counts[0][:2] == [0, 0]
    assert counts[1][:2] == [1, 1]
    assert counts[2][:2] == [2, 2]
    assert len(set(counts[0])) > 2
    for tau, ours in enumerate(method(base, **{"with": {"fat": {"tau": tau}}}) for tau in (0, 1, 2)):
        assert_same_steps(ours, networks(tiny, base), fat(base, tau), [(x, y)])


@pytest.mark.parametrize("base", ["pgd-at", "trades"])
def test_with_tau_at_least_the_steps_fat_is_its_base_from_a_clipped_start(tiny, minibatch, base):
    x, y = minibatch
    inside = (0.2 + 0.6 * x, y)  # where the start needs no clipping

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        adv = ce_points(net, x, y, now, "uniform") if base == "pgd-at" else kl_points(net, x, now)
        loss, terms = base_loss(base, nets, x, adv, y)
        step_on(sgd, loss)
        return terms | {"adv": adv}

    ours = method(base, **{"with": {"fat": {"tau": K}}})
    assert_same_steps(ours, {"student": tiny()}, published, [inside])


EPOCHS = {
    "pgd-at": (120, [(0, 0), (49, 0), (50, 1), (89, 1), (90, 2), (119, 2)]),
    "trades": (85, [(0, 0), (29, 0), (30, 1), (49, 1), (50, 2), (69, 2), (70, 3), (84, 3)]),
}


@pytest.mark.parametrize("base", EPOCHS)
def test_tau_grows_at_the_published_epochs(tiny, minibatch, base):
    epochs, table = EPOCHS[base]
    ours = method(base, **{"with": {"fat": {}}})
    for epoch, tau in table:
        now = Moment(epoch, 0, 2, epochs)
        assert_same_steps(ours, networks(tiny, base), fat(base, tau), [minibatch], [now])

"""Helper-based adversarial training (Rade and Moosavi-Dezfooli 2022, Alg. 1) against straight-line code, in float64."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from oracle_steps import (
    NOW,
    THREE,
    assert_same_steps,
    average,
    ce_points,
    kl,
    kl_points,
    method,
    step_on,
    three_batches,
    weigh,
)


def helped(
    beta=2.5, gamma=0.5, factor=2.0, label_at=1.0, start="gaussian", mode="eval", smoothing=0.0, on="kl"
):
    """Alg. 1: three separate forwards, in the order clean, adversarial, helper."""

    def published(nets, sgd, x, y, now):
        net, standard = nets["student"], nets["standard"]
        adv = kl_points(net, x, now, start, mode) if on == "kl" else ce_points(net, x, y, now, start, mode)
        r = adv - x
        with torch.no_grad():
            said = standard(x + label_at * r).argmax(1)
        clean, far, helper = net(x), net(adv), net(x + factor * r)
        robust = kl(clean, far).mean() if on == "kl" else F.cross_entropy(far, y)
        natural = F.cross_entropy(clean, y, label_smoothing=smoothing)
        loss, terms = weigh(
            (1, "CE.clean.smooth" if smoothing else "CE.clean", natural),
            (beta, "KL.adv.clean" if on == "kl" else "CE.adv", robust),
            (gamma, "CE.help.help", F.cross_entropy(helper, said)),
        )
        step_on(sgd, loss)
        return terms | {"adv": adv, "help": x + factor * r}

    return published


def networks(tiny, x):
    """A student, and a standard network that is so undecided about these images that little changes its mind."""
    standard = tiny(5).eval().requires_grad_(False)
    for batch in (x, x.flip(0, 3), 1 - x):
        standard.head.bias -= standard(batch).mean(0) / 3
    return {"student": tiny(), "standard": standard}


def test_the_standard_network_of_these_comparisons_says_something_else_at_every_point(tiny, minibatch):
    x, _ = minibatch
    standard = networks(tiny, x)["standard"]
    r = kl_points(tiny(), x) - x
    said = [standard(x + along * r).argmax(1) for along in (0, 0.5, 1, 2, 3)]
    assert all((one != other).any() for one, other in pairwise(said))


@pytest.mark.parametrize(("factor", "label_at"), [(2.0, 1.0), (3.5, 1.0), (1.5, 1.0), (2.0, 0.5), (2.0, 3.0)])
def test_hat_equals_algorithm_1(tiny, minibatch, factor, label_at):
    parameters = {"factor": factor, "label_at": label_at}
    nets = networks(tiny, minibatch[0])
    assert_same_steps(
        method("hat", **parameters), nets, helped(**parameters), three_batches(minibatch), THREE
    )
    assert nets["student"].norm.num_batches_tracked == 9


@pytest.mark.parametrize("mode", ["eval", "train-tracked", "train-untracked"])
def test_hat_searches_in_the_mode_asked_for(tiny, minibatch, mode):
    ours = method("hat", batchnorm=mode)
    assert_same_steps(ours, networks(tiny, minibatch[0]), helped(mode=mode), three_batches(minibatch), THREE)


def test_helper_points_may_leave_the_range_of_images(tiny, minibatch):
    x, _ = minibatch
    adv = kl_points(tiny(), x, NOW)
    assert (x + 2 * (adv - x)).min() < 0


@pytest.mark.parametrize("start", ["gaussian", "uniform"])
def test_hat_at_searches_and_trains_with_cross_entropy(tiny, minibatch, start):
    published = helped(1.75, 1.0, start=start, on="ce")
    ours = method("hat-at", start=start)
    assert_same_steps(ours, networks(tiny, minibatch[0]), published, three_batches(minibatch), THREE)


def test_hat_at_smooths_the_clean_label_alone_where_asked(tiny, minibatch):
    smoothing = {"with": {"label-smoothing": {"amount": 0.1, "where": "clean"}}}
    published = helped(1.75, 1.0, start="uniform", smoothing=0.1, on="ce")
    assert_same_steps(
        method("hat-at", **smoothing),
        networks(tiny, minibatch[0]),
        published,
        three_batches(minibatch),
        THREE,
    )


def test_hat_at_starts_anywhere_in_the_ball():
    assert method("hat-at") == method("hat-at", beta=1.75, gamma=1.0, start="uniform", batchnorm="eval")


def test_the_large_recipe_smooths_the_clean_label_alone(tiny, minibatch):
    """Uniform start, batch statistics while searching, smoothing 0.1, gradients of both losses summed, slow average."""
    step = helped(3.5, 0.5, start="uniform", mode="train-untracked", smoothing=0.1)

    def published(nets, sgd, x, y, now):
        found = step(nets, sgd, x, y, now)
        t = now.epoch * now.steps + now.step
        average(nets["average"], nets["student"], min(0.995, (1 + t) / (10 + t)))
        for name in ("running_mean", "running_var"):
            getattr(nets["average"].norm, name).copy_(getattr(nets["student"].norm, name))
        return found

    ours = method(
        "hat",
        beta=3.5,
        start="uniform",
        batchnorm="train-untracked",
        **{
            "with": {
                "label-smoothing": {"amount": 0.1, "where": "clean"},
                "wa": {"warmup": True, "statistics": "copy"},
            }
        },
    )
    nets = networks(tiny, minibatch[0])
    nets["average"] = ours.guides["average"].make(nets["student"], {}, None)
    assert_same_steps(ours, nets, published, three_batches(minibatch), THREE)


def test_hat_with_gamma_0_is_trades():
    assert method("hat", gamma=0.0, beta=6.0) == method("trades", beta=6.0)

"""What the oracles share: starting points, projections, divergences, and the comparison of whole optimiser steps.

An oracle is a function ``published(networks, sgd, x, y, now)`` that does everything of one training step by itself
(search, loss, backward, optimiser step, averages) with torch's functional losses and plain loops. It returns the loss
and every term of it under the names that the method logs them by, and the points that it found.
"""

import copy

import torch
import torch.nn.functional as F

from training.method import Method
from training.randomness import generator
from training.recipes import build
from training.spec import AttackSpec, MethodChoice
from training.views import Moment, Views

SEED, EPS, ALPHA, K = 11, 0.1, 0.03, 4
NOW = Moment(epoch=3, step=5, steps=10, epochs=20)
THREE = tuple(Moment(epoch=3, step=step, steps=10, epochs=20) for step in (7, 8, 9))
CLOSE = 1e-10


def method(name, norm="linf", **parameters) -> Method:
    """The method under test."""
    attack = AttackSpec(norm=norm, eps=EPS, steps=K, step_size=ALPHA)
    return build(MethodChoice(name=name, **parameters), attack)


def draw(now=NOW, point="adv"):
    """The noise that the trial's seed stands for."""
    return generator(SEED, f"attack.{point}", now.epoch, now.step)


def gaussian(x, now=NOW, point="adv"):
    return x + 0.001 * torch.empty_like(x).normal_(generator=draw(now, point))


def uniform(x, now=NOW, point="adv"):
    return x + torch.empty_like(x).uniform_(-EPS, EPS, generator=draw(now, point))


START = {"gaussian": gaussian, "uniform": uniform}


def project(x_adv, x):
    return torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0.0, 1.0)


def while_searching(net, mode):
    """The network to search with; what its forwards do to running statistics is the mode's whole meaning."""
    if mode == "train-untracked":
        return copy.deepcopy(net).train()
    return net.train(mode == "train-tracked")


def ascend(net, x, x_adv, loss, steps=K, size=ALPHA):
    """Signed gradient ascent on ``loss(logits)`` from ``x_adv``; the network stays in its mode."""
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(loss(net(x_adv)), x_adv)
        x_adv = project(x_adv.detach() + size * grad.sign(), x)
    return x_adv.detach()


def ce_points(net, x, y, now=NOW, start="gaussian", mode="eval", point="adv"):
    """PGD on cross-entropy; ``y`` may be class probabilities."""
    searched = while_searching(net, mode)
    x_adv = ascend(searched, x, START[start](x, now, point), lambda logits: F.cross_entropy(logits, y))
    net.train()
    return x_adv


def kl(p, q):
    """KL of softmax(q) from softmax(p), per image; both carry gradient."""
    return F.kl_div(q.log_softmax(1), p.softmax(1), reduction="none").sum(1)


def symmetric_kl(p, q):
    """Half of each direction; each target is a constant."""
    return (kl(p.detach(), q) + kl(q.detach(), p)) / 2


def js(p, q):
    """Half the KL of the mean distribution from each."""
    p, q = p.softmax(1), q.softmax(1)
    mean = (p + q) / 2
    return ((p * (p.log() - mean.log())).sum(1) + (q * (q.log() - mean.log())).sum(1)) / 2


def l2(p, q):
    """Squared Euclidean distance of the probabilities."""
    return (p.softmax(1) - q.softmax(1)).square().sum(1)


DIVERGENCE = {"kl": kl, "symmetric-kl": symmetric_kl, "js": js, "l2": l2}


def kl_points(net, x, now=NOW, start="gaussian", mode="eval", point="adv", divergence=kl):
    """TRADES' search; the clean images are forwarded once, before the steps."""
    searched = while_searching(net, mode)
    with torch.no_grad():
        clean = searched(x)
    x_adv = ascend(searched, x, START[start](x, now, point), lambda logits: divergence(clean, logits).sum())
    net.train()
    return x_adv


def mart(clean, adv, y):
    """MART's three parts, image by image: cross-entropy, the boost against the runner-up, the weighted KL."""
    cross, runner_up, weighted = 0, 0, 0
    for i, label in enumerate(y.tolist()):
        p, q = clean[i].softmax(0), adv[i].softmax(0)
        others = torch.stack([q[k] for k in range(4) if k != label])
        cross = cross - q[label].log()
        runner_up = runner_up - (1.0001 - others.max()).log()
        weighted = weighted + (p * (p.log() - q.log())).sum() * (1.0000001 - p[label])
    return cross / len(y), runner_up / len(y), weighted / len(y)


def smooth(y, amount, classes=4):
    """Label smoothing: so much of the label is spread over all classes."""
    return (1 - amount) * F.one_hot(y, classes).double() + amount / classes


def sgd_of(networks, nesterov=True):
    weights = list({id(p): p for network in networks for p in network.parameters()}.values())
    return torch.optim.SGD(weights, 0.1, 0.9, weight_decay=5e-4, nesterov=nesterov)


def assert_close(a, b, what):
    assert (a - b).abs().max() < CLOSE, what


def assert_same_steps(
    method,
    networks,
    published,
    batches,
    moments=(NOW,),
    trained=("student",),
    nesterov=True,
    theirs=None,
    settle=lambda networks: None,
    not_compared=(),
):
    """Optimiser steps of the method and of ``published``, from the same start, agree to 1e-10 in everything they leave.

    Args:
        batches: images and labels, one pair per moment.
        trained: names of the networks that the optimiser moves.
        theirs: the networks of ``published`` where they are no copies of ours.
        settle: called with the networks of ``published`` before the last comparison.
        not_compared: entries of state dicts that only one side has, or that nobody reads.
    """
    theirs = copy.deepcopy(networks) if theirs is None else theirs
    sides = []
    for side in (networks, theirs):
        sgd = sgd_of([side[name] for name in trained], nesterov)
        moved = []
        sgd.register_step_pre_hook(lambda sgd, *_, moved=moved: moved.append(gradients(sgd)))
        sides.append((sgd, moved))
    state = {}
    for (x, y), now in zip(batches, moments, strict=True):
        label = F.one_hot(y, 4).double()
        views = Views(copy.deepcopy(networks), {"clean": x}, {"label": label}, now, seed=SEED)
        views.state = {name: value.clone() for name, value in state.items()}
        for stage in method.stages:
            views = stage(views)
        log = method.step(networks, sides[0][0], x, label, now, seed=SEED, state=state)
        expected = published(theirs, sides[1][0], x, y, now)
        points = {name: value for name, value in expected.items() if value.ndim == 4}
        assert set(log) == set(expected) - set(points)
        for name, value in expected.items():
            if name in points:
                assert_close(views.points(name), value, f"points {name}")
            else:
                assert_close(log[name], value, name)
    ours_moved, theirs_moved = sides[0][1], sides[1][1]
    assert len(ours_moved) == len(theirs_moved)
    for step, (ours, other) in enumerate(zip(ours_moved, theirs_moved, strict=True)):
        for number, (a, b) in enumerate(zip(ours, other, strict=True)):
            assert_close(a, b, f"gradient {number} of step {step}")
    settle(theirs)
    for name in theirs:
        ours, other = networks[name].state_dict(), theirs[name].state_dict()
        assert set(ours) - set(not_compared) == set(other) - set(not_compared)
        for entry in set(other) - set(not_compared):
            assert_close(ours[entry], other[entry], f"{entry} of {name}")


def gradients(sgd):
    return [
        torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for group in sgd.param_groups
        for p in group["params"]
    ]


def weigh(*terms):
    """The loss of (weight, name, value) terms, and everything by name."""
    loss = sum(weight * value for weight, _, value in terms)
    return loss, {"loss": loss} | {name: value for _, name, value in terms}


def step_on(sgd, loss):
    """Plain descent."""
    sgd.zero_grad()
    loss.backward()
    sgd.step()


def original_awp(net, sgd, terms_of, radius):
    """One ascent on the outer loss on a copy; the step is taken from the moved weights, then the move taken back.

    ``terms_of(net)`` is the loss with its terms; those at the moved weights are returned.
    """
    copied = copy.deepcopy(net)
    gradients = torch.autograd.grad(terms_of(copied)["loss"], list(copied.parameters()))
    moves = {}
    for (name, p), grad in zip(net.named_parameters(), gradients, strict=True):
        if name.endswith("weight") and p.ndim > 1:
            moves[name] = radius * p.detach().norm() / grad.norm() * grad
            p.data += moves[name]
    terms = terms_of(net)
    step_on(sgd, terms["loss"])
    for name, p in net.named_parameters():
        if name in moves:
            p.data -= moves[name]
    return terms


def sam(net, sgd, terms_of, radius):
    """The other form: an ordinary first pass, every tensor moved, the move taken back before the optimiser steps."""
    sgd.zero_grad()
    terms_of(net)["loss"].backward()
    moves = [radius * p.detach().norm() / p.grad.norm() * p.grad for p in net.parameters()]
    for p, move in zip(net.parameters(), moves, strict=True):
        p.data += move
    sgd.zero_grad()
    net.norm.momentum = 0.0
    terms = terms_of(net)
    terms["loss"].backward()
    net.norm.momentum = 0.1
    for p, move in zip(net.parameters(), moves, strict=True):
        p.data -= move
    sgd.step()
    return terms  # ADR's program prints the first pass's


def average(to, of, decay):
    """One update of an exponential average of weights and of BatchNorm's buffers."""
    with torch.no_grad():
        for (_, a), (_, b) in zip(to.named_parameters(), of.named_parameters(), strict=True):
            a.copy_(decay * a + (1 - decay) * b)
        for (name, a), (_, b) in zip(to.named_buffers(), of.named_buffers(), strict=True):
            if name.endswith("num_batches_tracked"):
                a.copy_(b)
            else:
                a.copy_(decay * a + (1 - decay) * b)


def three_batches(minibatch):
    """Three minibatches of different images."""
    x, y = minibatch
    return [(x, y), (x.flip(0, 3), y.flip(0)), (1 - x, y)]

"""PGD-AT, TRADES and HAT against straight-line code written from the papers, in float64.

Nothing here uses views, terms or stages: only torch's functional losses and the noise that the trial's seed stands
for. Both sides run a whole optimiser step; the adversarial points, losses, gradients, running statistics and weights
must agree to 1e-10.
"""

import copy

import pytest
import torch
import torch.nn.functional as F

from training.method import Method
from training.randomness import generator
from training.recipes import build
from training.spec import AttackSpec, MethodChoice
from training.views import Moment, Views

NOW = Moment(epoch=3, step=5, steps=10, epochs=20)
SEED = 11
EPS, ALPHA, K = 0.1, 0.03, 4


def method(name, norm="linf", **parameters) -> Method:
    attack = AttackSpec(norm=norm, eps=EPS, steps=K, step_size=ALPHA)
    return build(MethodChoice(name=name, **parameters), attack)


def draw():
    return generator(SEED, "attack.adv", NOW.epoch, NOW.step)


def into_linf(x_adv, x):
    return torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0.0, 1.0)


def pgd_at_points(net, x, y):
    net.eval()
    x_adv = x + torch.empty_like(x).uniform_(-EPS, EPS, generator=draw())
    for _ in range(K):
        x_adv = x_adv.detach().requires_grad_(True)
        F.cross_entropy(net(x_adv), y, reduction="sum").backward()
        x_adv = into_linf(x_adv.detach() + ALPHA * x_adv.grad.sign(), x)
    net.zero_grad()
    net.train()
    return x_adv.detach()


def trades_points(net, x, norm="linf"):
    net.eval()
    x_adv = x + 0.001 * torch.empty_like(x).normal_(generator=draw())
    for _ in range(K):
        x_adv = x_adv.detach().requires_grad_(True)
        kl = F.kl_div(net(x_adv).log_softmax(1), net(x).softmax(1), reduction="sum")
        (grad,) = torch.autograd.grad(kl, x_adv)
        if norm == "linf":
            x_adv = into_linf(x_adv.detach() + ALPHA * grad.sign(), x)
        else:
            unit = grad / grad.flatten(1).norm(dim=1)[:, None, None, None]
            move = x_adv.detach() + ALPHA * unit - x
            far = move.flatten(1).norm(dim=1)[:, None, None, None]
            x_adv = (x + torch.where(far > EPS, move * EPS / far, move)).clamp(0.0, 1.0)
    net.train()
    return x_adv.detach()


def robust_kl(clean, adv):
    """KL of the adversarial prediction from the clean one, batch mean, both with gradient."""
    p, q = clean.softmax(1), adv.softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean()


def assert_same_step(method, net, loss_of, minibatch, networks=None):
    """One optimiser step of the method, and of ``loss_of(net, x, y)``, from the same weights."""
    x, y = minibatch
    ours, theirs = net, copy.deepcopy(net)
    sgd = [
        torch.optim.SGD(n.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True) for n in (ours, theirs)
    ]
    log = method.step(
        {"student": ours} | (networks or {}), sgd[0], x, F.one_hot(y, 4).double(), NOW, seed=SEED
    )
    loss = loss_of(theirs, x, y)
    sgd[1].zero_grad()
    loss.backward()
    gradients = [p.grad.clone() for p in theirs.parameters()]
    sgd[1].step()
    assert abs(log["loss"] - loss) < 1e-10
    for (name, p), g in zip(ours.named_parameters(), gradients, strict=True):
        assert (p.grad - g).abs().max() < 1e-10, name
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert (a - b).abs().max() < 1e-10, name


def adversarial_points(method, net, minibatch, networks=None):
    x, y = minibatch
    views = Views(
        {"student": net} | (networks or {}), {"clean": x}, {"label": F.one_hot(y, 4).double()}, NOW, seed=SEED
    )
    for stage in method.stages:
        views = stage(views)
    return views


def test_standard_training_is_cross_entropy(tiny, minibatch):
    assert_same_step(method("standard"), tiny(), lambda n, x, y: F.cross_entropy(n(x), y), minibatch)


def test_pgd_at_equals_its_formula(tiny, minibatch):
    x, y = minibatch
    found = adversarial_points(method("pgd-at"), tiny(), minibatch).points("adv")
    assert (found - pgd_at_points(tiny(), x, y)).abs().max() < 1e-10
    assert_same_step(
        method("pgd-at"),
        tiny(),
        lambda n, x, y: F.cross_entropy(n(pgd_at_points(n, x, y)), y),
        minibatch,
    )


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_trades_equals_its_formula(tiny, minibatch, beta, norm):
    trades = method("trades", norm, beta=beta)

    def loss(n, x, y):
        x_adv = trades_points(n, x, norm)
        clean, adv = n(x), n(x_adv)
        return F.cross_entropy(clean, y) + beta * robust_kl(clean, adv)

    x, _ = minibatch
    found = adversarial_points(trades, tiny(), minibatch).points("adv")
    assert (found - trades_points(tiny(), x, norm)).abs().max() < 1e-10
    assert_same_step(trades, tiny(), loss, minibatch)


@pytest.mark.parametrize(("factor", "label_at"), [(2.0, 1.0), (3.0, 1.0), (2.0, 0.5)])
def test_hat_equals_algorithm_1(tiny, minibatch, factor, label_at):
    standard = tiny(5).eval().requires_grad_(False)
    hat = method("hat", beta=2.5, gamma=0.5, factor=factor, label_at=label_at)

    def loss(n, x, y):
        x_adv = trades_points(n, x)
        r = x_adv - x
        label = standard(x + label_at * r).argmax(1)
        clean, adv, far = n(x), n(x_adv), n(x + factor * r)
        return F.cross_entropy(clean, y) + 2.5 * robust_kl(clean, adv) + 0.5 * F.cross_entropy(far, label)

    views = adversarial_points(hat, tiny(), minibatch, {"standard": standard})
    x, _ = minibatch
    assert (views.points("help") - (x + factor * (views.points("adv") - x))).abs().max() < 1e-15
    assert views.points("help").min() < 0  # helper examples may leave [0, 1], as published
    assert_same_step(hat, tiny(), loss, minibatch, {"standard": standard})


def test_hat_at_form_searches_and_trains_with_cross_entropy(tiny, minibatch):
    standard = tiny(5).eval().requires_grad_(False)

    def loss(n, x, y):
        n.eval()
        x_adv = x + 0.001 * torch.empty_like(x).normal_(generator=draw())
        for _ in range(K):
            x_adv = x_adv.detach().requires_grad_(True)
            (grad,) = torch.autograd.grad(F.cross_entropy(n(x_adv), y), x_adv)
            x_adv = into_linf(x_adv.detach() + ALPHA * grad.sign(), x).detach()
        n.train()
        clean, adv, far = n(x), n(x_adv), n(x + 2 * (x_adv - x))
        label = standard(x_adv).argmax(1)
        return F.cross_entropy(clean, y) + 1.75 * F.cross_entropy(adv, y) + F.cross_entropy(far, label)

    assert_same_step(method("hat-at"), tiny(), loss, minibatch, {"standard": standard})


def test_hat_with_gamma_0_is_trades():
    assert method("hat", gamma=0.0, beta=6.0) == method("trades", beta=6.0)


def test_averaged_weights_follow_from_the_first_step(tiny, minibatch):
    x, y = minibatch
    averaging = method("trades", **{"with": {"wa": {"decay": 0.9}}})
    net = tiny()
    networks = {"student": net, "average": averaging.guides["average"].make(net, {})}
    assert averaging.evaluate == "average"
    expected = {k: v.clone() for k, v in net.state_dict().items()}
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    for step in range(3):
        averaging.step(networks, sgd, x, F.one_hot(y, 4).double(), Moment(0, step, 3, 1))
        for name, theirs in net.state_dict().items():
            floating = theirs.is_floating_point()
            expected[name] = 0.9 * expected[name] + 0.1 * theirs if floating else theirs.clone()
    for name, value in networks["average"].state_dict().items():
        assert (value - expected[name]).abs().max() < 1e-12, name

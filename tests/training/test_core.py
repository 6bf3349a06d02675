"""Views, terms and searches: forwards, modes, balls, formulas. What holds for every method is in test_contract_*.py."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from training.recipes import build
from training.spec import AttackSpec, MethodChoice
from training.stages import PGD
from training.terms import CE, KL
from training.threat import L2, Linf
from training.views import Moment, Views

ATTACK = AttackSpec(eps=0.1, steps=10)


def views_of(net, minibatch, now=Moment(), seed=0):
    x, y = minibatch
    return Views({"student": net}, {"clean": x}, {"label": F.one_hot(y, 4).double()}, now, seed=seed)


def test_a_ten_step_trades_search_makes_eleven_forwards(tiny, minibatch):
    net = tiny()
    search = build(MethodChoice(name="trades"), ATTACK).stages[0]
    search(views_of(net, minibatch))
    assert net.forwards == [False] * 11


def test_a_trades_step_forwards_clean_then_adversarial_in_train_mode(tiny, minibatch):
    net = tiny()
    x, y = minibatch
    method = build(MethodChoice(name="trades"), ATTACK)
    method.step(
        {"student": net}, torch.optim.SGD(net.parameters(), 0.1), x, F.one_hot(y, 4).double(), Moment()
    )
    assert net.forwards == [False] * 11 + [True] * 2


def test_moving_a_point_keeps_what_did_not_move_and_recomputes_what_did(tiny, minibatch):
    net = tiny()
    views = views_of(net, minibatch)
    moved = views.move(adv=views.points("clean") + 0.1)
    clean = moved.logits("clean")
    assert views.logits("clean") is clean  # the parent sees what the child computed
    again = moved.move(adv=views.points("clean"))
    assert torch.equal(again.logits("adv"), clean)
    assert not torch.equal(moved.logits("adv"), clean)
    assert len(net.forwards) == 3
    assert views.fresh().logits("clean") is not clean


def test_a_constant_point_carries_no_graph(tiny, minibatch):
    views = views_of(tiny(), minibatch).fresh("clean")
    assert not views.logits("clean").requires_grad
    assert views.fresh().logits("clean").requires_grad


@pytest.mark.parametrize("mode", ["eval", "train-tracked", "train-untracked"])
def test_the_search_treats_running_statistics_as_its_mode_says(tiny, minibatch, mode):
    net = tiny().train()
    before = copy.deepcopy(net.state_dict())
    x = PGD(Linf(0.1), CE("adv"), 3, 0.05, batchnorm=mode)(views_of(net, minibatch)).points("adv")
    moved = any(not torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert moved == (mode == "train-tracked")
    assert net.training
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    other = PGD(Linf(0.1), CE("adv"), 3, 0.05, batchnorm="eval")(views_of(tiny(), minibatch)).points("adv")
    assert torch.equal(x, other) == (mode == "eval")


def test_the_network_is_restored_when_a_search_fails(tiny, minibatch):
    net = tiny().train()
    with pytest.raises(KeyError):
        PGD(Linf(0.1), CE("nowhere"), 1, 0.1, batchnorm="train-untracked")(views_of(net, minibatch))
    assert net.training
    assert net.norm.track_running_stats
    assert all(p.requires_grad for p in net.parameters())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0.001, 0.6),
    st.sampled_from([Linf, L2]),
    st.sampled_from(["uniform", "gaussian"]),
)
def test_points_found_lie_in_the_ball_and_in_the_unit_cube(seed, eps, ball, start):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 1, 4, 4, generator=draw).round(decimals=1)
    weights = torch.randn(16, 3, generator=draw)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    with torch.no_grad():
        net[1].weight.copy_(weights.T)
    label = F.one_hot(torch.tensor([0, 1, 2]), 3).float()
    views = Views({"student": net}, {"clean": x}, {"label": label}, Moment(), seed=seed)
    x_adv = PGD(ball(eps), CE("adv"), 3, eps / 2, start)(views).points("adv")
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    move = (x_adv - x).flatten(1)
    size = move.abs().amax(1) if ball is Linf else move.norm(dim=1)
    assert (size <= eps * (1 + 1e-5) + 1e-6).all()


def test_l2_noise_fills_the_ball_evenly():
    x = torch.zeros(20_000, 1, 1, 3)
    radius = L2(2.0).noise(x, torch.Generator().manual_seed(0)).flatten(1).norm(dim=1)
    assert radius.max() <= 2.0
    # In three dimensions an eighth of the ball lies within half its radius.
    assert abs((radius < 1.0).float().mean() - 1 / 8) < 0.01


def test_the_attack_finds_more_loss_than_its_start(tiny, minibatch):
    net = tiny()
    views = views_of(net, minibatch)
    search = PGD(Linf(0.1), CE("adv"), 10, 0.025, "clean")
    with torch.no_grad():
        start = CE("clean")(views).sum()
        assert CE("adv")(search(views).fresh()).sum() > 1.1 * start


def test_the_formula_prints_as_people_write_it():
    assert repr(CE("clean") + 6.0 * KL("adv", "clean")) == "CE(clean) + 6*KL(adv to clean)"
    hat = build(MethodChoice(name="hat", beta=2.5, gamma=0.25), ATTACK)
    assert hat.formula == "CE(clean) + 2.5*KL(adv to clean) + 0.25*CE(help, help label)"
    assert repr(KL("adv", ("clean", "natural"))) == "KL(adv to clean by natural)"
    assert KL("adv", ("clean", "natural")).name == "KL.adv.clean.natural"
    assert repr(2.0 * (CE("clean") + 0.5 * CE("adv"))) == "2*CE(clean) + CE(adv)"


def test_a_weight_may_be_a_schedule(tiny, minibatch):
    views = views_of(tiny(), minibatch, Moment(epoch=2, epochs=4))
    ramp = CE("clean") + (lambda now: 3 * now.progress) * KL("clean", "clean")
    assert torch.allclose(ramp(views), CE("clean")(views))
    scheduled = (lambda now: 3 * now.progress) * CE("clean")
    assert torch.allclose(scheduled(views), 1.5 * CE("clean")(views))

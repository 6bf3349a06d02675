"""PGD, the ball that images must stay in, BatchNorm folding, and what AutoAttack must leave alone."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from torch import Tensor, nn

from evaluation.attacks import UntargetedPGD, ball_noise, inside
from evaluation.autoattack import Member, members
from evaluation.folding import exact, folded
from training.spec import AttackSpec
from training.threat import ball


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_the_straight_loop(trained, norm: str) -> None:
    network, test = trained
    threat = AttackSpec(norm=norm, eps=0.1 if norm == "linf" else 0.7)
    x, y, at = test.images[:40].float() / 255, test.labels[:40], torch.arange(100, 140)
    got = UntargetedPGD(threat, 5, 10, seed=3)(network, x, y, at)

    x_adv = x + ball_noise(ball(threat), 3, "pgd", 0, at, x)
    for _ in range(5):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(nn.functional.cross_entropy(network(x_adv), y, reduction="sum"), x_adv)
        if norm == "linf":
            x_adv = (
                (x_adv.detach() + threat.eps / 4 * grad.sign())
                .clamp(x - threat.eps, x + threat.eps)
                .clamp(0, 1)
            )
        else:
            x_adv = x_adv.detach() + threat.eps / 4 * grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            move = x_adv - x
            x_adv = (
                x + move * (threat.eps / move.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
            ).clamp(0, 1)
    torch.testing.assert_close(got, x_adv, rtol=0, atol=1e-5)
    assert inside(got, x, threat).all()
    assert (network(got).argmax(1) == y).float().mean() < (network(x).argmax(1) == y).float().mean()


def test_the_step_size_may_be_given(trained) -> None:
    network, test = trained
    x, y, at = test.images[:20].float() / 255, test.labels[:20], torch.arange(20)
    threat = AttackSpec(norm="linf", eps=0.1)
    default, same, other = (
        UntargetedPGD(threat, 3, 10, step_size=step)(network, x, y, at) for step in (None, 0.025, 0.003)
    )
    assert torch.equal(default, same)
    start = x + ball_noise(ball(threat), 0, "pgd", 0, at, x)
    assert (other - start.clamp(0, 1)).abs().max() <= 0.009 + 1e-6


def test_of_several_restarts_the_first_that_fools_counts(trained) -> None:
    network, test = trained
    x, y, at = test.images[:200].float() / 255, test.labels[:200], torch.arange(200)
    threat = AttackSpec(norm="linf", eps=0.12)

    def fooled(x_adv: Tensor) -> Tensor:
        return network(x_adv).argmax(1) != y

    once, thrice = (UntargetedPGD(threat, 1, 10, restarts=n)(network, x, y, at) for n in (1, 3))
    single = []
    for restart in range(3):
        start = x + ball_noise(ball(threat), 0, "pgd", restart, at, x)
        start.requires_grad_()
        (grad,) = torch.autograd.grad(nn.functional.cross_entropy(network(start), y, reduction="sum"), start)
        step = start.detach() + threat.eps / 4 * grad.sign()
        single.append(fooled(step.clamp(x - threat.eps, x + threat.eps).clamp(0, 1)))
    assert torch.equal(fooled(once), single[0])
    assert torch.equal(fooled(thrice), single[0] | single[1] | single[2])
    assert fooled(thrice).sum() > fooled(once).sum()
    assert torch.equal(thrice[fooled(once)], once[fooled(once)])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.5), ("l2", 3.0)])
def test_only_images_in_the_ball_and_in_the_range_count(norm: str, eps: float) -> None:
    threat = AttackSpec(norm=norm, eps=eps)
    x = torch.full((6, 3, 32, 32), 0.5)
    step = eps if norm == "linf" else eps / 3072**0.5
    x_adv = x + step
    x_adv[1] += 1e-3 * step
    x_adv[2, 0, 0, 0] = torch.nan
    x_adv[3], x[3] = 1 + 1e-5, 1.0
    x_adv[4], x[4] = -1e-5, 0.0
    x_adv[5] = x[5]
    assert inside(x_adv, x, threat).tolist() == [True, False, False, False, False, True]


class _PreActivation(nn.Module):
    """A block as PreAct ResNets have it: one norm before any convolution, one after the first, and a sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())


class _Branching(nn.Module):
    """Not traceable: what it does depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x if x.sum() > 0 else -x)
        return logits


def _settled(network: nn.Module) -> nn.Module:
    """The network with running statistics and affine weights as training leaves them: not 0 and 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.normal_(1.0, 0.3)
            module.running_var.uniform_(0.1, 3.0)
    return network.eval()


def _norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_folding_keeps_the_logits_and_drops_the_norms() -> None:
    torch.manual_seed(0)
    plain = [
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8),
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    x = torch.rand(32, 1, 8, 8)
    for layers, left in (([*plain, *head], 0), ([plain[0], _PreActivation(8), *head], 1)):
        network = _settled(nn.Sequential(*layers))
        before = _norms(network)
        quick = folded(network, x)
        assert quick is not None
        torch.testing.assert_close(quick(x), network(x), rtol=1e-5, atol=1e-5)
        assert (_norms(quick), _norms(network)) == (left, before)


@pytest.mark.parametrize(
    ("name", "left"), [("small-cnn", 0), ("resnet18", 0), ("preact-resnet18", 9), ("mlp", 0)]
)
def test_every_model_of_ours_can_be_folded(name: str, left: int) -> None:
    from training.models import MODELS, build
    from training.spec import Choice

    torch.manual_seed(0)
    narrow = {"width": 4} if "width" in MODELS.get(name, "model.name").parameters else {}
    network = _settled(build(Choice(name=name, **narrow), (3, 16, 16), 10, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)))
    x = torch.rand(8, 3, 16, 16)
    quick = folded(network, x)
    assert quick is not None
    assert _norms(quick) == left
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(quick(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_full_precision_is_for_verdicts_only() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_network_that_cannot_be_traced_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    network = _Branching()
    x = torch.rand(4, 1, 8, 8)
    network(x)
    with caplog.at_level(logging.INFO):
        assert folded(network.eval(), x) is None
    assert "not folded" in caplog.text


def test_a_folded_network_that_answers_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network = _settled(nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10)))
    monkeypatch.setattr("evaluation.folding.fuse", lambda net: nn.Sequential(net[0], net[2], net[3]))
    assert folded(network, torch.rand(4, 1, 8, 8)) is None


def test_members_depend_on_the_number_of_classes() -> None:
    everything = ("apgd-ce", "apgd-t", "fab-t", "square")
    assert [members(k) for k in (2, 3, 4, 10)] == [("apgd-ce", "square")] * 2 + [everything] * 2


def test_autoattack_leaves_the_generator_and_the_trace_function_alone(trained) -> None:
    network, test = trained
    x, y = test.images[:8].float() / 255, test.labels[:8]
    seen = []

    def trace(frame: object, event: str, arg: object) -> None:
        seen.append(event)

    before = sys.gettrace()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sys.settrace(trace)
    try:
        Member("apgd-ce", AttackSpec(eps=0.1), 10)(network, x, y, torch.arange(8))
        kept = sys.gettrace()
    finally:
        sys.settrace(before)
    assert kept is trace
    assert torch.equal(torch.rand(3), expected)

"""A hypersphere head's network is attacked at its own scale and at 1, and its robustness is the lower of both."""

import numpy as np
import pytest
import torch
from small_digits import digits, train

from evaluation import outcomes
from evaluation.folding import folded
from evaluation.run import evaluate
from evaluation.scales import at_scales
from evaluation.spec import EvaluationSpec
from training.models import build
from training.models.heads import Head
from training.spec import AttackSpec, Choice

THREAT = AttackSpec(eps=0.1)


def network(scale):
    choice = Choice(name="small-cnn", width=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(choice, (1, 8, 8), 10, (0.3,), (0.4,), Head(scale=scale))
        return train(net.train(), digits()[0], epochs=8, eps=0.1)


def judged(net, tmp_path, **spec):
    file = tmp_path / "outcome.parquet"
    wanted = EvaluationSpec(images=40, **spec)
    metrics = evaluate(
        net,
        digits()[1],
        wanted,
        THREAT,
        key="k",
        outcome=file,
        device=torch.device("cpu"),
        tell=lambda *_: None,
        stop=lambda: None,
    )
    return metrics, outcomes.read(file)


def test_the_two_scales_predict_the_same_from_other_logits():
    net = network(15.0)
    versions = at_scales(net)
    assert list(versions) == ["", "-unscaled"]
    x = digits()[1].images[:20].float() / 255
    with torch.no_grad():
        scaled, plain = (version(x) for version in versions.values())
    assert torch.equal(scaled.argmax(1), plain.argmax(1))
    assert torch.allclose(scaled, 15 * plain)
    assert plain.abs().max() <= 1 + 1e-6


def test_a_network_without_a_scale_is_attacked_once(tmp_path):
    assert list(at_scales(network(1.0))) == [""]
    assert list(at_scales(torch.nn.Linear(2, 2))) == [""]


@pytest.mark.parametrize("attack", ["pgd", "apgd-ce"])
def test_robust_is_what_stands_at_both_scales(tmp_path, attack):
    metrics, outcome = judged(network(10.0), tmp_path, attacks=(attack,))
    own, plain = outcome.columns[attack], outcome.columns[f"{attack}-unscaled"]
    assert np.array_equal(outcome.columns["robust"], own & plain)
    assert metrics["robust"] <= min(metrics[attack], metrics[f"{attack}-unscaled"])
    assert 0 < metrics["robust"] < metrics["clean"]


def test_the_scales_are_attacks_of_their_own(tmp_path):
    """At scale 300 cross-entropy is flat in float32, so that its own attack finds less than the unscaled one."""
    metrics, _ = judged(network(15.0), tmp_path / "a", attacks=("pgd",))
    sharp = network(15.0)
    sharp.head.scale.fill_(3000.0)
    blind, _ = judged(sharp, tmp_path / "b", attacks=("pgd",))
    assert blind["pgd"] > blind["pgd-unscaled"]
    assert blind["pgd-unscaled"] == metrics["pgd-unscaled"]


@pytest.mark.parametrize("angle", [False, True])
def test_a_hypersphere_network_can_be_folded(angle):
    choice = Choice(name="resnet18", width=4)
    net = build(choice, (3, 32, 32), 10, (0.5,) * 3, (0.3,) * 3, Head(scale=15.0, angle=angle)).eval()
    quick = folded(net, torch.rand(4, 3, 32, 32))
    assert quick is not None
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.modules())

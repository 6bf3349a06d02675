"""What holds for every method's second networks, its randomness, and what it never asks of the host.

The rows are those of every_method.py. What a method computes is for the tests against the papers.
"""

import dataclasses

import pytest
import torch
from every_method import (
    EVERY,
    SECTIONS,
    Step,
    method_of,
    same,
    searching,
)
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from training.guides import Average
from training.views import Moment

ROWS = pytest.mark.parametrize("name", EVERY)
EXACT = 1e-12  # of float64 weights around 1


# --- other networks


@pytest.mark.parametrize("name", [name for name in EVERY if method_of(SECTIONS[name]).guides])
def test_each_network_moves_as_its_guide_says_and_nothing_else_does(name):
    step = Step(name).plain(0.05)
    guides = step.method.guides
    for n in range(3):
        now = Moment(0, n, 3, 2)
        before = step.states()
        step.take(now)
        after = step.states()
        assert not same(before["student"], after["student"])
        for guide_name, guide in guides.items():
            mine, theirs = after[guide_name], after["student"]
            if isinstance(guide, Average):
                for key, expected in averaged(guide, n, before[guide_name], theirs).items():
                    assert (mine[key] - expected).abs().max() <= EXACT, key
            else:
                weights = dict(step.networks[guide_name].named_parameters())
                assert guide.trains == any(not torch.equal(before[guide_name][k], mine[k]) for k in weights)
                assert guide.trains or same(before[guide_name], mine)
    for guide_name, guide in guides.items():
        network = step.networks[guide_name]
        assert {m.training for m in network.modules()} == {guide.trains}
        assert {p.requires_grad for p in network.parameters()} == {guide.trains}


def averaged(guide, step, mine, theirs):
    """The moving average after one more step, as the papers write it."""
    decay = min(guide.decay, (1 + step) / (10 + step)) if guide.warmup else guide.decay
    expected = {}
    for key, tensor in theirs.items():
        copied = not tensor.is_floating_point() or ("running" in key and guide.statistics == "copy")
        expected[key] = tensor if copied else decay * mine[key] + (1 - decay) * tensor
    return expected


@ROWS
def test_the_optimiser_holds_what_trains_once_and_nothing_else(name):
    step = Step(name)
    held = [id(p) for group in step.optimizer.param_groups for p in group["params"]]
    trains = ["student", *(n for n, guide in step.method.guides.items() if guide.trains)]
    wanted = {id(p) for n in trains for p in step.networks[n].parameters()}
    assert len(held) == len(set(held))
    assert set(held) == wanted


def test_a_shared_network_has_the_students_weights_and_a_batchnorm_of_its_own():
    step = Step("lbgat (shared)")
    student, natural = (dict(step.networks[n].named_parameters()) for n in ("student", "natural"))
    norms = {"body.1", "body.4"}
    assert {key.rpartition(".")[0] for key in student if student[key] is not natural[key]} == norms
    assert {key.rpartition(".")[0] for key in student} > norms


# --- randomness


@ROWS
def test_the_seed_alone_decides_what_is_drawn(name):
    def after(seed, elsewhere):
        torch.manual_seed(elsewhere)  # what others draw does not matter
        step = Step(name).plain(0.1)
        torch.rand(3)
        step.take(seed=seed)
        return {**step.weights(), **step.state}

    one = after(1, 0)
    assert same(one, after(1, 7))
    draws = SECTIONS[name] not in ("standard", "free-at") and any(
        map(searching, method_of(SECTIONS[name]).stages)
    )
    assert same(one, after(2, 0)) != draws


# --- no look at the host


@ROWS
def test_a_step_never_reads_a_tensor_on_the_host(name):
    """Fake tensors have shapes and no values: reading one raises."""
    step = Step(name).plain(0.1)
    stages = [dataclasses.replace(s, steps=1) if searching(s) else s for s in step.method.stages]
    step.method = dataclasses.replace(step.method, stages=tuple(stages))
    with FakeTensorMode() as mode:
        step.map(mode.from_tensor)
        log = step.take()
        with pytest.raises(DataDependentOutputException):
            log["loss"].item()
    assert set(log) == {"loss", *(term.name for term in step.method.objective.named)}

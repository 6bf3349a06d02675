"""What holds for every method's search and step: points in the ball, weights and running statistics as they should be.

The rows are those of every_method.py. What a method computes is for the tests against the papers.
"""

import copy

import pytest
import torch
from every_method import (
    EPS,
    EVERY,
    SECTIONS,
    STEPS,
    TRAINED,
    Step,
    method_of,
    same,
    searching,
)

from training.guides import Average, Frozen
from training.squeeze import Squeeze
from training.stages import Extrapolate

ROWS = pytest.mark.parametrize("name", EVERY)
EXACT = 1e-12  # of float64 weights around 1


def far(images, norm):
    """How far each perturbation reaches, [N]."""
    return images.flatten(1).abs().amax(1) if norm == "linf" else images.flatten(1).norm(dim=1)


# --- points


@pytest.mark.parametrize(
    ("name", "norm"), [(name, "linf") for name in EVERY] + [(name, "l2") for name in TRAINED]
)
def test_points_lie_in_the_ball_and_in_the_unit_cube_but_for_help(name, norm):
    step = Step(name, norm, step=0.7).plain(0.1)
    step.take()  # FreeAT's noise is zero before
    eps = EPS if norm == "linf" else 1.0
    views = step.search()
    factors = [stage.factor for stage in step.method.stages if isinstance(stage, Extrapolate)]
    for point in views.seen:
        images = views.points(point).detach()
        away = far(images - step.x, norm)
        if point == "help":
            assert (away <= factors[0] * eps * (1 + EXACT)).all()
            assert images.min() < 0
            assert images.max() > 1
        else:
            assert (away <= eps * (1 + EXACT)).all(), point
            assert images.min() >= 0, point
            assert images.max() <= 1, point


@ROWS
def test_a_search_asks_about_images_outside_the_unit_cube_only_at_an_unclipped_start(name):
    step = Step(name)
    outside = 0

    def forward(network, x):
        nonlocal outside
        outside += bool(((x < 0) | (x > 1)).any())
        return network(x)

    step.search(forward)
    starts = [2 if isinstance(s, Squeeze) else not s.clip_start for s in step.method.stages if searching(s)]
    assert outside == sum(starts)


@pytest.mark.parametrize("name", ["fast-at", "pgd-at+fat", "trades+fat", "hat+fat+awp"])
def test_some_searches_start_inside_the_unit_cube(name):
    """As in the programs of FastAT and FAT."""
    assert all(stage.clip_start for stage in method_of(SECTIONS[name]).stages if searching(stage))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_free_at_keeps_its_noise_in_the_ball_and_lets_it_leave_the_image(norm):
    step = Step("free-at", norm)
    step.take()
    (noise,) = step.state.values()
    assert (far(noise, norm) <= (EPS if norm == "linf" else 1.0) * (1 + EXACT)).all()
    assert (step.x + noise).min() < 0
    assert (step.x + noise).max() > 1


# --- weights


@ROWS
def test_a_search_leaves_weights_gradients_and_modes_alone(name):
    step = Step(name)
    for network in step.networks.values():
        for p in network.parameters():
            p.grad = torch.full_like(p, 0.5)
    weights, flags = step.weights(), step.flags()

    def forward(network, x):
        assert not torch.is_grad_enabled() or not any(p.requires_grad for p in network.parameters())
        return network(x)

    step.search(forward)
    assert same(weights, step.weights())
    assert step.flags() == flags
    assert all((p.grad == 0.5).all() for network in step.networks.values() for p in network.parameters())


@ROWS
def test_a_search_that_fails_leaves_weights_and_modes_alone(name):
    step = Step(name)
    weights, flags, forwards = step.weights(), step.flags(), 0

    def counted(network, x):
        nonlocal forwards
        forwards += 1
        return network(x)

    step.search(counted)
    for fails_at in range(forwards):
        left = [None] * fails_at

        def failing(network, x, left=left):
            left.pop()
            return network(x)

        with pytest.raises(IndexError):
            step.search(failing)
        assert step.flags() == flags
    assert same(weights, step.weights())


@ROWS
def test_without_a_rate_weights_are_what_they_were(name):
    step = Step(name).plain(0.0)
    before = step.weights()
    step.take()
    for key, after in step.weights().items():
        assert (after - before[key]).abs().max() <= EXACT, key


@ROWS
def test_weights_move_by_the_rate_times_their_gradient_and_by_nothing_else(name):
    """Also where the gradient was taken elsewhere (AWP); a hypersphere's rows are then made unit."""
    step = Step(name).plain(0.05)
    trained = {"student": True} | {n: guide.trains for n, guide in step.method.guides.items()}
    before = {n: copy.deepcopy(step.networks[n]) for n, trains in trained.items() if trains}
    step.take()
    with torch.no_grad():
        for n, network in before.items():
            for p, moved in zip(network.parameters(), step.networks[n].parameters(), strict=True):
                p -= 0.05 * (0 if moved.grad is None else moved.grad)
    if step.method.head is not None:
        step.method.head.settle(before["student"])
    for n, network in before.items():
        for (key, p), moved in zip(network.named_parameters(), step.networks[n].parameters(), strict=True):
            assert (p - moved).abs().max() <= EXACT, (n, key)


# --- running statistics


@ROWS
def test_a_search_moves_running_statistics_as_its_stage_says(name):
    step = Step(name)
    views = step.views()
    for stage in step.method.stages:
        before = step.states()
        views = stage(views)
        moved = {n for n, state in step.states().items() if not same(before[n], state)}
        tracked = getattr(stage, "batchnorm", "eval") == "train-tracked"
        assert moved == ({"student"} if tracked else set())


@ROWS
def test_a_loss_moves_running_statistics_once_for_each_tracked_forward(name):
    searched = Step(name)
    searched.search()
    step = Step(name)
    step.take()
    method = step.method
    for n in step.networks:
        guide = method.guides.get(n)
        if isinstance(guide, Average):
            continue
        points = {at if isinstance(at, str) else at[0] for at in method.objective.reads if by(at) == n}
        batches = {next((g for g in method.together if point in g), point) for point in points}
        tracked = 0 if isinstance(guide, Frozen) else len(batches - method.untracked)
        expected = method.replays * (searched.updates()[n] + tracked)
        assert step.updates()[n] == expected, n


def by(at):
    return "student" if isinstance(at, str) else at[1]


UPDATES = {  # a step's updates of running statistics in the published programs, the search's first
    "standard": {"student": 1},
    "pgd-at": {"student": 0 + 1},
    "trades": {"student": 0 + 2},
    "trades (clean twice)": {"student": 0 + 3},
    "mart": {"student": 0 + 2},
    "alp": {"student": 0 + 2},
    "hat": {"student": 0 + 3, "standard": 0},
    "hat-at": {"student": 0 + 3, "standard": 0},
    "st": {"student": 0 + 2},
    "rst": {"student": 0 + 2},
    "free-at": {"student": 8},
    "fast-at": {"student": 1 + 1},
    "pgd-at+adr": {"student": STEPS + 1},
    "trades+adr": {"student": STEPS + 1 + 1},
    "pgd-at+adr+wa+awp (sam)": {"student": STEPS + 1},
    "pgd-at+awp": {"student": 0 + 1},
    "trades+awp": {"student": 0 + 2},
    "pgd-at+fat": {"student": 0 + 1},
    "trades+he": {"student": 0 + 2},
    "lbgat": {"student": 0 + 1, "natural": 1},
    "lbgat (beta 6)": {"student": 0 + 2, "natural": 1},
    "lbgat (shared)": {"student": 0 + 2, "natural": 1},
    "pgd-at+bgat": {"student": 0 + 1, "natural": 0},
    "alp+lbgat": {"student": 0 + 2, "natural": 1},
    "trades+two-neighbours": {"student": 0 + 3},
}


@pytest.mark.parametrize("name", UPDATES)
def test_running_statistics_move_as_often_as_the_published_program_moves_them(name):
    step = Step(name)
    step.take()
    assert {n: count for n, count in step.updates().items() if n != "average"} == UPDATES[name]

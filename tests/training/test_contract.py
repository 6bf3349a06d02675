"""What holds for every method: each recipe, each modifier on each recipe that admits it, the papers' combinations.

The rows are those of every_method.py. What a method computes is for the tests against the papers.
"""

import copy
import dataclasses
import math
import pickle
import re
from typing import get_args

import pytest
import torch
from every_method import (
    EPS,
    EVERY,
    NOW,
    SECTIONS,
    SINGLE,
    STEPS,
    TRAINED,
    Step,
    assert_same,
    method_of,
    refusal,
    spec_of,
    stop_after,
    tensors,
    training_of,
)
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from training import checkpoint
from training.errors import Stopped
from training.fit import Control
from training.guides import Average, Frozen
from training.recipes import MODIFIERS, RECIPES
from training.squeeze import Squeeze
from training.stages import PGD, Extrapolate
from training.views import Moment, value

ROWS = pytest.mark.parametrize("name", EVERY)
EXACT = 1e-12  # of float64 weights around 1


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


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


def searching(stage):
    return isinstance(stage, (PGD, Squeeze))


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


# --- what a method says of itself


@ROWS
def test_methods_compare_and_pickle(name):
    one, two = method_of(SECTIONS[name]), method_of(SECTIONS[name])
    assert one == two
    assert pickle.loads(pickle.dumps(one)) == one
    assert (method_of(SECTIONS[name], eps=EPS / 2) == one) == (not one.stages or not uses_eps(one))


def uses_eps(method):
    return any(hasattr(stage, "ball") for stage in method.stages)


@ROWS
def test_methods_print_what_they_are(name):
    method = method_of(SECTIONS[name])
    assert " at 0x" not in re.sub(r"update=<function descend at \w+>", "", repr(method))
    number = r"([\d.e+-]+|\([^()]*(\([^()]*\))*[^()]*\))\*"
    term = r"[A-Za-z\d-]+\([^()]+\)(\*\(1 - p_y\([^()]+\)\))?"
    assert re.fullmatch(rf"({number})?{term}( \+ ({number})?{term})*", method.formula), method.formula


@ROWS
def test_the_terms_of_a_loss_have_names_that_trackers_take_and_tell_apart(name):
    names = [term.name for term in method_of(SECTIONS[name]).objective.named]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", term) for term in names)


@ROWS
def test_the_logged_terms_add_up_to_the_logged_loss(name):
    step = Step(name)
    log = step.take()
    total = sum(value(weight, NOW) * log[term.name] for weight, term in step.method.objective.terms)
    assert log["loss"].item() == pytest.approx(total.item(), rel=1e-12)
    assert not any(tensor.requires_grad for tensor in log.values())


FORMULAS = {
    "standard": "CE(clean)",
    "pgd-at": "CE(adv)",
    "trades": "CE(clean) + 6*KL(adv to clean)",
    "trades (clean twice)": "CE(clean) + 6*KL(adv to again)",
    "trades (js)": "CE(clean) + 6*JS(adv ~ clean)",
    "trades (ramp)": "CE(clean) + (0, then 6 from 0.5)*KL(adv to clean)",
    "mart": "5*KL(adv to clean)*(1 - p_y(clean)) + CE(adv) + runner-up(adv)",
    "alp": "0.5*CE(clean) + 0.5*CE(adv) + 0.5*MSE(adv, clean)",
    "alp+he": "0.5*CE(clean, margin 3) + 0.5*CE(adv, margin 3) + 0.5*MSE(adv, clean / 15)",
    "hat": "CE(clean) + 2.5*KL(adv to clean) + 0.5*CE(help, help label)",
    "hat-at": "CE(clean) + 1.75*CE(adv) + CE(help, help label)",
    "st": "CE(clean) + 6*KL(worst ~ best of clean, adv, col)",
    "lbgat": "MSE(adv, clean by natural) + CE(clean by natural)",
    "trades+lbgat": "MSE(adv, clean by natural) + CE(clean by natural) + 6*KL(adv to clean)",
    "pgd-at+bgat": "MSE(adv, clean by natural)",
    "trades+adr": "CE(clean, rectified label) + 6*KL(adv to clean)",
    "pgd-at+label-smoothing": "CE(adv, smooth label)",
    "pgd-at+two-neighbours": "0.5*CE(adv) + 0.5*CE(twin)",
    "free-at": "CE(adv)",
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_is_the_papers(name):
    assert method_of(SECTIONS[name]).formula == FORMULAS[name]


PARAMETERS = [
    (kind, name, parameter)
    for kind, registry in (("recipe", RECIPES), ("modifier", MODIFIERS))
    for name, entry in registry.entries.items()
    for parameter in entry.parameters
]
OTHERS = {  # where a default does not tell what else there could be
    "fat.tau": 1.0,
    "he.scale": 20.0,
    "lbgat.model": "mlp",
    "lbgat.parameters": {"width": 3},
    "pretrained.by": "pgd-at",
}
WITH_IT = {"lbgat.parameters": {"model": "small-cnn"}, "he.features": {"margin": 0.0}}


@pytest.mark.parametrize(("kind", "name", "parameter"), PARAMETERS)
def test_every_parameter_that_a_spec_can_set_makes_another_method(kind, name, parameter):
    entry = (RECIPES if kind == "recipe" else MODIFIERS).entries[name]
    also = WITH_IT.get(f"{name}.{parameter}", {})
    other = also | {parameter: another(entry, parameter)}

    def method(given):
        if kind == "recipe":
            return method_of({"name": name, **given})
        first = next(single.partition("+")[0] for single in SINGLE if single.endswith(f"+{name}"))
        base = "pgd-at" if f"pgd-at+{name}" in SINGLE else first
        return method_of({"name": base, "with": {name: given}})

    assert method(other) != method(also)


def another(entry, parameter):
    """A value that the parameter may have, and by default has not."""
    default, hint = entry.parameters[parameter].default, entry.hints[parameter]
    choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
    if f"{entry.name}.{parameter}" in OTHERS:
        return OTHERS[f"{entry.name}.{parameter}"]
    if choices:
        return next(choice for choice in choices if choice != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    return 0.25 if default != 0.25 else 0.5


# --- what makes no sense

UNSEARCHED = {"standard", "free-at", "st"}  # no PGD search
REFUSES = {
    "adr": UNSEARCHED | {"mart", "lbgat"},
    "awp": {"free-at"},
    "bgat": UNSEARCHED | {"mart", "lbgat"},
    "fat": UNSEARCHED | {"fast-at"},
    "he": {"lbgat"},
    "label-smoothing": set(),
    "lbgat": UNSEARCHED | {"mart", "lbgat"},
    "m-he": {"lbgat"},
    "pretrained": set(),
    "two-neighbours": UNSEARCHED,
    "wa": set(),
}
REFUSES_AFTER = {  # on PGD-AT; where TRADES differs, see below
    "adr": {"bgat", "label-smoothing", "lbgat"},
    "awp": set(),
    "bgat": {"adr", "he", "label-smoothing", "lbgat", "m-he", "two-neighbours"},
    "fat": set(),
    "he": {"bgat", "lbgat", "m-he"},
    "label-smoothing": {"adr", "bgat"},
    "lbgat": {"adr", "bgat", "he", "label-smoothing", "m-he", "two-neighbours"},
    "m-he": {"bgat", "he", "lbgat"},
    "pretrained": set(),
    "two-neighbours": set(),
    "wa": set(),
}
REFUSED = {  # for what is asked of them
    "he: nothing left": {
        "name": "pgd-at",
        "with": {"he": {"features": False, "weights": "free", "margin": 0}},
    },
    "he: angle without features": {
        "name": "pgd-at",
        "with": {"he": {"features": False, "angle": True, "margin": 0}},
    },
    "he: on a shared network": {"name": "lbgat", "shared": True, "with": {"he": {}}},
    "wa: another decay": {"name": "pgd-at", "with": {"adr": {}, "wa": {"decay": 0.9}}},
    "wa: another warm-up": {"name": "pgd-at", "with": {"adr": {}, "wa": {"warmup": True}}},
    "adr: another decay": {"name": "pgd-at", "with": {"wa": {"decay": 0.9}, "adr": {}}},
    "label-smoothing: no clean loss": {"name": "pgd-at", "with": {"label-smoothing": {"where": "clean"}}},
    "pretrained: needs help itself": {"name": "pgd-at", "with": {"pretrained": {"by": "hat"}}},
    "lbgat: shared with a model": {"name": "pgd-at", "with": {"lbgat": {"shared": True, "model": "mlp"}}},
    "lbgat: no such model": {"name": "pgd-at", "with": {"lbgat": {"model": "resnet81"}}},
    "lbgat: no such parameter": {
        "name": "pgd-at",
        "with": {"lbgat": {"model": "mlp", "parameters": {"hiden": [8]}}},
    },
    "lbgat: parameters of no model": {"name": "pgd-at", "with": {"lbgat": {"parameters": {"width": 3}}}},
}


def gives_a_reason(told, modifier):
    return re.match(rf"method\.with\.{modifier}(\.\w+)*: [\w'].{{25,}}", told)


@pytest.mark.parametrize("modifier", MODIFIERS.entries)
@pytest.mark.parametrize("recipe", RECIPES.entries)
def test_a_recipe_refuses_the_modifiers_that_make_no_sense_on_it(recipe, modifier):
    told = refusal(f"{recipe}+{modifier}")
    assert (told is not None) == (recipe in REFUSES[modifier])
    assert told is None or gives_a_reason(told, modifier)


@pytest.mark.parametrize("second", MODIFIERS.entries)
@pytest.mark.parametrize("base", ["pgd-at", "trades"])
def test_a_modifier_refuses_those_that_it_cannot_follow(base, second):
    refused = set()
    for first in MODIFIERS.entries:
        told = refusal(f"{base}+{first}+{second}") if first != second else None
        if told is not None:
            assert gives_a_reason(told, second)
            refused.add(first)
    assert refused == REFUSES_AFTER[second]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_asked_of_a_modifier_is_refused_where_it_makes_no_sense(name):
    told = refusal(REFUSED[name])
    assert told is not None
    assert gives_a_reason(told, name.partition(":")[0])


# --- whole trainings


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trains a row to its end, once: the folder, and what the validated networks said after each epoch."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("whole")
            training = training_of(spec_of(name), folder)
            judge, answers = training.judge, []

            def judged(network, epoch):
                answers.append(answers_of(network))
                return judge(network, epoch)

            training.judge = judged
            for _ in training.run(Control()):
                pass
            made[name] = folder, answers
        return made[name]

    return run


@torch.no_grad()
def answers_of(network):
    """Logits of a few images in eval mode."""
    mode = network.training
    network.eval()
    logits = network(torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    network.train(mode)
    return logits


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_that_was_interrupted_ends_bit_for_bit_where_a_whole_one_ends(name, whole, tmp_path):
    folder, _ = whole(name)
    first = training_of(spec_of(name), tmp_path)
    with pytest.raises(Stopped):
        list(first.run(stop_after(4)))
    assert checkpoint.position(tmp_path, "k") == (1, 1)
    torch.rand(5)  # the process that goes on has drawn other things
    second = training_of(spec_of(name), tmp_path)
    assert second.restore()
    list(second.run(Control()))
    for file in (checkpoint.LAST, checkpoint.BEST):
        assert_same(tensors(folder, file), tensors(tmp_path, file))


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_gives_the_very_network_that_was_validated(name, whole):
    folder, answers = whole(name)
    for file in (checkpoint.LAST, checkpoint.BEST):
        network, _, facts = checkpoint.load_network(folder / file)
        epoch = facts["epoch"] if file == checkpoint.BEST else -1
        assert not network.training
        assert torch.equal(answers_of(network), answers[epoch])
    assert not torch.equal(answers[0], answers[1])


@pytest.mark.parametrize("name", ["standard", "free-at"])
def test_another_seed_is_another_run_where_a_step_draws_nothing(name):
    def begin(seed):
        training = training_of(spec_of(name).model_copy(update={"seed": seed}))
        training._step(torch.arange(48))
        return dict(training.networks["student"].named_parameters())

    assert same(begin(1), begin(1))
    assert not same(begin(1), begin(2))


# --- precision and compilation


@pytest.mark.parametrize(
    "name", [*RECIPES.entries, *(f"trades+{modifier}" for modifier in MODIFIERS.entries)]
)
def test_a_step_in_bf16_and_channels_last(name):
    """The weights stay in float32, and the loss is about that of float32."""
    losses = []
    for options in ({"precision": "bf16", "channels_last": True}, {}):
        training = training_of(spec_of(name, **options))
        training._step(torch.arange(training.batches.batch_size * len(training.batches)))
        losses.append(training.sums["loss"].item())
        weights = list(training.networks["student"].parameters())
        assert all(p.isfinite().all() and p.dtype == torch.float32 for p in weights)
    assert math.isfinite(losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_a_hypersphere_is_not_rounded_to_bf16():
    """Where a cosine is 0.999, bfloat16 says 1, and its arccos has no slope."""
    training = training_of(spec_of("trades+m-he", precision="bf16"))
    head = training.networks["student"].head
    features = (head.weight[:1].detach() + 0.01).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features)
    assert logits[0, 0] > head(features)[0].sort().values[-2]
    assert torch.equal(logits, head(features))
    logits[0, 0].backward()
    assert features.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


COMPILED = {  # how many callables; judging takes two, in eval mode with and without a gradient
    "st": 2 + 3,  # searching, training, and training on col, which is not tracked
    "pgd-at+adr": 2 + 3,  # the average, searching in train mode, training
    "lbgat": 2 + 2,  # searching is like judging; training, of two networks
    "free-at": 2 + 1,  # one backward for both
    "trades+he": 2 + 1,  # searching is like judging
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_training_never_recompiles(name):
    """One callable per network, mode and gradient; the eager backend checks the guards without a C++ compiler."""
    import torch._dynamo

    torch._dynamo.reset()
    plain, ours = training_of(spec_of(name)), training_of(spec_of(name))
    ours.forward.compile, ours.forward.backend = True, "eager"
    with torch._dynamo.config.patch(error_on_recompile=True):
        for training in (plain, ours):
            for _ in range(2):
                training._step(torch.arange(48))
                training.judge(training.networks[training.method.evaluate], 0)
                training.step = 0
    assert ours.sums["loss"].item() == pytest.approx(plain.sums["loss"].item(), rel=1e-5)
    assert len(ours.forward.compiled) == COMPILED[name]

"""Every method that a spec can name, as one table, and what it takes to run one on a few small images.

Recipes and modifiers come from their registries: a new one is under every test of test_contract_*.py at once. A method
that makes no sense is no row of the table; test_contract_refusals.py lists those.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training import checkpoint
from training.data import Dataset, load
from training.errors import UserError
from training.fit import Control, Training
from training.method import Method
from training.models import build as build_model
from training.recipes import MODIFIERS, RECIPES, build
from training.resolve import resolve
from training.spec import AttackSpec, MethodChoice, TrialSpec
from training.squeeze import Squeeze
from training.stages import PGD
from training.views import Forward, Moment, Views, plain_forward

CPU = torch.device("cpu")
STEPS = 2  # of every search
EPS = 0.2
NOW = Moment(epoch=1, step=1, steps=3, epochs=2)  # every schedule is under way

TOGETHER = (  # the papers' longer combinations
    "hat+awp+wa",
    "hat+fat+awp",
    "hat+label-smoothing+wa",
    "pgd-at+adr+wa",
    "trades+adr+wa",
    "pgd-at+fat+adr",
    "trades+fat+awp",
    "trades+he+awp",
    "alp+m-he+wa",
    "free-at+he+wa",
    "st+awp+wa",
    "trades+two-neighbours+awp",
    "pgd-at+two-neighbours+fat",
    "mart+two-neighbours+he",
    "trades+lbgat+two-neighbours",
    "lbgat+awp+wa",
    "alp+lbgat+wa",
    "pgd-at+pretrained+awp",
    "trades+pretrained+bgat",
)
SAM = {"awp": {"form": "sam"}}
VARIANTS = {  # parameters that change which parts a method is made of
    "trades (clean twice)": {"name": "trades", "clean_twice": True},
    "free-at (noise clipped)": {"name": "free-at", "clip": "noise"},
    "trades (js)": {"name": "trades", "regulariser": "js"},
    "trades (l2, tracked search)": {"name": "trades", "regulariser": "l2", "batchnorm": "train-tracked"},
    "hat (label half way)": {"name": "hat", "label_at": 0.5, "factor": 3.0, "batchnorm": "train-untracked"},
    "st (js)": {"name": "st", "regulariser": "js", "start": "uniform"},
    "st (l2, eval search)": {"name": "st", "regulariser": "l2", "batchnorm": "eval"},
    "lbgat (beta 6)": {"name": "lbgat", "beta": 6.0},
    "lbgat (shared)": {"name": "lbgat", "beta": 6.0, "shared": True},
    "lbgat (kl, student ce)": {"name": "lbgat", "guidance": "kl", "student_ce": True},
    "lbgat (another model)": {"name": "lbgat", "model": "small-cnn", "parameters": {"width": 3}},
    "pgd-at+bgat (two networks)": {"name": "pgd-at", "with": {"bgat": {"networks": 2}}},
    "pgd-at+adr+wa+awp (sam)": {"name": "pgd-at", "with": {"adr": {}, "wa": {}} | SAM},
    "trades+adr+wa+awp (sam)": {"name": "trades", "with": {"adr": {}, "wa": {}} | SAM},
    "lbgat+awp (sam)": {"name": "lbgat", "with": SAM},
    "pgd-at+he (differentiate)": {"name": "pgd-at", "with": {"he": {"weights": "differentiate"}}},
    "pgd-at+he (features only)": {"name": "pgd-at", "with": {"he": {"weights": "free", "margin": 0.0}}},
    "pgd-at+he (weights only)": {"name": "pgd-at", "with": {"he": {"features": False, "margin": 0.0}}},
    "pgd-at+he (margin only)": {"name": "pgd-at", "with": {"he": {"features": False, "weights": "free"}}},
    "trades+wa (copy, warm-up)": {"name": "trades", "with": {"wa": {"statistics": "copy", "warmup": True}}},
    "pgd-at+label-smoothing (everywhere)": {
        "name": "pgd-at",
        "with": {"label-smoothing": {"where": "everywhere"}},
    },
    "hat+label-smoothing (clean)": {"name": "hat", "with": {"label-smoothing": {"where": "clean"}}},
    "trades (ramp)": {"name": "trades", "beta": {"steps": [[0, 0], [0.5, 6]]}},
}


def method_of(section: str | dict, **attack: object) -> Method:
    """The method of a spec's section, its parameters filled in; UserError where it makes no sense."""
    choice = MethodChoice.model_validate(section)
    attack = {"eps": EPS, "steps": STEPS} | attack
    recipe = RECIPES.get(choice.name, "method.name").resolve(choice.parameters, "method")
    modifiers = {
        name: MODIFIERS.get(name, "method.with").resolve(given, f"method.with.{name}")
        for name, given in choice.with_.items()
    }
    whole = {"name": choice.name, "with": modifiers} | recipe
    return build(MethodChoice.model_validate(whole), AttackSpec.model_validate(attack))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Are these tensors equal, bit for bit?"""
    return all(torch.equal(one[key], other[key]) for key in one)


def searching(stage: object) -> bool:
    """Does this stage look for adversarial points?"""
    return isinstance(stage, (PGD, Squeeze))


def refusal(section: str | dict) -> str | None:
    """What a user is told who asks for this method; None when there is such a method."""
    try:
        method_of(section)
    except UserError as error:
        return str(error)
    return None


SINGLE = tuple(
    f"{recipe}+{modifier}"
    for recipe in RECIPES.entries
    for modifier in MODIFIERS.entries
    if refusal(f"{recipe}+{modifier}") is None
)
SECTIONS: dict[str, str | dict] = {name: name for name in (*RECIPES.entries, *SINGLE, *TOGETHER)} | VARIANTS
EVERY = tuple(SECTIONS)

TRAINED = (  # every recipe, each modifier on the first of its recipes, and what carries state of its own
    *RECIPES.entries,
    *(
        next(name for name in SINGLE if name.endswith(f"+{modifier}") and not name.startswith("standard"))
        for modifier in MODIFIERS.entries
    ),
    "free-at+he+wa",
    "lbgat (shared)",
    "lbgat (another model)",
    "lbgat+awp+wa",
    "pgd-at+bgat (two networks)",
    "pgd-at+adr+wa+awp (sam)",
    "trades+adr+wa",
    "trades+wa (copy, warm-up)",
    "trades (ramp)",
    "alp+m-he+wa",
)


@functools.cache
def spec_of(name: str, norm: str = "linf", step: float = 0.25, **train: object) -> TrialSpec:
    """The resolved spec of a row: real digits, a small network, two epochs of three steps.

    Args:
        step: of a search, as a share of eps.
    """
    data = {"name": "digits", "train_size": 64, "val": 0.25, "augment": "crop-flip"}
    if method_of(SECTIONS[name]).extra:
        data["extra"] = {"path": str(_extra()), "share": 0.25}
    eps = EPS if norm == "linf" else 1.0
    schedule = {"name": "onecycle", "momentum": [0.95, 0.85]}
    short = {"epochs": 2, "batch_size": 16, "validate_steps": 1, "decay_norms": False, "schedule": schedule}
    facts = {
        "method": SECTIONS[name],
        "data": data,
        "model": {"name": "small-cnn", "width": 2, "hidden": 8},
        "train": short | train,
        "attack": {"norm": norm, "eps": eps, "steps": STEPS, "step_size": step * eps},
    }
    return resolve(TrialSpec.model_validate(facts))


_FOLDER = tempfile.TemporaryDirectory()  # goes with the process


@functools.cache
def _extra() -> Path:
    """A file of extra images, for the methods that want some."""
    file = Path(_FOLDER.name) / "extra.npz"
    draw = np.random.default_rng(0)
    images, labels = draw.integers(256, size=(40, 8, 8, 1), dtype=np.uint8), draw.integers(10, size=40)
    np.savez(file, image=images, label=labels)
    return file


@functools.cache
def _digits(with_extra: bool) -> Dataset:
    return load(spec_of("rst" if with_extra else "standard").data)


def training_of(spec: TrialSpec, folder: Path = Path("nowhere")) -> Training:
    """The networks and the optimiser as the loop makes them; helpers are networks that nobody trained."""
    data = _digits(spec.data.extra is not None)
    helpers = {}
    for helper in build(spec.method, spec.attack).helpers:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(helper.name.encode()))
            shape = tuple(data.train.images.shape[1:])
            helpers[helper.name] = build_model(spec.model, shape, data.classes, data.mean, data.std).eval()
    return Training(spec, data, folder, "k", CPU, helpers)


def stop_after(steps: int, why: str = "signal") -> Control:
    """Asks to stop once so many steps have been taken."""
    asked = iter(range(10**6))
    return Control(stop=lambda: why if next(asked) >= steps else None)


class Step:
    """A row of the table about to take one step on eight images, in float64.

    Running statistics are not those of the batch, and pixels lie at both ends of [0, 1].
    """

    def __init__(self, name: str, norm: str = "linf", step: float = 0.25) -> None:
        training = training_of(spec_of(name, norm, step))
        self.networks, self.optimizer, self.method = training.networks, training.optimizer, training.method
        self.state: dict[str, Tensor] = {}
        draw = torch.Generator().manual_seed(5)
        for network in self.networks.values():
            network.double()
            if self.method.head is not None:
                self.method.head.settle(network)  # rows that were unit in float32
            for layer in norms(network):
                layer.running_mean.uniform_(-0.3, 0.3, generator=draw)
                layer.running_var.uniform_(0.5, 1.5, generator=draw)
        self.x = (1.4 * torch.rand(8, 1, 8, 8, generator=draw, dtype=torch.float64) - 0.2).clamp(0, 1)
        self.label = torch.eye(10, dtype=torch.float64)[torch.randint(10, (8,), generator=draw)]

    def plain(self, lr: float) -> Step:
        """With each minibatch trained on once, by an optimiser that knows nothing but the rate and the gradient."""
        self.method = dataclasses.replace(self.method, replays=1)
        for group in self.optimizer.param_groups:
            group |= {"lr": lr, "momentum": 0, "nesterov": False, "weight_decay": 0}
        return self

    def views(self, forward: Forward = plain_forward) -> Views:
        """The minibatch before any stage."""
        points, targets = {"clean": self.x}, {"label": self.label}
        return Views(self.networks, points, targets, NOW, forward, state=self.state)

    def search(self, forward: Forward = plain_forward) -> Views:
        """What the stages make of the minibatch."""
        views = self.views(forward)
        for stage in self.method.stages:
            views = stage(views)
        return views

    def take(self, now: Moment = NOW, seed: int = 0) -> dict[str, Tensor]:
        """One whole step; what it logs."""
        return self.method.step(
            self.networks, self.optimizer, self.x, self.label, now, seed=seed, state=self.state
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put other tensors in the place of those that there are, the same ones in the same places."""
        for network in self.networks.values():
            for module in network.modules():
                for held in (module._parameters, module._buffers):
                    held.update({key: change(tensor) for key, tensor in held.items() if tensor is not None})
        for group in self.optimizer.param_groups:
            group["params"] = [change(p) for p in group["params"]]
        self.x, self.label = change(self.x), change(self.label)

    def weights(self) -> dict[str, Tensor]:
        """A copy of every parameter of every network."""
        return {
            f"{name}/{key}": p.detach().clone()
            for name, network in self.networks.items()
            for key, p in network.named_parameters()
        }

    def states(self) -> dict[str, dict[str, Tensor]]:
        """A copy of every tensor of every network."""
        return {
            name: {key: tensor.clone() for key, tensor in network.state_dict().items()}
            for name, network in self.networks.items()
        }

    def flags(self) -> list[tuple[object, ...]]:
        """Everything about networks that is no number: modes, tracking, what wants gradients and which they are."""
        return [
            (m.training, getattr(m, "track_running_stats", None), p.requires_grad, id(p.grad))
            for network in self.networks.values()
            for m in network.modules()
            for p in m.parameters()
        ]

    def updates(self) -> dict[str, int]:
        """How often the running statistics of each network have moved."""
        return {
            name: int(max(layer.num_batches_tracked for layer in norms(network)))
            for name, network in self.networks.items()
        }


def norms(network: nn.Module) -> list[_BatchNorm]:
    """A network's BatchNorm layers."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def tensors(folder: Path, name: str = checkpoint.LAST) -> dict[str, object]:
    """Every tensor and number of a checkpoint, by its place, except how long training took."""
    found: dict[str, object] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, dict):
            for k, v in value.items():
                walk(v, f"{path}/{k}")
        elif isinstance(value, list):
            for i, v in enumerate(value):
                walk(v, f"{path}/{i}")
        elif not path.endswith("/seconds"):
            found[path] = value

    walk(checkpoint.load(folder / name), "")
    return found


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    """Equal bit for bit."""
    assert one.keys() == other.keys()
    for path, value in one.items():
        same = torch.equal(value, other[path]) if isinstance(value, Tensor) else value == other[path]
        assert same, path

"""From a configuration to a trial that can run: resolved spec, key, helpers, evaluations, label, cost.

Reads data and checkpoints, writes nothing, and finds every mistake that can be found before anything starts.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from evaluation.spec import EvaluationSpec
from orchestrate import configuration, helpers
from orchestrate.imports import Imports
from orchestrate.labels import Labels, head, placed
from orchestrate.loading import loading
from orchestrate.runs import Runs
from orchestrate.search import Config, name_of, proposer
from orchestrate.sweep_file import Sweep, dotted, explain, probes
from training.errors import UserError
from training.registry import nearest
from training.setups import laid_over
from training.spec import Choice, DataSpec, TrialSpec

if TYPE_CHECKING:
    from training.guides import Helper


@dataclass(frozen=True)
class Wanted:
    """One trial that a sweep wants. ``cost`` is in network passes, in millions of images."""

    config: Config
    seed: int
    spec: TrialSpec
    key: str
    formula: str
    label: str
    helpers: tuple[Wanted, ...] = ()
    evaluations: dict[str, EvaluationSpec] = field(default_factory=dict)
    cost: float = 0.0
    images: int = 0  # for training and validation
    configuration: str = ""  # what it has in common with other seeds: see orchestrate.configuration


@dataclass(frozen=True)
class _Data:
    """What planning needs to know of a data set."""

    digest: str
    images: int  # for training and validation
    shape: tuple[int, int, int]
    classes: int


@dataclass(frozen=True)
class _Reference:
    """Where a network is that was trained before, and as what."""

    place: dict[str, str]
    spec: TrialSpec


class Planner:
    """Turns the configurations of one sweep into trials, and remembers what it read on the way.

    Args:
        downloads: where checkpoints of tracked runs are kept that helpers refer to; default: in ``runs``.

    Raises:
        UserError: one of the sweep's own Python files is not there, or goes wrong when it is loaded.
    """

    def __init__(self, sweep: Sweep, runs: Runs, downloads: Path | None = None) -> None:
        self.sweep, self.runs = sweep, runs
        self.downloads = downloads or runs.path / "helpers"
        self.imports = Imports.of(sweep, runs)
        self.imports.load()
        self._labels = Labels(sweep)
        self._data: dict[tuple[DataSpec, int, str], _Data] = {}
        self._wanted: dict[tuple[str, int], Wanted] = {}
        self._references: dict[str, _Reference] = {}

    def want(self, config: Config, seed: int) -> Wanted:
        """The trial of a configuration and a seed.

        Raises:
            UserError: naming the file (or override) and the field.
        """
        name = (name_of(config), seed)
        if name not in self._wanted:
            self._wanted[name] = self._plan(config, seed)
        return self._wanted[name]

    def check(self) -> list[Wanted]:
        """Every trial of the file with every space at its ends: all mistakes come out here. Raises UserError."""
        wanted = [
            self.want(config, self.sweep.seeds_of(config)[0])
            for index in range(len(self.sweep.trials))
            for config in probes(self.sweep, index)
        ]
        self._check_helper_names(wanted)
        self._check_resources()
        return wanted

    def warnings(self) -> list[str]:
        """What is legal and probably wrong, one sentence each. Raises UserError as :meth:`check`."""
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        same: list[str] = []
        keys: dict[str, int] = {}
        for wanted in self.check():
            index = wanted.config["trial"]
            for path, problem in self._doubts(wanted.spec):
                found[path, problem] += [] if index in found[path, problem] else [index]
            first = keys.setdefault(wanted.key, index)
            if first != index:
                same.append(f"trials[{first}] and trials[{index}] are the same trial; it runs once")
        doubts = [
            f"{self.sweep.where(indices[0], path)}: {problem}" + _more(len(indices) - 1)
            for (path, problem), indices in found.items()
        ]
        return [*doubts, *dict.fromkeys(same), *self._doubts_about_the_sweep()]

    def _plan(self, config: Config, seed: int) -> Wanted:
        index = config["trial"]
        try:
            spec = TrialSpec.model_validate(placed(self.sweep, config) | {"seed": seed})
        except ValidationError as error:
            loc, problem = explain(error, TrialSpec)
            raise UserError(f"{self.sweep.where(index, dotted(loc))}: {problem}") from None
        try:
            planned = self._resolved(spec)
        except UserError as error:
            raise UserError(self._placed(index, str(error))) from None
        evaluations = {e.digest(planned.spec.attack): e for e in self.sweep.evaluate.specs()}
        label = self._labels.of(config)
        return replace(planned, config=config, label=label, evaluations=evaluations)

    def _resolved(self, spec: TrialSpec) -> Wanted:
        """A trial without a place in the sweep. Messages begin with the path of a field of the spec."""
        with loading("torch"):
            from training import extensions
            from training.resolve import check_start, cost, formula, needed_helpers, resolve

        spec = resolve(_with_root(spec), where="")
        data = self._data_of(spec)
        _check_model(spec, data)
        references: dict[str, dict[str, str]] = {}
        imports = extensions.used_by(spec)
        alike: dict[str, str] = {}  # configurations of the helpers
        planned: list[Wanted] = []
        for needed in needed_helpers(spec):
            given = spec.helpers.get(needed.name, {})
            if helpers.is_reference(given):
                there = self._refer(spec, needed.name, given)
                references[needed.name] = there.place
                trained = there.spec
                alike[needed.name] = configuration.of_reference(there.place, trained)
            else:
                helper = self._helper(spec, needed, given)
                planned.append(helper)
                references[needed.name] = {"key": helper.key}
                trained = helper.spec
                alike[needed.name] = helper.configuration
            imports |= trained.imports
            check_start(spec, needed, trained)
        spec = spec.model_copy(update={"helpers": references, "imports": dict(sorted(imports.items()))})
        return Wanted(
            config={},
            seed=spec.seed,
            spec=spec,
            key=spec.key(data.digest),
            formula=formula(spec),
            label=f"{head(spec.method.name, spec.method.with_)} (helper)",
            helpers=tuple(planned),
            cost=cost(spec, data.images),
            images=data.images,
            configuration=configuration.digest(spec, alike),
        )

    def _helper(self, spec: TrialSpec, needed: Helper, given: Mapping[str, Any]) -> Wanted:
        """The trial of a network that another needs; ``given`` is what that one's ``helpers`` say of it."""
        from training.resolve import helper_spec

        at = f"helpers.{needed.name}"
        try:
            given = laid_over(given) if "setup" in given else given
            planned = self._resolved(helper_spec(spec, needed, given))
        except ValidationError as error:
            loc, problem = explain(error, TrialSpec)
            raise UserError(f"{at}.{dotted(loc)}: {problem}") from None
        except UserError as error:
            own = f"{at}." if str(error).partition(".")[0] in given else ""
            raise UserError(f"{own}{error}") from None
        except ValueError as error:
            raise UserError(f"{at}.setup: {error}") from None
        for name in given.get("helpers") or {}:
            if name not in planned.spec.helpers:
                raise UserError(f"{at}.helpers.{name}: {_not_needed(name, planned.spec.helpers)}")
        return planned

    def _refer(self, spec: TrialSpec, name: str, given: Mapping[str, Any]) -> _Reference:
        """A network that is there already, checked against the trial's data."""
        import torch

        from orchestrate.trial import load_helper
        from training.data import load

        remembered = name_of({"given": dict(given), "data": spec.data.model_dump(mode="json")})
        if remembered not in self._references:
            place = helpers.refer(given, f"helpers.{name}", self.runs, self.downloads)
            _, trained = load_helper(name, place, self.runs, load(spec.data), torch.device("cpu"))
            self._references[remembered] = _Reference(place, trained)
        return self._references[remembered]

    def _data_of(self, spec: TrialSpec) -> _Data:
        """Digest and size of the data; raises what the trial itself would when they are too few."""
        name = (spec.data, spec.train.batch_size, spec.selection)
        if name not in self._data:
            from evaluation import run as evaluator
            from training.data import digest, load, split
            from training.data.batches import Batches

            data = load(spec.data)
            train = left = data.train
            _, c, h, w = train.images.shape
            if spec.selection == "val":
                left, _ = split(train, spec.data.val, spec.data.split_seed)
            for evaluation in self.sweep.evaluate.specs():
                evaluator.check(evaluation, data.test, data.classes)
            Batches(left, spec.train.batch_size, "cpu", augment="none")
            self._data[name] = _Data(digest(spec.data), len(train.labels), (c, h, w), data.classes)
        return self._data[name]

    def _placed(self, index: int, message: str) -> str:
        """A message that begins with the path of a field, made to begin with that field's place in the file."""
        path, colon, problem = message.partition(": ")
        if colon and re.fullmatch(r"\w+(\.[\w-]+|\[\d+\])*", path):
            return f"{self.sweep.where(index, path)}: {problem}"
        return f"{self.sweep.source}: trials[{index}]: {message}"

    def _check_helper_names(self, planned: Sequence[Wanted]) -> None:
        """A helper that no trial needs is a misspelt one, or a misunderstanding; what base says is said to all."""
        needed: dict[int, set[str]] = defaultdict(set)
        for wanted in planned:
            needed[wanted.config["trial"]] |= wanted.spec.helpers.keys()
        anyone = set().union(*needed.values())
        common = self.sweep.base.get("helpers") or {}
        for index, trial in enumerate(self.sweep.trials):
            for names, known in ((trial.get("helpers") or {}, needed[index]), (common, anyone)):
                for name in names:
                    if name not in known and not (name in common and name in anyone):
                        where = self.sweep.where(index, f"helpers.{name}")
                        raise UserError(f"{where}: {_not_needed(name, known)}")

    def _check_resources(self) -> None:
        """Trials that ask for more than this machine has would wait for ever."""
        import torch

        asked = self.sweep.resources
        if on_a_cluster():
            return
        if asked.cpus > cores_here():
            raise UserError(
                f"{self.sweep.source}: resources.cpus: {asked.cpus:g} is more than the {cores_here()} cores here"
            )
        if asked.gpus and not torch.cuda.is_available():
            raise UserError(
                f"{self.sweep.source}: resources.gpus: {asked.gpus:g}, but PyTorch finds no GPU here"
            )

    def _doubts(self, spec: TrialSpec) -> Iterator[tuple[str, str]]:
        """(field, problem) of one trial."""
        attack, scheduler = spec.attack, self.sweep.scheduler
        assert attack.step_size is not None, "filled in when it is read"
        if attack.norm == "linf" and attack.eps > 1:
            yield (
                "attack.eps",
                f"{attack.eps:g} is more than pixels can differ: they are in [0, 1] (8/255 is usual)",
            )
        if attack.steps * attack.step_size < attack.eps * (1 - 1e-9):
            reach = f"{attack.steps} steps of {attack.step_size:.3g}"
            yield "attack.steps", f"{reach} do not reach as far as eps, {attack.eps:.3g}"
        if spec.selection == "test" and self.sweep.evaluate.checkpoint != "last":
            yield "selection", "the best epoch is chosen on the test images, which flatters it"
        if scheduler.name == "asha" and scheduler.grace_epochs >= spec.train.epochs:
            yield (
                "train.epochs",
                f"{spec.train.epochs}, so scheduler.grace_epochs keeps asha from ending any trial",
            )

    def _doubts_about_the_sweep(self) -> Iterator[str]:
        sweep = self.sweep
        if all(len(sweep.seeds_of({"trial": index})) == 1 for index in range(len(sweep.trials))):
            yield "seeds: one per configuration, so the front cannot show how much a seed changes"
        if not on_a_cluster():
            cores, each = cores_here(), sweep.resources.cpus
            room = max(1, math.floor(cores / each))
            at_once = min(sweep.concurrency, room)
            default: int = Sweep.model_fields["concurrency"].default
            if sweep.concurrency not in (default, at_once):
                yield f"concurrency: {sweep.concurrency} trials at once, and {cores} cores have room for {room}"
            if at_once > cores:
                yield f"resources.cpus: at {each:g} each, {at_once} trials at once share {cores} cores"


def _more(others: int) -> str:
    """What is said of one trial of the file holds for others too."""
    return f" (and in {others} more trials)" if others > 1 else " (and in one more)" if others else ""


def all_of(sweep: Sweep, planner: Planner) -> list[Wanted]:
    """What the sweep will run, seed after seed. For Optuna a preview: its later choices depend on results."""
    search = proposer(sweep)
    wanted = []
    while (config := search.ask()) is not None:
        wanted += [planner.want(config, seed) for seed in sweep.seeds_of(config)]
    return wanted


def on_a_cluster() -> bool:
    """Do trials run elsewhere than here, on a Ray cluster that is there already?"""
    return bool(os.environ.get("RAY_ADDRESS"))


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _not_needed(name: str, known: Collection[str]) -> str:
    """What is wrong with a helper's name; ``known`` are those that are needed."""
    needed = f"; needed: {', '.join(sorted(known))}" if known else ""
    return f"no trial needs a helper '{name}'{nearest(name, known)}{needed}"


def _check_model(spec: TrialSpec, data: _Data) -> None:
    """Build the models without memory or weights, so that images they cannot take are noticed now."""
    import torch

    from training.guides import Joint
    from training.models import build
    from training.recipes import build as build_method

    def built(model: Choice) -> None:
        with torch.device("meta"):
            build(model, data.shape, data.classes, [0.0] * data.shape[0], [1.0] * data.shape[0])

    built(spec.model)
    for name, guide in build_method(spec.method, spec.attack).guides.items():
        if isinstance(guide, Joint) and guide.model is not None:
            try:
                built(Choice(name=guide.model, **guide.parameters))
            except UserError as error:
                raise UserError(f"method: its {name} network, '{guide.model}': {error}") from None


def _with_root(spec: TrialSpec) -> TrialSpec:
    """The spec with the folder that PARAPET_DATA names, where it has none: where trials run it may not be set."""
    from training.data.raw import ROOT_VARIABLE

    root = os.environ.get(ROOT_VARIABLE)
    if spec.data.root is not None or not root:
        return spec
    data = spec.data.model_copy(update={"root": str(Path(root).expanduser().absolute())})
    return spec.model_copy(update={"data": data})

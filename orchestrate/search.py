"""Who proposes configurations: everything (grid), at random, or learning from results (Optuna).

A configuration is flat: ``{"trial": index into the file's trials, "method.beta": 3.0, ...}``. It is proposed once and
runs with every seed. No proposer proposes the same twice, and what an earlier driver proposed (:meth:`recall`)
counts as proposed, so that a search that was cut short goes on instead of beginning again.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from orchestrate.sweep_file import Sweep

if TYPE_CHECKING:
    import optuna

Config = dict[str, Any]
Values = tuple[float, float]

PATIENCE = 200  # repeated proposals in a row after which a space counts as used up


class Proposer(Protocol):
    """The one thing that the driver asks. ``values`` are (clean, robust), means over the seeds; None: it failed."""

    def ask(self) -> Config | None:
        """The next configuration, or None when the budget is spent."""

    def tell(self, config: Config, values: Values | None) -> None:
        """How a configuration came out."""

    def recall(self, config: Config, values: Values | None) -> None:
        """What an earlier driver proposed, and how it came out; ignored where it is not in this file's space."""


def proposer(sweep: Sweep) -> Proposer:
    """The search that a sweep asks for."""
    match sweep.search.name:
        case "grid":
            return Listing(sweep, grid(sweep), budget=None)
        case "random":
            return Listing(sweep, at_random(sweep), budget=sweep.search.samples)
        case "optuna":
            return OptunaSearch(sweep)


def grid(sweep: Sweep) -> Iterator[Config]:
    """Every combination of every trial of the file, in written order, the last dimension fastest."""
    for index in range(len(sweep.trials)):
        dimensions = sweep.dimensions(index)
        for values in itertools.product(*(d.probes() for d in dimensions.values())):
            yield {"trial": index} | dict(zip(dimensions, values, strict=True))


def at_random(sweep: Sweep) -> Iterator[Config]:
    """An endless sequence that depends on the seed alone: number i is the same whatever happened before it."""
    spaces = [sweep.dimensions(index) for index in range(len(sweep.trials))]
    for i in itertools.count():
        rng = random.Random(f"{sweep.search.seed}/{i}")
        index = rng.randrange(len(spaces))
        yield {"trial": index} | {path: d.sample(rng) for path, d in spaces[index].items()}


class Listing:
    """Proposes from a sequence that results do not change; each configuration once."""

    def __init__(self, sweep: Sweep, sequence: Iterator[Config], budget: int | None) -> None:
        self.sweep, self.sequence, self.budget = sweep, sequence, budget
        self.proposed: set[str] = set()

    def ask(self) -> Config | None:
        if self.budget is not None and len(self.proposed) >= self.budget:
            return None
        for repeated, config in enumerate(self.sequence, start=1):
            if name_of(config) not in self.proposed:
                self.proposed.add(name_of(config))
                return config
            if self.budget is not None and repeated == PATIENCE:
                return None
        return None

    def tell(self, config: Config, values: Values | None) -> None:
        self.recall(config, values)

    def recall(self, config: Config, values: Values | None) -> None:
        if fits(config, self.sweep):
            self.proposed.add(name_of(config))


class OptunaSearch:
    """Optuna proposes what may improve clean and robust accuracy at once (TPE or NSGA-II, both maximised).

    Which trial of the file is a categorical of its own; the dimensions of each trial have names of their own, so the
    space is a tree and a method's parameters say nothing about another method's. A failed configuration is told
    as failed and does not count as a bad result.
    """

    def __init__(self, sweep: Sweep) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        search = sweep.search
        sampler: optuna.samplers.BaseSampler
        if search.sampler == "nsga2":
            sampler = optuna.samplers.NSGAIISampler(seed=search.seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=search.seed)
        self.study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
        self.sweep, self.budget = sweep, search.samples or 0
        self.spaces = [sweep.dimensions(index) for index in range(len(sweep.trials))]
        self.running: dict[str, optuna.Trial] = {}
        self.results: dict[str, Values | None] = {}

    def ask(self) -> Config | None:
        for _ in range(PATIENCE):
            if len(self.running) + len(self.results) >= self.budget:
                return None
            trial = self.study.ask()
            config = self._suggested(trial)
            name = name_of(config)
            if name not in self.running and name not in self.results:
                self.running[name] = trial
                return config
            self._tell(trial, self.results.get(name))  # a repeat teaches what is known already
        return None

    def tell(self, config: Config, values: Values | None) -> None:
        trial = self.running.pop(name_of(config), None)
        if trial is None:
            self.recall(config, values)
        else:
            self.results[name_of(config)] = values
            self._tell(trial, values)

    def recall(self, config: Config, values: Values | None) -> None:
        import optuna

        if name_of(config) in self.results or not fits(config, self.sweep):
            return
        self.results[name_of(config)] = values
        index = config["trial"]
        dimensions = self.spaces[index]
        self.study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL if values is None else optuna.trial.TrialState.COMPLETE,
                values=values,
                params={"trial": index}
                | {f"{index}/{path}": d.encode(config[path]) for path, d in dimensions.items()},
                distributions={"trial": optuna.distributions.CategoricalDistribution(range(len(self.spaces)))}
                | {f"{index}/{path}": d.distribution() for path, d in dimensions.items()},
            )
        )

    def _suggested(self, trial: optuna.Trial) -> Config:
        index = trial.suggest_categorical("trial", range(len(self.spaces)))
        values = {path: d.suggest(trial, f"{index}/{path}") for path, d in self.spaces[index].items()}
        return {"trial": index} | values

    def _tell(self, trial: optuna.Trial, values: Values | None) -> None:
        import optuna

        self.study.tell(trial, values, state=optuna.trial.TrialState.FAIL if values is None else None)


def name_of(config: Config) -> str:
    """A text that is equal for equal configurations, also after a way through JSON."""
    return json.dumps(config, sort_keys=True)


def fits(config: Config, sweep: Sweep) -> bool:
    """Could this sweep propose the configuration? One from an earlier version of the file may not fit."""
    index = config.get("trial")
    if not isinstance(index, int) or not 0 <= index < len(sweep.trials):
        return False
    dimensions = sweep.dimensions(index)
    return config.keys() - {"trial"} == dimensions.keys() and all(
        dimension.holds(config[path]) for path, dimension in dimensions.items()
    )

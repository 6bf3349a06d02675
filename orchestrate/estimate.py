"""How long planned trials will take, from how long like ones took in this store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from orchestrate.events import Story, story
from orchestrate.plan import Wanted
from orchestrate.runs import Runs
from training.spec import TrialSpec, digest_of


def state_of(told: Story, wanted: Wanted) -> str:
    """``new``, ``finished``, or how far a trial is that some sweep began."""
    if told.complete(list(wanted.evaluations)):
        return "finished"
    if told.trained is not None:
        return "trained"
    if told.epochs:
        return f"{len(told.epochs)} of {wanted.spec.train.epochs} epochs"
    return "failed" if told.failure else "new" if told.state == "planned" else "begun"


class Estimate:
    """Seconds of work, by what like trials took: the same model, data, batch size and arithmetic.

    Which method is left out: its cost in network passes is known, and the rate of passes is much the same. A trial
    is like those wanted when it is one of them or differs in method, seed or epochs.
    """

    def __init__(self, runs: Runs, wanted: Sequence[Wanted]) -> None:
        from training.extensions import are_loaded
        from training.resolve import cost

        self.stories = {w.key: story(runs.trial(w.key).events) for w in unique(wanted)}
        images = {_kind(w.spec): w.cost / cost(w.spec, 1) for w in unique(wanted)}
        rates: dict[str, list[float]] = defaultdict(list)
        evaluations: dict[str, list[float]] = defaultdict(list)
        for trial in runs.trials():
            spec = trial.spec()
            kind = _kind(spec)
            if kind not in images or not are_loaded(spec.imports):  # what it costs only its own file knows
                continue
            told = self.stories.get(trial.key) or story(trial.events)
            seconds = sum(event["metrics"]["seconds"] for event in told.epochs)
            if seconds > 0:
                share = len(told.epochs) / spec.train.epochs
                rates[kind].append(share * cost(spec, 1) * images[kind] / seconds)
            for digest, event in told.evaluated.items():
                evaluations[f"{kind} {digest}"].append(event["seconds"])
        self.rates = {kind: median(found) for kind, found in rates.items()}
        self.evaluations = {name: median(found) for name, found in evaluations.items()}

    def seconds(self, wanted: Wanted) -> float | None:
        """What is left to do for a trial, or None when nothing like it ran here before."""
        told, kind = self.stories[wanted.key], _kind(wanted.spec)
        left = 0.0
        if told.trained is None:
            if kind not in self.rates:
                return None
            share = 1 - len(told.epochs) / wanted.spec.train.epochs
            left += share * wanted.cost / self.rates[kind]
        for digest in wanted.evaluations:
            if digest not in told.evaluated:
                if f"{kind} {digest}" not in self.evaluations:
                    return None
                left += self.evaluations[f"{kind} {digest}"]
        return left


def unique(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Each trial once, helpers before those that need them, as a sweep runs them."""
    found: dict[str, Wanted] = {}
    for one in wanted:
        for helper in unique(one.helpers):
            found.setdefault(helper.key, helper)
    return list((found | {one.key: one for one in wanted}).values())


def _kind(spec: TrialSpec) -> str:
    facts: dict[str, Any] = spec.dump()
    train = {name: facts["train"][name] for name in ("batch_size", "precision", "channels_last", "compile")}
    data = {name: value for name, value in facts["data"].items() if name != "root"}
    return digest_of({"model": facts["model"], "data": data, "train": train, "selection": spec.selection})

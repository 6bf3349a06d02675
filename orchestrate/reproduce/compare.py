"""The verdict: everything that a trial measured then, beside what its reproduction measured now.

Every metric of every epoch, the final weights, every accuracy, and the verdict on every image are compared bit for
bit, and where they are not equal, by their distance. What only says how long something took is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from evaluation import outcomes
from evaluation.outcomes import Outcome
from evaluation.spec import EvaluationSpec
from orchestrate import events
from orchestrate.reproduce import weights
from orchestrate.reproduce.fetch import Original
from orchestrate.reproduce.quantity import Part, Quantity, number
from orchestrate.runs import TrialDir
from orchestrate.tracking.content import UNNAMEABLE, Metrics
from training.errors import UserError

TIMES = ("seconds", "images_per_second")  # metrics of an epoch that measure the machine
BEST = "best/"  # of metrics: what was said of the best epoch
IDENTICAL, WITHIN, DIFFERS = "identical", "within tolerance", "differs"


@dataclass(frozen=True)
class Tolerance:
    """The greatest distances that still count as the same result.

    Args:
        metrics: of losses and learning rates, relative to the greater of both.
        accuracy: of accuracies, which are in [0, 1].
        weights: of networks, relative to the length of all weights together.
        images: the share of images on which verdicts may differ.
    """

    metrics: float = 0.005
    accuracy: float = 0.005
    weights: float = 0.005
    images: float = 0.005

    def __str__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        if len(set(given.values())) == 1:
            return f"{self.metrics:g}"
        return ", ".join(f"{name} {value:g}" for name, value in given.items())


def tolerance(text: str | None) -> Tolerance:
    """``0.01`` for all, or ``accuracy=0.01,weights=1``. Raises UserError."""
    names = [field.name for field in fields(Tolerance)]
    given: dict[str, float] = {}
    for part in (text or "").split(",") if text else []:
        name, equals, value = part.strip().rpartition("=")
        try:
            number_ = float(value)
        except ValueError:
            number_ = math.nan
        if (equals and name not in names) or not number_ >= 0:
            raise UserError(
                f"--tolerance: '{part.strip()}' is no tolerance; write 0.01 for all, or accuracy=0.01 (of"
                f" {', '.join(names)})"
            )
        given |= {name: number_} if equals else dict.fromkeys(names, number_)
    return Tolerance(**given)


@dataclass(frozen=True)
class Comparison:
    """What came of it. ``lacking``: sentences about what could not be compared."""

    quantities: tuple[Quantity, ...]
    lacking: tuple[str, ...]
    tolerance: Tolerance

    @property
    def verdict(self) -> str:
        """``identical``, ``within tolerance`` or ``differs``."""
        verdicts = {quantity.verdict for quantity in self.quantities}
        return DIFFERS if DIFFERS in verdicts else WITHIN if WITHIN in verdicts else IDENTICAL

    @property
    def sentence(self) -> str:
        """The verdict, and what it rests on, in a line."""
        without = f" (not compared: {'; '.join(self.lacking)})" if self.lacking else ""
        if self.verdict == IDENTICAL:
            counts = ", ".join(f"{q.compared} {q.name}" for q in self.quantities)
            return f"{IDENTICAL}: {counts} are equal bit for bit{without}"
        if self.verdict == WITHIN:
            first = next(q.first for q in self.quantities if q.first)
            far = max(
                (q.furthest for q in self.quantities if q.furthest), key=lambda p: p.distance / (p.limit or 1)
            )
            return f"{WITHIN}: furthest {far.where}, {far.far}; first unequal {first.where}: {first.text}{without}"
        beyond = next(q.beyond for q in self.quantities if q.beyond)
        return f"{DIFFERS}: first {beyond.where}: {beyond.text}, {beyond.far}{without}"


def compare(original: Original, files: Path, trial: TrialDir, tolerance: Tolerance) -> Comparison:
    """Compare the tracked trial with its reproduction in ``trial``.

    Args:
        files: the tracked trial's ``checkpoints/`` and ``outcomes/``, as far as the store has them.
    """
    lacking: list[str] = []
    quantities = [
        Quantity("metrics of epochs", tuple(_epochs(original, trial, tolerance))),
        Quantity("tensors of weights", tuple(_weights(files, trial, tolerance, lacking))),
        *_outcomes(original, files, trial, tolerance, lacking),
    ]
    return Comparison(tuple(q for q in quantities if q.parts), tuple(lacking), tolerance)


def _epochs(original: Original, trial: TrialDir, tolerance: Tolerance) -> Iterator[Part]:
    """Every metric of every epoch, in the order of epochs; at last which epoch was best, and what was said of it."""
    metrics, now = Metrics(), dict[str, dict[int, float]]()
    for event in events.read(trial.events):
        if event["event"] in ("epoch", "trained") and (group := metrics.of(event)):
            for point in group[1]:
                now.setdefault(point.name, {})[point.step] = point.value
    then = {name: history for name, history in original.metrics.items() if name in now or _of_epochs(name)}
    names = [name for name in dict.fromkeys([*now, *then]) if name not in TIMES]
    ordinary = [name for name in names if not name.startswith(BEST)]
    points = [
        (step, index)
        for index, name in enumerate(ordinary)
        for step in then.get(name, {}).keys() | now.get(name, {}).keys()
    ]
    for step, index in sorted(points):
        name = ordinary[index]
        sides = then.get(name, {}).get(step), now.get(name, {}).get(step)
        if name.startswith("val/"):
            yield number(f"epoch {step}, {name}", *sides, "absolute", tolerance.accuracy)
        else:
            yield number(f"epoch {step}, {name}", *sides, "relative", tolerance.metrics)
    for index, name in enumerate(name for name in names if name.startswith(BEST)):
        (epoch, value), (epoch_now, value_now) = (_only(side.get(name, {})) for side in (then, now))
        if index == 0:  # that another epoch is the best is no distance, as long as it is as good
            yield number("best epoch", epoch, epoch_now, "absolute", math.inf)
        yield number(
            f"best epoch, {name.removeprefix(BEST)}", value, value_now, "absolute", tolerance.accuracy
        )


def _of_epochs(name: str) -> bool:
    return name in ("loss", "lr") or name.startswith(("loss/", "val/", BEST))


def _only(history: Mapping[int, float]) -> tuple[int, float] | tuple[None, None]:
    """The one point of a metric that is told once; of several the last."""
    return max(history.items(), default=(None, None))


def _weights(files: Path, trial: TrialDir, tolerance: Tolerance, lacking: list[str]) -> Iterator[Part]:
    """The networks at the end of training, and the best one."""
    for name in ("last.pt", "best.pt"):
        then = files / "checkpoints" / name
        if not then.exists():
            lacking.append(f"weights of {name}, which the store lacks")
            continue
        try:
            yield from weights.compare(then, trial.checkpoints / name, tolerance.weights)
        except UserError as error:
            lacking.append(f"weights of {name}: {error}")


def _outcomes(
    original: Original, files: Path, trial: TrialDir, tolerance: Tolerance, lacking: list[str]
) -> tuple[Quantity, Quantity]:
    """Accuracies, and verdicts per image, of every evaluation."""
    accuracies: list[Part] = []
    images: list[Part] = []
    for file in sorted((files / "outcomes").glob("*.parquet")):
        try:
            then, now = outcomes.read(file), outcomes.read(trial.outcome_file(file.stem))
        except UserError as error:
            lacking.append(f"evaluation {file.stem}: {error}")
            continue
        spec = EvaluationSpec.model_validate(then.facts["spec"])
        where = f"{spec.title} of {spec.checkpoint}.pt"
        tracked = _tracked(original, spec, then.metrics())
        measured = now.metrics()
        for name in dict.fromkeys([*tracked, *measured]):
            sides = tracked.get(name), measured.get(name)
            accuracies.append(number(f"{where}, {name}", *sides, "absolute", tolerance.accuracy))
        images.append(_verdicts(where, then, now, tolerance.images))
    return Quantity("accuracies", tuple(accuracies)), Quantity("verdicts on images", tuple(images))


def _tracked(original: Original, spec: EvaluationSpec, own: Mapping[str, float]) -> dict[str, float]:
    """What the run's own page says of an evaluation: the group of metrics that is nearest to its outcome file.

    A checkpoint may have been evaluated more than once; where nothing is tracked the outcome file speaks.
    """
    prefix = "" if spec.checkpoint == "best" else f"{spec.checkpoint}/"
    groups: list[dict[str, float]] = []
    for start in (prefix, f"{prefix}{spec.title}/"):
        named = {name: original.metrics.get(UNNAMEABLE.sub(".", f"{start}{name}"), {}) for name in own}
        for step in sorted({step for history in named.values() for step in history}):
            group = {name: history[step] for name, history in named.items() if step in history}
            groups += [group] if group.keys() == own.keys() else []
    return min(groups, key=lambda g: sum(abs(g[n] - own[n]) for n in own), default=dict(own))


def _verdicts(where: str, then: Outcome, now: Outcome, limit: float) -> Part:
    """On how many images any verdict or prediction is another one."""
    import numpy as np

    count = len(then.columns["index"])
    if not np.array_equal(then.columns["index"], now.columns["index"]):
        return Part(where, math.inf, "share", limit, "other images were attacked", count, count)
    names = ["label", "clean_prediction", "correct", "robust", *dict.fromkeys([*then.attacks, *now.attacks])]
    other = np.zeros(count, dtype=bool)
    changed = []
    for name in names:
        if name not in then.columns or name not in now.columns:
            return Part(where, math.inf, "share", limit, f"{name} is there only once", count, count)
        unlike = then.columns[name] != now.columns[name]
        changed += [f"{name} {int(unlike.sum())}"] if unlike.any() else []
        other |= unlike
    differ = int(other.sum())
    text = f"{differ} of {count} images differ" + (f" ({', '.join(changed)})" if changed else "")
    return Part(where, differ / count, "share", limit, text, differ, count)

"""DESIGN.md's invariants (a) to (f), from the record of a sweep that has ended (:mod:`record`).

Independent of the code under test, and able to fail: ``test_checker.py`` shows it records that are wrong.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from record import Event, Record, Run, Trial, trial

SECONDS = 15.0  # that a stopped trial's job may go on: its grace is 10, Slurm's own 3
ACCOUNTED = "time/"  # metrics of what a trial cost, which no event holds as numbers
WORDS = {
    "a": "at most one live job per trial",
    "b": "no live job without an owner",
    "c": "each metric once",
    "d": "a stopped trial's job ends within seconds",
    "e": "resumed = uninterrupted",
    "f": "no run RUNNING without a live job",
}


@dataclass
class Finding:
    """How an invariant was kept: ``seen`` is how many times it could have been broken."""

    letter: str
    seen: int = 0
    broken: list[str] = field(default_factory=list)

    def look(self, kept: bool, otherwise: str) -> None:
        self.seen += 1
        if not kept:
            self.broken.append(otherwise)

    def __str__(self) -> str:
        if self.broken:
            return f"**{len(self.broken)} of {self.seen} broken**"
        return f"ok ({self.seen})" if self.seen else "-"


def check(record: Record, undisturbed: Mapping[str, Path]) -> list[Finding]:
    """All six. ``undisturbed`` has for a trial's key the directory of the same trial, run in one go."""
    return [
        one_job(record),
        owned(record),
        each_metric_once(record),
        ends_soon(record),
        same_results(record, undisturbed),
        none_running(record),
    ]


def one_job(record: Record) -> Finding:
    """(a): no two jobs of one trial ran at a time by Slurm's accounts, and no two processes trained it at a time."""
    found = Finding("a")
    for key in {*record.trials, *(job.key for job in record.jobs)}:
        jobs = sorted((job for job in record.jobs if job.key == key), key=lambda job: job.began)
        overlaps = [
            f"{key}: jobs {one.id} and {other.id}"
            for one, other in itertools.pairwise(jobs)
            if one.ended is None or other.began < one.ended
        ]
        both = [seen for seen in record.together if seen.startswith(key)]
        queued = [id for id, of in record.queued if of == key]
        several = [f"{key}: jobs {', '.join(queued)} live"] if len(queued) > 1 else []
        found.look(not (overlaps or both or several), "; ".join([*overlaps, *both, *several]))
    return found


def owned(record: Record) -> Finding:
    """(b): of a sweep that has ended nothing lives, neither in Slurm's queue nor on the machine."""
    found = Finding("b", seen=len(record.jobs) or len(record.trials))
    found.broken += [f"job {id} of {key} lives" for id, key in record.queued]
    found.broken += [f"process {pid} of {key} lives" for pid, key in record.processes]
    return found


def each_metric_once(record: Record) -> Finding:
    """(c): one run per trial, and in a finished one each number that its events hold, and no other, once."""
    found = Finding("c")
    by_key: dict[str, list[Run]] = {}
    for run in record.runs:
        by_key.setdefault(run.key, []).append(run)
        counts = Counter((name, step) for name, step, _ in run.points)
        found.seen += len(counts)
        found.broken += [
            f"{run.key}: {name} at {step}, {n} times" for (name, step), n in counts.items() if n > 1
        ]
    for key, one in record.trials.items():
        runs = by_key.get(key, [])
        if one.attempts or len(runs) > 1:
            found.look(len(runs) == 1, f"{key}: {len(runs)} runs")
        if one.finished and len(runs) == 1:
            told = _told(one)
            points = [value for name, _, value in runs[0].points if not name.startswith(ACCOUNTED)]
            there = Counter(_value(value) for value in points)
            found.look(told == there, f"{key}: {there.total()} points of {told.total()} in its events")
    return found


def _told(one: Trial) -> Counter[str]:
    """Every number that the events of a trial tell; an evaluation counts the first time."""
    numbers: Counter[str] = Counter()
    evaluated = set()
    for event in one.events:
        if event["event"] == "evaluated":
            if event["evaluation"] in evaluated:
                continue
            evaluated.add(event["evaluation"])
        if event["event"] in ("epoch", "trained", "evaluated"):
            numbers.update(_value(value) for value in event["metrics"].values() if value is not None)
    return numbers


def _value(value: float) -> str:
    return f"{float(value):.9g}"


def ends_soon(record: Record) -> Finding:
    """(d): no job of a pruned trial lives long after its row was closed, and none begins."""
    found = Finding("d")
    for end in record.ends:
        if end.state != "pruned":
            continue
        times = [job.ended or math.inf for job in record.jobs if job.key == end.key]
        times += [record.last_seen[end.key]] if end.key in record.last_seen and not times else []
        last = max(times, default=end.t)
        found.look(
            last - end.t < SECONDS, f"{end.key}: its job ended {last - end.t:.0f} s after it was pruned"
        )
    return found


def same_results(record: Record, undisturbed: Mapping[str, Path]) -> Finding:
    """(e): epochs, evaluations, weights and per-image verdicts of finished trials; of others the epochs they have."""
    found = Finding("e")
    for key, one in record.trials.items():
        if key not in undisturbed or not one.of("epoch"):
            continue
        other = trial(undisturbed[key])
        found.look(other.finished, f"{key}: what it is compared with is not finished")
        mine, whole = numbers(one.of("epoch")), numbers(other.of("epoch"))
        found.look(mine == whole[: len(mine)], f"{key}: {_first(mine, whole)}")
        if one.finished:
            found.look(len(mine) == len(whole), f"{key}: {len(mine)} epochs of {len(whole)}")
            judged = numbers(one.of("evaluated")), numbers(other.of("evaluated"))
            found.look(judged[0] == judged[1], f"{key}: its evaluation differs")
            for name in ("last.pt", "best.pt"):
                files = [folder / "checkpoints" / name for folder in (one.path, other.path)]
                found.look(same_weights(*files), f"{key}: {name} differs")
            found.look(_verdicts(one.path) == _verdicts(other.path), f"{key}: verdicts differ")
    return found


def numbers(events: list[Event]) -> list[dict[str, Any]]:
    """What was computed: all but how long it took."""
    return [{k: v for k, v in event["metrics"].items() if "second" not in k} for event in events]


def _first(mine: list[dict[str, Any]], whole: list[dict[str, Any]]) -> str:
    differ = [n for n, (one, other) in enumerate(zip(mine, whole, strict=False)) if one != other]
    return f"epoch {differ[0]} differs" if differ else f"{len(mine)} epochs of {len(whole)}"


def same_weights(one: Path, other: Path) -> bool:
    """Are the networks in two checkpoints equal to the bit?"""
    import torch

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, dict):
            return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        return bool(torch.equal(a, b)) if isinstance(a, torch.Tensor) else bool(a == b)

    if not (one.exists() and other.exists()):
        return False
    a, b = (torch.load(file, weights_only=True) for file in (one, other))
    parts = [part for part in ("networks", "network", "optimizer") if part in a]
    return bool(parts) and all(part in b and same(a[part], b[part]) for part in parts)


def _verdicts(folder: Path) -> dict[str, list[Any]]:
    from pyarrow import parquet

    return {
        file.name: parquet.read_table(file).to_pylist()
        for file in sorted((folder / "outcomes").glob("*.parquet"))
    }


def none_running(record: Record) -> Finding:
    """(f): a run that MLflow shows as RUNNING has a job that lives."""
    found = Finding("f")
    live = {key for _, key in (*record.queued, *record.processes)}
    for run in record.runs:
        owner = run.key or "the sweep's own run"
        found.look(run.status != "RUNNING" or run.key in live, f"{owner}: RUNNING, and nothing lives")
    return found

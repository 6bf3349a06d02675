"""What the process that trains tells the world: numbered, append-only files of JSON lines.

Attempt N writes ``events/N.jsonl``. The first event of attempt N + 1 says how many lines of attempt N count, so
that what a process believed dead writes later is ignored; a line without its newline never counts. An epoch that
a resumed attempt replays counts once, the first time.

Every line holds ``event`` and ``t`` (milliseconds since 1970, the only timestamp a relay may use):

========== ============================================================================================
started    attempt, previous_lines, pid, host, device, resumes_at [epoch, step], versions
epoch      epoch (0-based), step, metrics (``loss``, ``loss/CE.clean``, ``val/clean``, ``val/robust``,
           ``lr``, ``seconds``, ...), best (is it the best so far)
checkpoint epoch, step, file, sha256, best
trained    epochs, best_epoch, metrics (``val/clean``, ``val/robust`` of the best), seconds
evaluating evaluation (digest), attack, done, of  (progress; not delivered to trackers)
evaluated  evaluation (digest), checkpoint, metrics (``clean``, ``robust``, one per attack), seconds
finished   evaluations (digests that are complete)
stopped    why ("signal", "cancelled", "pruned"): ended on request, can go on
failed     kind ("diverged", "memory", "crash", "time", "disk", "helper", "cancelled", "input"), reason
========== ============================================================================================
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class EventWriter:
    """Appends the events of one attempt. Each line reaches the file whole (one ``write`` call) before it returns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = attempts(folder)
        self.attempt = numbers[-1] + 1 if numbers else 1
        self.previous_lines = count_lines(folder / f"{numbers[-1]}.jsonl") if numbers else 0
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
        self.descriptor = os.open(folder / f"{self.attempt}.jsonl", flags, 0o644)

    def write(self, event: str, **facts: Any) -> None:
        """Append one event; NaN and infinities become the strings that MLflow and JSON readers accept."""
        line = json.dumps({"event": event, "t": time.time_ns() // 1_000_000} | facts, allow_nan=True)
        os.write(self.descriptor, line.encode() + b"\n")

    def started(self, **facts: Any) -> None:
        """The first event of an attempt."""
        self.write("started", attempt=self.attempt, previous_lines=self.previous_lines, **facts)


def attempts(folder: Path) -> list[int]:
    """The numbers of the attempts so far, ascending."""
    return sorted(int(f.stem) for f in folder.glob("*.jsonl") if f.stem.isdigit())


def count_lines(file: Path) -> int:
    """Complete lines in a file."""
    return file.read_bytes().count(b"\n")


def read(folder: Path) -> Iterator[Event]:
    """Every event that counts, over all attempts, in order; repeated epochs are left out."""
    numbers = attempts(folder)
    epochs: set[int] = set()
    parsed = {n: _lines(folder / f"{n}.jsonl") for n in numbers}
    for n, after in zip(numbers, [*numbers[1:], None], strict=True):
        events = parsed[n]
        if after is not None and parsed[after]:
            events = events[: parsed[after][0].get("previous_lines", len(events))]
        for event in events:
            if event["event"] == "epoch":
                if event["epoch"] in epochs:
                    continue
                epochs.add(event["epoch"])
            yield event


def _lines(file: Path) -> list[Event]:
    *whole, _ = file.read_bytes().split(b"\n")
    events = []
    for line in whole:
        try:
            events.append(json.loads(line))
        except ValueError:  # a torn line that a later writer ended: it never counted
            continue
    return events


@dataclass
class Story:
    """A trial as its events tell it. ``state`` is the last of planned, running, trained, finished, stopped, failed."""

    state: str = "planned"
    attempt: int = 0
    epochs: list[Event] = field(default_factory=list)
    trained: Event | None = None
    evaluated: dict[str, Event] = field(default_factory=dict)
    evaluating: Event | None = None
    failure: Event | None = None
    first_t: int | None = None
    last_t: int | None = None

    def complete(self, wanted: Mapping[str, Any] | tuple[str, ...] | list[str] = ()) -> bool:
        """Trained, and every wanted evaluation is there."""
        return self.trained is not None and all(digest in self.evaluated for digest in wanted)


def story(folder: Path) -> Story:
    """Fold the events of one trial."""
    told = Story()
    for event in read(folder):
        told.first_t = told.first_t or event["t"]
        told.last_t = event["t"]
        match event["event"]:
            case "started":
                told.state, told.attempt, told.failure = "running", event["attempt"], None
            case "epoch":
                told.epochs.append(event)
            case "trained":
                told.trained, told.state = event, "trained"
            case "evaluating":
                told.evaluating = event
            case "evaluated":
                told.evaluated[event["evaluation"]] = event
            case "finished":
                told.state = "finished"
            case "stopped":
                told.state = "stopped"
            case "failed":
                told.state, told.failure = "failed", event
    return told

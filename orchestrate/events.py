"""What the process that trains tells the world: numbered, append-only files of JSON lines.

Attempt N writes ``events/N.jsonl``. The first event of attempt N + 1 says how many lines of attempt N
count, so that what a process believed dead writes later is ignored; a line without its newline never counts.
An epoch that a resumed attempt replays counts once, the first time.

Every line holds ``event`` and ``t`` (milliseconds since 1970, the only timestamp a relay may use):

========== ============================================================================================
started    attempt, previous_lines, pid, host, device, threads, resumes_at [epoch, step], versions; where known
           submitted (when, in milliseconds), gpus (its share), job (the cluster's number)
epoch      epoch (0-based), step, metrics (``loss``, ``loss/CE.clean``, ``val/clean``, ``val/robust``,
           ``lr``, ``seconds``, ...), best (is it the best so far)
checkpoint epoch, step, file, sha256, best
trained    epochs, best_epoch, metrics (``val/clean``, ``val/robust`` of the best), seconds
evaluating evaluation (digest), attack, done, of  (progress; not delivered to trackers)
evaluated  evaluation (digest), checkpoint, metrics (``clean``, ``robust``, one per attack), seconds, beside (its
           attacks in words, where they are others than those the sweep goes by)
finished   evaluations (digests that are complete)
stopped    why ("signal", "cancelled", "pruned"): ended on request, can go on
failed     kind ("diverged", "memory", "crash", "time", "disk", "helper", "cancelled", "input"), reason
========== ============================================================================================
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class EventWriter:
    """Appends the events of one attempt; each line reaches the file whole (one ``write`` call)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = attempts(folder)
        self.attempt = numbers[-1] + 1 if numbers else 1
        self.previous_lines = count_lines(folder / f"{numbers[-1]}.jsonl") if numbers else 0
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
        self._torn = False
        self.descriptor = os.open(folder / f"{self.attempt}.jsonl", flags, 0o644)

    def write(self, event: str, **facts: Any) -> None:
        """Append one event. Raises OSError when the disk took only part of it; the next one then begins a new line."""
        line = json.dumps({"event": event, "t": time.time_ns() // 1_000_000} | facts).encode() + b"\n"
        line = b"\n" * self._torn + line
        written = os.write(self.descriptor, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, "only part of an event could be written")

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
    yield from Follower(folder).new()


class Follower:
    """Reads the events that count as they come: each call of ``new`` returns what the calls before did not.

    Cheap when nothing is new (a listing and an empty read), so that hundreds of trials can be followed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._attempt = 0
        self._offset = 0  # bytes of the attempt's file that were read
        self._lines = 0  # and the lines in them
        self._epochs: set[int] = set()

    def new(self) -> list[Event]:
        """The events that came since the last call. A folder that is not there yet has none."""
        found: list[Event] = []
        later = [n for n in attempts(self.folder) if n > self._attempt]
        for n in later:
            first = _first_line(self.folder / f"{n}.jsonl")
            if first is None:  # not begun yet: it says nothing about the attempt before it
                continue
            adjacent = n == self._attempt + 1
            found += self._advance(first.get("previous_lines") if adjacent else None)
            self._attempt, self._offset, self._lines = n, 0, 0
        return found + self._advance(None)

    def _advance(self, limit: int | None) -> list[Event]:
        """Read on in the present attempt, up to its line number ``limit``."""
        if not self._attempt:
            return []
        with (self.folder / f"{self._attempt}.jsonl").open("rb") as file:
            file.seek(self._offset)
            *whole, _ = file.read().split(b"\n")
        self._offset += sum(len(line) + 1 for line in whole)
        if limit is not None:
            whole = whole[: max(0, limit - self._lines)]
        self._lines += len(whole)
        return [event for line in whole if (event := _parse(line)) and not self._repeats(event)]

    def _repeats(self, event: Event) -> bool:
        if event["event"] != "epoch":
            return False
        known = event["epoch"] in self._epochs
        self._epochs.add(event["epoch"])
        return known


def _first_line(file: Path) -> Event | None:
    with file.open("rb") as lines:
        line = lines.readline()
    return _parse(line) if line.endswith(b"\n") else None


def _parse(line: bytes) -> Event | None:
    """The event on a line; None for a torn line that a later write ended: it never counted."""
    try:
        event: Event = json.loads(line)
    except ValueError:
        return None
    return event


@dataclass
class Story:
    """A trial as its events tell it.

    ``state`` is the last of planned, running, trained, finished, stopped, failed.
    """

    state: str = "planned"
    attempt: int = 0
    started: Event | None = None  # of the last attempt
    epochs: list[Event] = field(default_factory=list)
    trained: Event | None = None
    evaluated: dict[str, Event] = field(default_factory=dict)
    evaluating: Event | None = None
    failure: Event | None = None
    stopped: str = ""  # why, when the last attempt ended on request
    first_t: int | None = None
    last_t: int | None = None

    def tell(self, event: Event) -> None:
        """Go on with the next event."""
        self.first_t = self.first_t or event["t"]
        self.last_t = event["t"]
        match event["event"]:
            case "started":
                self.state, self.failure, self.stopped = "running", None, ""
                self.attempt, self.started = event["attempt"], event
            case "epoch":
                self.epochs.append(event)
            case "trained":
                self.trained, self.state = event, "trained"
            case "evaluating":
                self.evaluating = event
            case "evaluated":
                self.evaluated[event["evaluation"]] = event
            case "finished":
                self.state = "finished"
            case "stopped":
                self.state, self.stopped = "stopped", event["why"]
            case "failed":
                self.state, self.failure = "failed", event

    def complete(self, wanted: Mapping[str, Any] | tuple[str, ...] | list[str] = ()) -> bool:
        """Trained, and every wanted evaluation is there."""
        return self.trained is not None and all(digest in self.evaluated for digest in wanted)


def story(folder: Path) -> Story:
    """Fold the events of one trial."""
    told = Story()
    for event in read(folder):
        told.tell(event)
    return told

"""What a sweep has left behind, read from the record alone: files, Slurm's accounts, processes, MLflow's database.

Imports nothing of the code under test: what these files mean is written down here a second time, after DESIGN.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]
ACCOUNTS = ("sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", "--starttime=now-1days")
ACCOUNTS_FORMAT = "--format=JobID,JobName%200,State,Start,End,WorkDir%300"
QUEUE = ("squeue", "--noheader", "--array", "--format=%i|%k|%T|%Z")


@dataclass(frozen=True)
class Job:
    """One time that a job was started: a job that Slurm starts again is several of these. Times in s since 1970."""

    id: str
    key: str
    state: str
    began: float
    ended: float | None


@dataclass
class Trial:
    """A trial's directory. ``events`` are those that count; ``attempts`` is how many processes began it."""

    path: Path
    events: list[Event] = field(default_factory=list)
    attempts: int = 0

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def finished(self) -> bool:
        return bool(self.of("finished"))


@dataclass(frozen=True)
class End:
    """A line of a ledger that ends a row. ``t`` in s since 1970."""

    key: str
    state: str
    t: float


@dataclass
class Run:
    """A run of MLflow's that was not deleted; ``points`` are (name, step, value)."""

    id: str
    key: str
    status: str
    points: list[tuple[str, int, float]] = field(default_factory=list)


@dataclass
class Record:
    """All of it, at one moment."""

    trials: dict[str, Trial] = field(default_factory=dict)
    ends: list[End] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # keys of all rows
    jobs: list[Job] = field(default_factory=list)
    queued: list[tuple[str, str]] = field(default_factory=list)  # number and key of each job that is live
    processes: list[tuple[int, str]] = field(default_factory=list)  # that train now, and the trial
    together: list[str] = field(default_factory=list)  # two processes seen training one trial at once
    last_seen: dict[str, float] = field(default_factory=dict)  # when a process of a trial was last seen alive
    runs: list[Run] = field(default_factory=list)


def read(
    runs: Path,
    slurm: Callable[..., str] | None = None,
    store: Path | None = None,
    together: tuple[str, ...] = (),
    last_seen: Mapping[str, float] | None = None,
) -> Record:
    """The record of a store.

    Args:
        runs: the folder; slurm: runs a command of Slurm's and returns what it prints; store: MLflow's database.
        together, last_seen: what :mod:`watch` saw.
    """
    found = Record(together=list(together), last_seen=dict(last_seen or {}))
    for folder in sorted((runs / "trials").glob("*")):
        if (folder / "spec.yaml").exists():
            found.trials[folder.name] = trial(folder)
    for file in sorted((runs / "sweeps").glob("*/ledger.jsonl")):
        keys, ends = ledger(file)
        found.asked += keys
        found.ends += ends
    found.processes = [(pid, key) for pid, _, key in training(runs)]
    if slurm is not None:
        found.jobs = list(accounts(slurm(*ACCOUNTS, ACCOUNTS_FORMAT), runs))
        found.queued = list(queue(slurm(*QUEUE), runs))
    found.runs = tracked(store or runs / "mlflow.db")
    return found


def trial(folder: Path) -> Trial:
    """A trial by its event files: attempt N + 1 says in its first line how many lines of attempt N count."""
    files = {int(file.stem): _lines(file) for file in (folder / "events").glob("*.jsonl")}
    begun = {number: lines for number, lines in sorted(files.items()) if lines and lines[0] is not None}
    found, epochs = Trial(folder, attempts=len(begun)), set()
    for number, lines in begun.items():
        after = begun.get(number + 1)
        counted = lines if after is None else lines[: after[0]["previous_lines"]]
        for event in counted:
            if event is None or (event["event"] == "epoch" and event["epoch"] in epochs):
                continue  # torn; or replayed after a resume
            found.events.append(event)
            if event["event"] == "epoch":
                epochs.add(event["epoch"])
    return found


def _lines(file: Path) -> list[Any]:
    """Each whole line, None where it is torn."""
    *whole, _ = file.read_bytes().split(b"\n")
    found: list[Any] = []
    for line in whole:
        try:
            found.append(json.loads(line))
        except ValueError:
            found.append(None)
    return found


def ledger(file: Path) -> tuple[list[str], list[End]]:
    """The keys of a sweep's rows, and every line that ended one."""
    if not file.exists():
        return [], []
    keys: dict[int, str] = {}
    ends = []
    for line in _lines(file):
        if line is not None and "state" not in line:
            keys[line["row"]] = line["key"]
        elif line is not None and line["state"] != "open":
            ends.append(End(keys[line["row"]], line["state"], line["t"] / 1000))
    return list(keys.values()), ends


def accounts(text: str, runs: Path) -> Iterator[Job]:
    """The jobs that worked in a trial's directory and were started, each time that they were."""
    for line in text.splitlines():
        id, _, state, began, ended, place = line.split("|")
        key = _key(id, place, runs)
        if key and began.isdigit():
            yield Job(id, key, state, float(began), float(ended) if ended.isdigit() else None)


def queue(text: str, runs: Path) -> Iterator[tuple[str, str]]:
    """The jobs that wait or run now."""
    for line in text.splitlines():
        id, comment, _, place = line.split("|")
        key = _key(id, place, runs, comment)
        if key:
            yield id, key


def _key(id: str, place: str, runs: Path, comment: str = "") -> str:
    """Of which trial a job is. It works in its directory; a task of an array works above that, and the array's table
    says whose task it is: the table beside which Slurm has put what the task printed, or that the comment names."""
    folder = (runs / "trials").resolve()
    if Path(place).parent == folder:
        return Path(place).name
    array, _, task = id.partition("_")
    for table in (runs / "arrays").glob("*/tasks.json") if Path(place) == folder and task.isdigit() else ():
        printed = any(table.parent.glob(f"{array}_{task}_*"))
        if printed or f"nonce={table.parent.name}" in comment.split():
            return str(json.loads(table.read_text())[int(task)])
    return ""


def training(runs: Path) -> Iterator[tuple[int, int, str]]:
    """Processes that train a trial of this store now: number, parent, trial."""
    folder = f"{(runs / 'trials').resolve()}/"
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = Path(entry.path, "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "orchestrate.trial" in words:
                key = next((w.removeprefix(folder) for w in words if w.startswith(folder)), "")
                if key:
                    stat = Path(entry.path, "stat").read_text()
                    yield int(entry.name), int(stat[stat.rindex(")") + 2 :].split()[1]), key


def tracked(store: Path) -> list[Run]:
    """MLflow's runs as they stand in its database."""
    if not store.exists():
        return []
    with contextlib.closing(sqlite3.connect(store)) as database:
        rows = database.execute(
            "select run_uuid, coalesce((select value from tags t where t.run_uuid = r.run_uuid and t.key ="
            " 'parapet.key'), ''), status from runs r where lifecycle_stage = 'active'"
        )
        runs = {id: Run(id, key, status) for id, key, status in rows}
        for id, name, step, value in database.execute("select run_uuid, key, step, value from metrics"):
            if id in runs:
                runs[id].points.append((name, step, value))
    return list(runs.values())


def slurm_of(env: Mapping[str, str]) -> Callable[..., str]:
    """Runs Slurm's commands in an environment; times come in seconds since 1970."""

    def run(*command: str) -> str:
        settings = {**os.environ, **env, "SLURM_TIME_FORMAT": "%s"}
        return subprocess.run(command, env=settings, capture_output=True, text=True, check=True).stdout

    return run

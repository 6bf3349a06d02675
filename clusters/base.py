"""What a cluster is: it plans a job (printable), submits it, finds it again, says how it is, and stops it."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from clusters.process import Process, me


class State(StrEnum):
    """How a job is, as far as its cluster can tell. What it achieved is told by its directory."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    KILLED = "killed"
    CANCELLED = "cancelled"
    LOST = "lost"  # taken away by its cluster: preempted, out of time, a node that failed
    GONE = "gone"

    @property
    def live(self) -> bool:
        """Does it hold resources, or wait for them?"""
        return self in (State.WAITING, State.RUNNING)


@dataclass(frozen=True)
class Job:
    """A command to run once.

    Args:
        key: names the job: at most one lives at a time.
        directory: where it works and where ``job.json`` is kept.
        command: program and arguments.
        cpus: cores it may use; a fraction is its share of one.
        gpus: GPUs it may use; 0 hides them from it.
        log: the file that its output is appended to.
        env: what it finds in its environment besides.
        sweep: on whose behalf it runs.
    """

    key: str
    directory: Path
    command: tuple[str, ...]
    cpus: float
    gpus: float
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    sweep: str = ""


@dataclass(frozen=True)
class Request:
    """A job as it would be submitted; ``str()`` is what a user is shown."""

    job: Job
    command: tuple[str, ...]
    env: Mapping[str, str]

    def __str__(self) -> str:
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join([*settings, shlex.join(self.command), ">>", shlex.quote(str(self.job.log))])


@dataclass(frozen=True)
class Handle:
    """A submitted job.

    Args:
        cluster: its name, as ``clusters.open`` takes it.
        id: the cluster's name for the job.
        process: its process, where the cluster starts one itself.
        key, sweep, nonce: of which job, on whose behalf, and which submission it was, where it outlives its submitter.
    """

    cluster: str
    id: str
    process: Process | None = None
    key: str = ""
    sweep: str = ""
    nonce: str = ""


@dataclass(frozen=True)
class Share:
    """What a cluster gives a job that does not say what it needs, and how many jobs of a sweep at once.

    Args:
        python: what starts Python there, as shell text; empty where it is the submitter's own.
    """

    cpus: float
    gpus: float
    parallel: int
    python: str = ""


class Unavailable(RuntimeError):
    """The cluster does not answer now. What is asked may or may not have happened; ask again later."""


class Cluster(Protocol):
    """Where jobs run. Implementations keep ``job.json`` with :func:`intend` and :func:`record`."""

    name: str

    @property
    def share(self) -> Share | None:
        """None where a job runs beside its submitter, on what that was given, and ends with it.

        Elsewhere a job outlives its submitter, and is known again by its sweep (``Handle.sweep``).
        """

    def plan(self, job: Job) -> Request:
        """What ``submit`` would do, without doing it."""

    def submit(self, request: Request) -> Handle:
        """Start the job. The caller makes sure that nobody else submits the same key meanwhile.

        Raises:
            UserError: the cluster will not have it, now or later.
            Unavailable: it may have it later, or has it already: ``find`` tells.
        """

    def find(self, key: str) -> Handle | None:
        """The live job of this key, whoever submitted it; None when there is none that this process can see.

        Raises Unavailable when that cannot be told.
        """

    def state(self, handle: Handle) -> State:
        """How the job is now."""

    def stop(self, handle: Handle, grace_s: float) -> None:
        """Ask the job to end, and make it end after ``grace_s`` seconds. Returns when it has."""

    def printed(self, handle: Handle) -> Path | None:
        """Where there is what a job printed before its command began; None when it is in the job's log."""


ON_REQUEST = 77  # exit code of a job that ended because its trial's directory asked it to: pruned, cancelled
STOPPED = 76  # exit code of a job that a signal has ended, and that can go on


def intend(directory: Path, nonce: str = "") -> str:
    """Write down that a job is about to be submitted, by whom; returns the nonce that marks the submission.

    Several jobs that are submitted at once have one ``nonce``.
    """
    nonce = nonce or secrets.token_hex(8)
    _write(directory, {"nonce": nonce, "submitter": asdict(me()), "submitted": time.time_ns() // 1_000_000})
    return nonce


def record(directory: Path, nonce: str, handle: Handle) -> None:
    """Write down what became of the submission with this nonce."""
    before = _read(directory)
    when = (
        {"submitted": before["submitted"]} if before.get("nonce") == nonce and "submitted" in before else {}
    )
    _write(directory, {"nonce": nonce, "submitter": asdict(me()), "handle": asdict(handle)} | when)


def recorded(directory: Path) -> Handle | None:
    """The handle of the last submission; None when there was none, or when it broke off before it had one."""
    handle = _read(directory).get("handle")
    if handle is None:
        return None
    return Handle(**handle | {"process": Process(**handle["process"]) if handle["process"] else None})


def submitted(directory: Path) -> int | None:
    """When the last submission began, in milliseconds since 1970 by its submitter's clock; None where unknown."""
    return _read(directory).get("submitted")


def _read(directory: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((directory / "job.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return facts


def _write(directory: Path, facts: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / f".job.{os.getpid()}.tmp"
    draft.write_text(json.dumps(facts))
    draft.replace(directory / "job.json")

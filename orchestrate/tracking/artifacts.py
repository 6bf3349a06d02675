"""The files of a trial that MLflow gets a copy of, with fingerprints: only what changed is copied again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrate.events import Story
from orchestrate.runs import Runs, TrialDir
from orchestrate.tracking.origin import Origin

LOG_TAIL = 64 * 2**10  # bytes

Fingerprint = list[int] | str


@dataclass(frozen=True)
class Artifact:
    """One file: where it goes in the run, what it is known by, and ``make``, which gives it as a local file.

    ``make`` gets an empty folder that it may write into.
    """

    path: str
    fingerprint: Fingerprint
    make: Callable[[Path], Path]


def from_file(path: str, file: Path) -> Artifact:
    """A file as it is, known by its size and the time of its last change."""
    facts = file.stat()
    return Artifact(path, [facts.st_size, facts.st_mtime_ns], lambda folder: file)


def from_bytes(path: str, content: bytes) -> Artifact:
    """A file made of ``content``."""

    def make(folder: Path) -> Path:
        out = folder / Path(path).name
        out.write_bytes(content)
        return out

    return Artifact(path, hashlib.sha256(content).hexdigest()[:16], make)


def of_trial(trial: TrialDir, story: Story, origin: Origin | None, large: bool) -> Iterator[Artifact]:
    """Everything that a trial's run should hold now.

    Checkpoints, helpers, curves and the log are given only when ``large``: they go on changing while it trains.
    """
    if trial.spec_file.exists():
        yield from_file("spec.yaml", trial.spec_file)
        for name, digest in trial.spec().imports.items():
            yield from_file(f"imports/{name}", trial.imports / digest / name)
    for text in origin.texts if origin else ():
        yield from_file(text.name, text)
    for outcome in sorted(trial.outcomes.glob("*.parquet")):
        yield from_file(f"outcomes/{outcome.name}", outcome)
    if not large:
        return
    yield from _helpers(trial)
    for name in ("best.pt", "last.pt"):
        if (trial.checkpoints / name).exists():
            yield from_file(f"checkpoints/{name}", trial.checkpoints / name)
    if story.epochs:
        yield Artifact("curves.png", f"{len(story.epochs)} epochs", lambda folder: _curves(story, folder))
    log = log_tail(trial)
    if log:
        yield from_bytes("log.txt", log)


def _helpers(trial: TrialDir) -> Iterator[Artifact]:
    """The trained networks that came as files: nothing else tells what the trial began from.

    But for copies of tracked runs' checkpoints, which those runs have.
    """
    if not trial.spec_file.exists():
        return
    copies = Runs(trial.path.parents[1]).path / "helpers"
    for name, place in trial.spec().helpers.items():
        file = Path(place.get("path", ""))
        if not file.is_file() or file.is_relative_to(copies):
            continue

        def make(folder: Path, file: Path = file, name: str = name) -> Path:
            (folder / f"{name}.pt").symlink_to(file.absolute())
            return folder / f"{name}.pt"

        facts = file.stat()
        yield Artifact(f"helpers/{name}.pt", [facts.st_size, facts.st_mtime_ns], make)


def log_tail(trial: TrialDir, size: int = LOG_TAIL) -> bytes:
    """The last ``size`` bytes of what the last attempt printed, from the beginning of a line."""
    printed = sorted((int(file.stem), file) for file in trial.logs.glob("*.txt") if file.stem.isdigit())
    if not printed:
        return b""
    with printed[-1][1].open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - size))
        cut = log.tell() > 0
        tail = log.read()
    return tail.partition(b"\n")[2] if cut else tail


def _curves(story: Story, folder: Path) -> Path:
    from evaluation.figures import curves

    curves(story.epochs, folder / "curves.png")
    return folder / "curves.png"

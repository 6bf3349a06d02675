"""What in RUNS nobody needs any more, and its removal.

Needed is: a trial that a sweep's ledger mentions, a helper of a needed trial, and whatever a live process works on.
While a driver lives, trials that no ledger mentions stay: it may be about to mention them. What MLflow was told
about a trial that goes stays in MLflow.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from clusters.base import recorded
from orchestrate import ledger
from orchestrate.events import story
from orchestrate.locks import Watch
from orchestrate.runs import Runs, SweepDir, TrialDir, read_yaml
from training.errors import UserError

YOUNG_S = 60.0  # a temporary file as young as this may still be written to


@dataclass(frozen=True)
class Waste:
    """Something that can go: a file or a folder, and why."""

    path: Path
    why: str


def waste(runs: Runs, given_up: Collection[str] = ()) -> list[Waste]:
    """Everything that can go, when the sweeps named ``given_up`` are no longer wanted.

    Raises:
        UserError: one of those is running.
    """
    sweeps = list(runs.sweeps())
    for sweep in sweeps:
        if sweep.name in given_up and Watch(sweep.lock_file).held():
            raise UserError(f"{sweep.name}: is running; stop it first (parapet stop {sweep.name})")
    kept = [sweep for sweep in sweeps if sweep.name not in given_up]
    found = [Waste(s.path, "sweep given up") for s in sweeps if s.name in given_up]
    needed = needed_keys(runs, kept)
    a_driver_lives = any(Watch(sweep.lock_file).held() for sweep in kept)
    for trial in runs.trials():
        if Watch(trial.lock_file).held():
            continue
        if trial.key not in needed:
            found += [] if a_driver_lives else [Waste(trial.path, "trial of no sweep")]
        else:
            found += [*_of_trial(trial), *_drafts(trial.path)]
    for sweep in kept:
        found += _drafts(sweep.path) if not Watch(sweep.lock_file).held() else []
    found += [Waste(path, "replaced by --fresh") for path in sorted((runs.path / "old").glob("*"))]
    found += _downloads(runs, needed)
    found += [] if a_driver_lives else [*_imports(runs, needed, kept), *_arrays(runs, needed)]
    return found


def needed_keys(runs: Runs, sweeps: Collection[SweepDir]) -> set[str]:
    """The trials that these sweeps or live processes need, helpers included."""
    keys = {row.key for sweep in sweeps for row in ledger.read(sweep.ledger_file)}
    keys |= {trial.key for trial in runs.trials() if Watch(trial.lock_file).held()}
    todo = list(keys)
    while todo:
        trial = runs.trial(todo.pop())
        if trial.spec_file.exists():
            helpers = {ref["key"] for ref in trial.spec().helpers.values() if "key" in ref} - keys
            keys |= helpers
            todo += helpers
    return keys


def remove(found: Waste, runs: Runs) -> None:
    """Remove it. A folder is first renamed, so that nobody ever finds half of a trial."""
    if not found.path.is_dir():
        found.path.unlink(missing_ok=True)
        return
    if found.path.parent.parent == runs.path and found.path.parent.name in ("trials", "sweeps"):
        old = runs.path / "old"
        old.mkdir(exist_ok=True)
        going = old / f".{found.path.name}.{time.time_ns()}"
        found.path.rename(going)
        shutil.rmtree(going)
    else:
        shutil.rmtree(found.path)


def _of_trial(trial: TrialDir) -> Iterator[Waste]:
    """Leftovers in the directory of a trial that itself stays."""
    for partial in sorted(trial.outcomes.glob("*.partial")):
        if partial.with_suffix(".parquet").exists():
            yield Waste(partial, "progress of a finished evaluation")
    if story(trial.events).trained is None:
        return
    previous = trial.checkpoints / "previous.pt"
    if previous.exists():
        yield Waste(previous, "checkpoint before the last")
    logs = sorted((f for f in trial.logs.glob("*.txt") if f.stem.isdigit()), key=lambda f: int(f.stem))
    for log in logs[:-1]:
        yield Waste(log, "log of an earlier attempt")


def _drafts(folder: Path) -> Iterator[Waste]:
    """Temporary files that a killed process left."""
    for file in sorted(folder.rglob(".*.tmp")):
        if file.is_file() and time.time() - file.stat().st_mtime > YOUNG_S:
            yield Waste(file, "temporary file")


def _imports(runs: Runs, needed: Collection[str], kept: Collection[SweepDir]) -> Iterator[Waste]:
    """Users' own files that no needed trial, and no sweep to go on with, refers to."""
    specs = [runs.trial(key).spec() for key in needed if runs.trial(key).spec_file.exists()]
    used = {digest for spec in specs for digest in spec.imports.values()}
    for sweep in kept:
        named = (read_yaml(sweep.sweep_file) or {}).get("import")
        used |= set(named.values()) if isinstance(named, dict) else set()
    for folder in sorted(runs.imports.glob("*")):
        if folder.name not in used and time.time() - folder.stat().st_mtime > YOUNG_S:
            yield Waste(folder, "imported file that nothing uses")


def _arrays(runs: Runs, needed: Collection[str]) -> Iterator[Waste]:
    """What job arrays leave, once all their trials have ended or have other jobs."""
    going_on = [runs.trial(key) for key in needed if story(runs.trial(key).events).state != "finished"]
    used = {job.nonce for trial in going_on if (job := recorded(trial.path)) is not None}
    for folder in sorted((runs.path / "arrays").glob("*")):
        if folder.name not in used and time.time() - folder.stat().st_mtime > YOUNG_S:
            yield Waste(folder, "job array that has ended")


def _downloads(runs: Runs, needed: Collection[str]) -> Iterator[Waste]:
    """Copies of tracked runs' checkpoints that no needed trial refers to."""
    specs = [runs.trial(key).spec() for key in needed if runs.trial(key).spec_file.exists()]
    used = {Path(ref["path"]).parent for spec in specs for ref in spec.helpers.values() if "path" in ref}
    for folder in sorted((runs.path / "helpers").glob("*")):
        if folder not in used:
            yield Waste(folder, "helper that no trial uses")

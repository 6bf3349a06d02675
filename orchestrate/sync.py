"""Brings a copied RUNS folder into this one: from a site whose nodes, or head, reach no tracking server from here.

What is here is never made worse. A trial that both have is taken from the copy only if the copy's events go on where
ours end; where the two went different ways, ours stays. Locks, jobs and what the other store was told stay behind.
Nothing is unpickled.
"""

from __future__ import annotations

import filecmp
import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clusters.base import recorded
from orchestrate import ledger, sweep_file
from orchestrate.events import story
from orchestrate.locks import Lock, LockHeld, Watch
from orchestrate.runs import Runs, SweepDir, TrialDir
from training.errors import UserError

LEFT = (
    "job.json",
    "tracked.json",
    "cluster",
    "stop",
    "slurm",
    "relay.log",
    "spent",
    "*.lock",
    "*.lock.*",
    ".*.tmp",
)
KEPT = ("tracked.json", "job.json")  # of ours, when a trial is replaced


@dataclass(frozen=True)
class Brought:
    """What became of one trial: ``new``, ``grown``, ``known``, or why it was left alone."""

    key: str
    how: str


def sweeps_of(copy: Runs, runs: Runs) -> list[SweepDir]:
    """The sweeps of a copy, which can all be brought in. Raises UserError before anything is changed."""
    if not copy.path.is_dir():
        raise UserError(f"{copy.path}: there is no such folder")
    if copy.path.resolve() == runs.path.resolve():
        raise UserError(f"{copy.path}: is this store itself; --runs says where the copy is brought to")
    found = [sweep for sweep in copy.sweeps() if sweep.ledger_file.exists()]
    if not found:
        raise UserError(
            f"{copy.path}: holds no sweep (sync takes a copy of a RUNS folder, with sweeps/ and trials/, or of one"
            " trial's directory, with spec.yaml)"
        )
    for part in ("sweeps", "trials", "imports"):
        refuse_links(copy.path / part)
    check_imports(copy.imports)
    for sweep in found:
        sweep_file.load(sweep.sweep_file)
        _compare(sweep, runs.sweep(sweep.name))
        for key in {row.key for row in ledger.read(sweep.ledger_file)}:
            if not re.fullmatch(r"[0-9a-f]{16}", key):
                raise UserError(f"{sweep.ledger_file}: key: '{key}' is no trial's key")
            if copy.trial(key).spec_file.exists():
                copy.trial(key).spec()
    return found


def refuse_links(folder: Path) -> None:
    """Raises UserError where a link is: what it points to was not copied, and may be anything here."""
    for file in folder.rglob("*"):
        if file.is_symlink():
            raise UserError(f"{file}: is a link; copy what it points to (rsync --copy-links)")


def check_imports(folder: Path) -> None:
    """Users' own files are what their folders' names say. Raises UserError."""
    for file in folder.glob("*/*.py"):
        if hashlib.sha256(file.read_bytes()).hexdigest() != file.parent.name:
            raise UserError(f"{file}: was changed since a sweep was run with it")


def bring(sweep: SweepDir, copy: Runs, runs: Runs) -> Iterator[Brought]:
    """Bring one sweep in, with its trials; tells of each. Raises UserError while the sweep is run here."""
    ours = runs.sweep(sweep.name)
    if Watch(ours.lock_file).held():
        raise UserError(f"{ours.path}: the sweep is being run here; its own relay tells MLflow about it")
    bring_imports(copy.imports, runs)
    for key in dict.fromkeys(row.key for row in ledger.read(sweep.ledger_file)):
        if copy.trial(key).spec_file.exists():
            yield Brought(key, bring_trial(copy.trial(key), runs.trial(key)))
    if not _is_behind(ours, sweep):
        return
    shutil.copytree(sweep.path, ours.path, ignore=shutil.ignore_patterns(*LEFT), dirs_exist_ok=True)


def _compare(theirs: SweepDir, ours: SweepDir) -> None:
    """Is it the same sweep, further on or not so far?"""
    if ours.ledger_file.exists():
        one, other = ours.ledger_file.read_bytes(), theirs.ledger_file.read_bytes()
        if not (one.startswith(other) or other.startswith(one)):
            raise UserError(
                f"{theirs.path}: another sweep of that name is in {ours.path}; rename one of the folders, and name: in"
                " its sweep.yaml"
            )


def _is_behind(ours: SweepDir, theirs: SweepDir) -> bool:
    size = ours.ledger_file.stat().st_size if ours.ledger_file.exists() else -1
    return size <= theirs.ledger_file.stat().st_size  # what else belongs to it may have come later


def bring_imports(theirs: Path, runs: Runs) -> None:
    """Users' own files, each in a folder that is named after its contents."""
    for file in sorted(theirs.glob("*/*.py")):
        ours = runs.imports / file.parent.name / file.name
        if not ours.exists():
            ours.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, ours)


def bring_trial(theirs: TrialDir, ours: TrialDir) -> str:
    """Bring one trial in; what became of it, as in :class:`Brought`."""
    if not ours.spec_file.exists():
        _copy(theirs, ours)
        return "new"
    try:
        # It goes away with the folder, should that be replaced: no reason to end this process.
        with Lock(ours.path / "submit.lock", lost=lambda: None):
            return _bring_grown(theirs, ours)
    except LockHeld:
        return "left alone: a job of it is being submitted here"


def _bring_grown(theirs: TrialDir, ours: TrialDir) -> str:
    """A trial that is here already, for which nobody submits a job meanwhile."""
    if Watch(ours.lock_file).held():
        return "left alone: it runs here"
    if _may_have_a_job(ours):
        return "left alone: a job of it may wait here (parapet stop SWEEP ends it)"
    if not filecmp.cmp(theirs.spec_file, ours.spec_file, shallow=False):
        return "left alone: its spec is another here"
    here, there = _events(ours), _events(theirs)
    if all(there.get(number, b"").startswith(lines) for number, lines in here.items()) and here != there:
        _copy(theirs, ours)
        return "grown"
    if all(here.get(number, b"").startswith(lines) for number, lines in there.items()):
        return "known"
    return "left alone: it was run here too"


def _may_have_a_job(trial: TrialDir) -> bool:
    """Was a job submitted that outlives its sweep, and has left no word of its end?"""
    job = recorded(trial.path)
    if job is None or job.process is not None or story(trial.events).state in ("finished", "failed"):
        return False
    return not (trial.path / "slurm" / f"{job.nonce}.ended").exists()


def _events(trial: TrialDir) -> dict[str, bytes]:
    """The whole lines of each attempt."""
    texts = {file.name: file.read_bytes() for file in trial.events.glob("*.jsonl")}
    return {name: text[: text.rfind(b"\n") + 1] for name, text in texts.items()}


def _copy(theirs: TrialDir, ours: TrialDir) -> None:
    """Whole or not at all. What is replaced waits in ``RUNS/old`` until the copy is in its place."""
    root = ours.path.parents[1]
    draft = root / "old" / f".{ours.key}.{time.time_ns()}"
    shutil.copytree(theirs.path, draft, ignore=shutil.ignore_patterns(*LEFT))
    for name in KEPT:
        if (ours.path / name).exists():
            shutil.copy2(ours.path / name, draft / name)
    ours.path.parent.mkdir(parents=True, exist_ok=True)
    if ours.path.exists():
        going = draft.with_name(f"{draft.name}.before")
        ours.path.rename(going)
        draft.rename(ours.path)
        shutil.rmtree(going)
    else:
        draft.rename(ours.path)

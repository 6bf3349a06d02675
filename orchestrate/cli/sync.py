"""The command that brings in what was run elsewhere: sync."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from orchestrate.cli.common import RunsOption, table
from orchestrate.locks import Watch
from orchestrate.runs import Runs, SweepDir, TrialDir, locate
from training.errors import UserError

KINDS = ("new", "grown", "known", "left alone")


def sync(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A copy of a RUNS folder, like one that rsync has made, or of one trial's directory.",
        ),
    ],
    runs: RunsOption = None,
) -> int:
    """Bring in sweeps, or a single trial, that were run elsewhere, and tell MLflow here about them.

    Again and again while they run there: what is here already is not copied, and not told, twice.
    """
    from orchestrate import sync, sync_trial

    store = locate(runs)
    if store.url:
        raise UserError(f"--runs: {store.url}: sync brings a copy into a folder, not into an object store")
    copy = Runs(folder.resolve())
    if sync_trial.is_trial(copy.path):
        return _bring_trial(TrialDir(copy.path), store)
    swept = sync.sweeps_of(copy, store)
    lines, code = [], 0
    for sweep in swept:
        counts: Counter[str] = Counter()
        for one in sync.bring(sweep, copy, store):
            _count(counts, sweep.name, one.key, one.how)
        print(f"{sweep.name}: {counts.total()} trials are here; MLflow is told", flush=True)
        told = _tell(store, sweep)
        if told == 2:
            return 2  # it has said why
        code = max(code, told)
        lines.append(_line(sweep.name, counts, told))
    return _show(lines, code)


def _bring_trial(trial: TrialDir, store: Runs) -> int:
    """One trial, for every sweep here that has it, or for one of its own."""
    from orchestrate import sync, sync_trial

    alone = sync_trial.check(trial, store)
    if (imports := sync_trial.imports_of(trial)) is not None:
        sync.bring_imports(imports, store)
    counts: Counter[str] = Counter()
    _count(counts, str(trial.path), trial.key, sync.bring_trial(trial, store.trial(trial.key)))
    lines, code = [], 0
    for sweep in sync_trial.homes(store.trial(trial.key), alone, store):
        if Watch(sweep.lock_file).held():
            print(f"{sweep.name}: is being run here; its own relay tells MLflow about the trial")
            continue
        told = _tell(store, sweep)
        if told == 2:
            return 2
        code = max(code, told)
        lines.append(_line(sweep.name, counts, told))
    return _show(lines, code)


def _count(counts: Counter[str], where: str, key: str, how: str) -> None:
    counts[how if how in KINDS else "left alone"] += 1
    if how not in KINDS:
        print(f"{where}: {key}: {how}", file=sys.stderr)


def _tell(store: Runs, sweep: SweepDir) -> int:
    command = [sys.executable, "-P", "-m", "orchestrate.relay", str(store.path), sweep.name, "--once"]
    return subprocess.run(command, check=False).returncode


def _line(name: str, counts: Counter[str], told: int) -> tuple[str, ...]:
    return (name, *(str(counts[kind]) for kind in KINDS), "yes" if told == 0 else "not all")


def _show(lines: list[tuple[str, ...]], code: int) -> int:
    print()
    table(("sweep", *KINDS, "told"), lines)
    return code

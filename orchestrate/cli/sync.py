"""The command that brings in what was run elsewhere: sync."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from orchestrate.cli.common import RunsOption, table
from orchestrate.runs import Runs, locate
from training.errors import UserError


def sync(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A copy of a RUNS folder, like one that rsync has made.")
    ],
    runs: RunsOption = None,
) -> int:
    """Bring in sweeps that were run elsewhere, and tell MLflow here about them.

    Again and again while they run there: what is here already is not copied, and not told, twice.
    """
    from orchestrate import sync

    store = locate(runs)
    if store.url:
        raise UserError(f"--runs: {store.url}: sync brings a copy into a folder, not into an object store")
    copy = Runs(folder.resolve())
    swept = sync.sweeps_of(copy, store)
    lines, code = [], 0
    for sweep in swept:
        counts: Counter[str] = Counter()
        for one in sync.bring(sweep, copy, store):
            counts[one.how if one.how in ("new", "grown", "known") else "left alone"] += 1
            if one.how.startswith("left alone"):
                print(f"{sweep.name}: {one.key}: {one.how}", file=sys.stderr)
        print(f"{sweep.name}: {counts.total()} trials are here; MLflow is told", flush=True)
        command = [sys.executable, "-P", "-m", "orchestrate.relay", str(store.path), sweep.name, "--once"]
        told = subprocess.run(command, check=False).returncode
        if told == 2:
            return 2  # it has said why
        code = max(code, told)
        kinds = ("new", "grown", "known", "left alone")
        lines.append((sweep.name, *(str(counts[kind]) for kind in kinds), "yes" if told == 0 else "not all"))
    print()
    table(("sweep", "new", "grown", "known", "left alone", "told"), lines)
    return code

"""What a sweep was run from, noted on disk each time its driver starts from something new.

::

    sweeps/NAME/origins/
      SHA.tar.gz                    the source, by its digest
      T/origin.json                 T: milliseconds since 1970; commit, branch, untracked files, source
      T/environment.txt             the environment lock
      T/changes.diff                what tracked files differed from the commit by; no file: nothing

So a trial that a later relay tells MLflow about is still told with what its own driver ran from.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate import provenance
from orchestrate.runs import SweepDir, write_whole
from training.errors import UserError


@dataclass(frozen=True)
class Origin:
    """One of them. ``facts`` are those of ``origin.json``."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def t(self) -> int:
        """When the driver began, in milliseconds since 1970."""
        return int(self.folder.name)

    @property
    def texts(self) -> list[Path]:
        """Its small files."""
        return [file for file in sorted(self.folder.iterdir()) if not file.name.startswith(".")]

    @property
    def source(self) -> Path | None:
        """The archive of the source; None when there is none, and ``facts`` then say why."""
        name = self.facts["source"]
        return self.folder.parent / name if name else None

    def tags(self) -> dict[str, str]:
        """For MLflow: the commit under its own name, so that its pages show it."""
        facts = {
            "mlflow.source.git.commit": self.facts["commit"] or "",
            "mlflow.source.git.branch": self.facts["branch"],
            "parapet.git": {None: "no repository", True: "dirty", False: "clean"}[self.facts["dirty"]],
            "parapet.source": self.facts["source"].partition(".")[0][:16],
        }
        return {name: value for name, value in facts.items() if value}


def note(sweep: SweepDir, working: Path, results: Path) -> Origin:
    """Note what a driver that starts now in ``working`` runs from; ``results`` (RUNS) are no source.

    The last origin is returned as it is when nothing changed. Raises OSError.
    """
    folder = sweep.path / "origins"
    git = provenance.git(working, exclude=results)
    environment = provenance.environment_lock()
    facts: dict[str, Any] = {
        "commit": git.commit if git else None,
        "branch": git.branch if git else "",
        "dirty": git.dirty if git else None,
        "untracked": list(git.untracked) if git else [],
    } | _archive(folder, working, results)
    diff = git.diff if git else ""
    last = at(sweep, time.time_ns() // 1_000_000)
    if last and last.facts == facts and _read(last, "environment.txt") == environment:
        return last  # equal facts hold an equal source, and so an equal difference
    new = folder / str(time.time_ns() // 1_000_000)
    write_whole(new / "environment.txt", environment)
    if diff:
        (new / "changes.diff").write_bytes(diff.encode(errors="surrogateescape"))
    write_whole(new / "origin.json", json.dumps(facts, indent=1))  # last: it makes the origin
    return Origin(new, facts)


def at(sweep: SweepDir, t: int) -> Origin | None:
    """The origin of what began at ``t``: the last one noted before; None when there is none."""
    noted = sorted(int(file.parent.name) for file in (sweep.path / "origins").glob("*/origin.json"))
    before = [time for time in noted if time <= t]
    if not before:
        return None
    folder = sweep.path / "origins" / str(before[-1])
    return Origin(folder, json.loads((folder / "origin.json").read_text()))


def _archive(folder: Path, working: Path, results: Path) -> dict[str, str]:
    draft = folder / f".source.{os.getpid()}.tmp"
    try:
        digest = provenance.source_archive(draft, working, exclude=results)
    except (UserError, OSError) as error:  # too large, or not readable: no reason not to run
        return {"source": "", "no_source": str(error)}
    draft.replace(folder / f"{digest}.tar.gz")
    return {"source": f"{digest}.tar.gz"}


def _read(origin: Origin, name: str) -> str:
    return (origin.folder / name).read_text()

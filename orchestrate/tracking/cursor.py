"""What was told about a trial already: only so that it need not be told again.

Telling MLflow twice changes nothing, so a cursor may be lost, and what it says is believed only for the very run
that it names. It lies in the trial's directory, for all sweeps that share the trial.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrate.runs import TrialDir


@dataclass
class Cursor:
    """Told about the run ``run_id``: the last epoch and other groups of metrics, tags, status, artifacts."""

    run_id: str = ""
    epoch: int = -1
    groups: list[str] = field(default_factory=list)
    parameters: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    status: str = ""
    artifacts: dict[str, Any] = field(default_factory=dict)

    def has(self, group: str) -> bool:
        """Was this group of metrics told?"""
        kind, _, number = group.partition(" ")
        return int(number) <= self.epoch if kind == "epoch" else group in self.groups

    def add(self, group: str) -> None:
        """It was told now."""
        kind, _, number = group.partition(" ")
        if kind == "epoch":
            self.epoch = max(self.epoch, int(number))
        elif group not in self.groups:
            self.groups.append(group)


def read(trial: TrialDir) -> Cursor:
    """The cursor on disk; an empty one when there is none that can be read."""
    try:
        return Cursor(**json.loads((trial.path / "tracked.json").read_text()))
    except (OSError, ValueError, TypeError):
        return Cursor()


def write(trial: TrialDir, cursor: Cursor) -> None:
    """Replace the cursor on disk. Not forced onto the disk: after a power cut an older one will do."""
    file = trial.path / "tracked.json"
    draft = trial.path / f".tracked.json.{os.getpid()}.tmp"
    draft.write_text(json.dumps(asdict(cursor)))
    draft.replace(file)

"""Which job is which task of an array: Slurm gives all tasks of one the same name, comment and directory.

``RUNS/arrays/NONCE/`` holds an array's table of keys, written before it is submitted, and what submitit keeps of it.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

LARGEST = 1001  # tasks, where Slurm does not say otherwise (MaxArraySize)


def folder_of(trials: Path, nonce: str) -> Path:
    """Where an array is kept, beside the folder that its jobs' directories are in."""
    return trials.parent / "arrays" / nonce


def write(trials: Path, nonce: str, keys: Sequence[str]) -> Path:
    """Write down the keys of an array's tasks; returns its folder."""
    folder = folder_of(trials, nonce)
    folder.mkdir(parents=True)
    (folder / "tasks.json").write_text(json.dumps(list(keys)))
    return folder


class Tables:
    """The tables of arrays, each read once."""

    def __init__(self, trials: Path) -> None:
        self.trials = trials
        self._known: dict[str, list[str]] = {}

    def key(self, nonce: str, id: str) -> str | None:
        """The key of job ``ARRAY_TASK`` of this array; None where that cannot be told."""
        task = id.partition("_")[2]
        if not re.fullmatch(r"[0-9a-f]+", nonce) or not task.isdigit():
            return None
        if nonce not in self._known:
            try:
                self._known[nonce] = json.loads((folder_of(self.trials, nonce) / "tasks.json").read_text())
            except (FileNotFoundError, ValueError):
                return None
        keys = self._known[nonce]
        return keys[int(task)] if int(task) < len(keys) else None


def largest() -> int:
    """Most tasks of an array here."""
    try:
        command = ["scontrol", "show", "config"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return LARGEST
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return int(found[1]) if found else LARGEST

"""A worker's side of a trial on an object store, for its actor: imports nothing that speaks to the store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from orchestrate.runs import Runs
from orchestrate.storage import local_folder

PATIENCE_S = 120.0  # with one try to look at the store


def here(task: dict[str, Any]) -> dict[str, Any]:
    """A task as it is on this node: with the folder that lies here in place of the driver's."""
    if not task["url"]:
        return task
    runs = Runs(local_folder(task["url"], "nodes"))
    return task | {"runs": str(runs.path), "stop_file": str(runs.sweep(task["sweep"]).stop_file)}


def command(url: str, directory: Path, sweep: str, words: list[str]) -> list[str]:
    """The command of a trial's job: ``words`` where it finds its directory, which is carried up meanwhile."""
    module = [sys.executable, "-P", "-m", "orchestrate.storage.job"]
    return [*module, "--sweep", sweep, url, str(directory), *words]


def fetch(url: str, directory: Path, sweep: str) -> str:
    """Bring here what is small of a trial; returns what went wrong, in a line, or nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    words = command(url, directory, sweep, [])  # without a command it only fetches
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return "the object store does not answer"
    lines = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else lines[-1] if lines else f"exit code {done.returncode}"

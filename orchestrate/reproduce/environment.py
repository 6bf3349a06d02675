"""What is installed now beside what was installed then."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from clusters.base import Cluster
from orchestrate import provenance
from training.errors import UserError

OURS = Path(__file__).resolve().parents[2]
LOCK = "from orchestrate.provenance import environment_lock; print(environment_lock(), end='')"


def lock_of(python: str) -> str:
    """The environment lock of an interpreter. Raises UserError when it cannot be run."""
    if python == sys.executable:
        return provenance.environment_lock()
    try:
        done = subprocess.run(
            (python, "-P", "-c", LOCK),
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(OURS)},
        )
    except OSError as error:
        raise UserError(f"--python: {python} cannot be run: {error.strerror}") from None
    if done.returncode or not done.stdout.startswith("# python"):
        last = done.stderr.strip().rpartition("\n")[2]
        raise UserError(f"--python: {python} is no interpreter that can run parapet{last and f': {last}'}")
    return done.stdout


def interpreter(named: str | None, cluster: Cluster) -> tuple[str, str]:
    """What starts Python where a script runs, as shell text: the one that was named, the cluster's, or our own.

    And what is to be said of it, if anything.
    """
    there = cluster.share.python if cluster.share is not None else ""
    own = named or sys.executable
    if named or not there:
        return shlex.quote(own), ""
    if shlex.split(there) == [own]:
        return there, ""
    return there, f"environment: what is installed was asked of {own}; on {cluster.name} runs {there}"


def differences(then: str, now: str) -> list[str]:
    """What differs between two environment locks, a line each; where the interpreters lie is no difference."""
    if not then:
        return ["what was installed then is not known"]
    before, after = _parts(then), _parts(now)
    return [
        f"{name}: {before.get(name, 'nothing')} then, {after.get(name, 'nothing')} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _parts(lock: str) -> dict[str, str]:
    """Versions by name; the two lines of comment are the interpreter and the platform."""
    parts = {}
    for line in filter(None, map(str.strip, lock.splitlines())):
        if line.startswith("# python "):
            parts["python"] = line.split()[2]
        elif line.startswith("# "):
            parts["platform"] = line[2:]
        else:
            name, _, version = line.partition("==")
            parts[name] = version
    return parts

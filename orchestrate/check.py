"""Does a profile work? Submits one tiny job through it and looks at everything that a sweep will rely on.

Every finding is a line; what fails names the line of the profile to change, or what else to do.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters.base import Handle, Job, Unavailable
from clusters.slurm import SlurmCluster
from training.errors import UserError

CHECK = "check"  # the name of the sweep that such jobs seem to be of
_WAITS_FOR = {  # what Slurm's reason for a job that waits begins with, or has in it, and the line it is about
    "TimeLimit": "time",
    "GRES": "gpus",
    "Gres": "gpus",
    "Cpu": "cpus",
    "CPU": "cpus",
    "Mem": "memory",
    "QOS": "qos",
    "Assoc": "account",
    "Account": "account",
    "Constraint": "constraint",
    "Reservation": "reservation",
}
ENDED_S = 20.0  # for a job to end that was asked to, and for sacct to know of it


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``works`` is None where it could not be tried."""

    what: str
    works: bool | None
    says: str


def check(cluster: SlurmCluster, wait_s: float) -> Iterator[Finding]:
    """Findings, as they are made. The job is ended in any case.

    Args:
        cluster: of the profile, with a folder of its own where the runs are: that is where they must be seen from.
        wait_s: how long the job may wait in the queue.
    """
    assert cluster.profile is not None
    profile, directory = cluster.profile, cluster.folder / f"probe-{secrets.token_hex(4)}"
    directory.mkdir(parents=True)
    word = secrets.token_hex(8)
    (directory / "word").write_text(word)
    command = (sys.executable, "-P", "-m", "orchestrate.probe", str(directory))
    job = Job(
        directory.name, directory, command, profile.cpus, profile.gpus, directory / "log.txt", sweep=CHECK
    )
    began = time.monotonic()
    try:
        handle = cluster.submit(cluster.plan(job))
    except UserError as error:
        shutil.rmtree(directory, ignore_errors=True)
        yield Finding("submit", False, str(error))
        return
    except Unavailable as error:
        asked = " or ".join(map(profile.line_of, ("qos", "time", "gpus", "cpus", "memory")))
        hint = asked if "policy" in str(error) else "is this a machine that jobs are submitted from?"
        shutil.rmtree(directory, ignore_errors=True)
        yield Finding("submit", False, f"{error} ({hint})")
        return
    yield Finding("submit", True, f"job {handle.id}, {time.monotonic() - began:.1f} s")
    try:
        yield from _follow(cluster, handle, directory, word, wait_s)
    finally:
        cluster.stop(handle, 5)


def _follow(
    cluster: SlurmCluster, handle: Handle, directory: Path, word: str, wait_s: float
) -> Iterator[Finding]:
    assert cluster.profile is not None
    line_of = cluster.profile.line_of
    began = time.monotonic()
    if not _until(lambda: bool(_found(directory)) or not cluster.state(handle).live, wait_s):
        _, why = cluster.queue.waits().get(directory.name, ("", ""))
        field = next((field for word, field in _WAITS_FOR.items() if word in why), "partition")
        state = f"{cluster.state(handle)}{f' ({why})' if why else ''}"
        yield Finding("start", False, f"still {state} after {wait_s:.0f} s: {line_of(field)}")
        return
    waited = time.monotonic() - began
    if not _until(lambda: bool(_found(directory)), 2):
        yield Finding("start", False, _why_not(cluster, handle, line_of))
        return
    found = _found(directory)
    yield Finding("start", True, f"on {found['host']}, {waited:.1f} s after it was submitted")
    yield Finding("python", True, f"{found['python']}, {found['executable']}")
    shared = found["read"] == word
    yield Finding(
        "shared folder", shared, f"{cluster.folder} is seen from the node" if shared else "not the same"
    )
    _until(lambda: "ready" in _found(directory) or not cluster.state(handle).live, 120)
    found = _found(directory)
    if "torch" in found:
        yield Finding("torch", True, f"{found['torch']}, imported in {found['torch_seconds']} s")
    else:
        why = found.get("torch_error", "its import did not come to an end")
        yield Finding("torch", False, f"{why}: {line_of('python')}, or {line_of('setup')}")
    yield _gpu(found, cluster.profile.gpus, line_of)
    yield _signal(cluster, handle, directory, line_of)
    yield _accounting(cluster, handle, line_of)


def _why_not(cluster: SlurmCluster, handle: Handle, line_of: Callable[[str], str]) -> str:
    """The job ended before Python said anything."""
    printed = cluster.printed(handle)
    text = printed.read_text(errors="replace") if printed is not None and printed.exists() else ""
    words = [line.strip() for line in text.splitlines() if line.strip()]
    if printed is not None and not printed.exists():
        return f"{cluster.folder} is not seen from the node: give a --runs that is on a shared disk"
    told = [line for line in words if "execve" in line] or words[-1:] or ["it printed nothing"]
    return f"{told[0]}: {line_of('setup')}, or {line_of('python')}"


def _gpu(found: dict[str, Any], wanted: int, line_of: Callable[[str], str]) -> Finding:
    if wanted == 0:
        return Finding("gpu", None, "none is asked for")
    if found.get("gpus"):
        return Finding("gpu", True, f"{', '.join(found['gpus'])} (CUDA_VISIBLE_DEVICES={found['devices']})")
    if not found.get("devices"):
        return Finding("gpu", False, f"Slurm gave none: {line_of('gpus_by')}, or {line_of('gpu_type')}")
    says = f"Slurm gave GPU {found['devices']}, and this torch sees none (no driver, or a torch without CUDA)"
    return Finding("gpu", False, f"{says}: {line_of('python')}, or {line_of('setup')}")


def _signal(cluster: SlurmCluster, handle: Handle, directory: Path, line_of: Callable[[str], str]) -> Finding:
    began = time.monotonic()
    try:
        cluster.tell([handle])
    except Unavailable as error:
        return Finding("signals", False, str(error))
    if not _until(lambda: bool(_found(directory).get("signal")), ENDED_S):
        says = f"the job did not hear of SIGTERM: a container must pass signals on: {line_of('python')}"
        return Finding("signals", False, says)
    return Finding("signals", True, f"heard after {time.monotonic() - began:.1f} s")


def _accounting(cluster: SlurmCluster, handle: Handle, line_of: Callable[[str], str]) -> Finding:
    assert cluster.profile is not None
    if not cluster.profile.accounting:
        return Finding("sacct", None, f"is not used: {line_of('accounting')}")
    began = time.monotonic()
    known: list[str] = []

    def asked() -> bool:
        known[:] = cluster.queue.account(handle.id)
        return bool(known) and known[0].split()[0] not in ("RUNNING", "COMPLETING", "UNKNOWN", "PENDING")

    try:
        if _until(asked, ENDED_S):
            return Finding("sacct", True, f"{known[0]}, {time.monotonic() - began:.1f} s after the end")
        says = f"knows of no end after {ENDED_S:.0f} s"
    except Unavailable as error:
        says = str(error)
    return Finding("sacct", False, f"{says}: write accounting: false ({line_of('accounting')})")


def _found(directory: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((directory / "found.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _until(true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True

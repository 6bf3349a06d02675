"""Ray inside a Slurm job: one job of several nodes, a head and workers, to which sweeps are submitted as Ray jobs.

``FOLDER/NONCE/`` on the shared folder holds the job's script, its password (``token``, for its owner only), where its
head is (:mod:`clusters.ray_node`) and what it printed. The job is known as ours by its comment, and by that folder.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters.base import Job, Unavailable
from clusters.profile import Profile
from clusters.ray_node import HEAD
from clusters.slurm import may_pass
from clusters.slurm_queue import MARK, run_command
from clusters.slurm_script import PASSED, asked_of_slurm, environment
from training.errors import UserError

_POLL_S = 1.0


@dataclass(frozen=True)
class Size:
    """What a cluster has: nodes, and of each so many cores and GPUs, and so much memory (None: the site's default)."""

    nodes: int
    cpus: int
    gpus: int
    memory: str | None = None


@dataclass(frozen=True)
class Allocation:
    """A submitted cluster. ``folder`` is its own."""

    job: str
    folder: Path
    state: str = "PENDING"

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def head(self) -> dict[str, str] | None:
        """Where its head is; None as long as that is not known."""
        try:
            facts: dict[str, str] = json.loads((self.folder / HEAD).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return facts

    def alive(self) -> int:
        """How many nodes have joined; 0 while the head does not answer."""
        head = self.head()
        if head is None:
            return 0
        try:
            token = self.token_file.read_text().strip()
        except FileNotFoundError:  # it has ended
            return 0
        asked = urllib.request.Request(
            f"{head['dashboard']}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                asked, timeout=5
            ) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["summary"]
        except (OSError, ValueError, KeyError, urllib.error.URLError):
            return 0
        return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in found)

    def last_words(self) -> str:
        """The last line that it printed."""
        file = self.folder / "log.txt"
        lines = file.read_text(errors="replace").split("\n") if file.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def script(profile: Profile, size: Size, folder: Path) -> str:
    """The sbatch script of a cluster whose own folder is ``folder``."""
    job = Job("ray", folder, (), size.cpus, size.gpus, folder / "log.txt")
    options = asked_of_slurm(profile, job) | {
        "job-name": "parapet-ray",
        "comment": f"{MARK} ray={folder.name}",
        "nodes": str(size.nodes),
        "ntasks-per-node": "1",
        "output": str(folder / "log.txt"),
        "chdir": str(folder),
        **({"mem": size.memory} if size.memory else {}),
        "no-requeue": None,  # who has submitted to it would not know where it is
        "open-mode": "append",
    }
    said = [
        f"#SBATCH --{name}" + ("" if value is None else f"={shlex.quote(value)}")
        for name, value in options.items()
    ]
    settings = [f"export {name}={shlex.quote(value)}" for name, value in environment(profile, job).items()]
    if size.gpus:
        settings = [line for line in settings if not line.startswith("export CUDA_VISIBLE_DEVICES")]
    python = profile.python or shlex.quote(sys.executable)
    run = f"exec srun --kill-on-bad-exit=1 --cpus-per-task={size.cpus} {python} -u -P -m clusters.ray_node"
    return "\n".join(
        ["#!/bin/bash", *said, "", *settings, *profile.setup, "", f"{run} {shlex.quote(str(folder))}", ""]
    )


def up(profile: Profile, size: Size, root: Path) -> Allocation:
    """Submit a cluster. Raises UserError when Slurm does not take it, Unavailable when it does not answer."""
    folder = root / secrets.token_hex(8)
    folder.mkdir(parents=True, mode=0o700)
    try:
        return _submit(profile, size, folder)
    except (UserError, Unavailable):
        shutil.rmtree(folder)  # a job that Slurm has after all ends at once without it
        raise


def _submit(profile: Profile, size: Size, folder: Path) -> Allocation:
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    (folder / "sbatch.sh").write_text(script(profile, size, folder))
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(folder / "sbatch.sh")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={
                name: os.environ[name] for name in PASSED if name in os.environ
            },  # the rest stands in the script
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"sbatch: {error}") from None
    if done.returncode:
        if may_pass(done.stderr):
            raise Unavailable(f"Slurm does not take it: {done.stderr.strip().splitlines()[-1]}")
        said = (done.stderr.strip().splitlines() or ["sbatch failed"])[-1].rpartition("error: ")[2]
        raise UserError(f"{profile.file}: Slurm does not accept the job: {said}")
    job = done.stdout.strip().partition(";")[0]
    (folder / "job").write_text(job)
    return Allocation(job, folder)


def wait(one: Allocation, nodes: int, seconds: float, tell: Callable[[str], None]) -> None:
    """Wait until all nodes have joined. Raises UserError when the job ends before, or takes too long."""
    end = time.monotonic() + seconds
    said = ""
    while (there := one.alive()) < nodes:
        try:
            state = next((other.state for other in running(one.folder.parent) if other.job == one.job), "")
        except Unavailable:  # says nothing about the job
            state = "UNKNOWN"
        if not state:
            raise UserError(
                f"job {one.job} ended before its {nodes} nodes were there: {one.last_words() or 'it printed nothing'}"
            )
        if time.monotonic() > end:
            down(one)
            raise UserError(
                f"job {one.job}: {there} of {nodes} nodes after {seconds:.0f} s ({state.lower()}); it is cancelled."
                f" {one.last_words()}"
            )
        if (now := f"job {one.job}: {state.lower()}, {there} of {nodes} nodes") != said:
            tell(said := now)
        time.sleep(_POLL_S)


def running(root: Path) -> Iterator[Allocation]:
    """This user's clusters that wait or run and have their folder in ``root``. Raises Unavailable."""
    text = run_command("squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%T|%k|%Z")
    for line in text.splitlines():
        job, state, comment, place = line.split("|", 3)
        if comment.startswith(f"{MARK} ray=") and Path(place).parent == root.resolve():
            yield Allocation(job, Path(place), state)


def down(one: Allocation, seconds: float = 60) -> bool:
    """End a cluster; False when Slurm still lists its job after so long. Raises Unavailable."""
    run_command("scancel", one.job)
    end = time.monotonic() + seconds
    while any(other.job == one.job for other in running(one.folder.parent)):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S / 4)
    one.token_file.unlink(missing_ok=True)
    return True


def minutes_left(profile: Profile) -> str:
    """The job's limit in words."""
    return f"{math.floor(profile.time / 60)} h {profile.time % 60:02d} min"


__all__ = ["Allocation", "Size", "Unavailable", "down", "minutes_left", "running", "script", "up", "wait"]

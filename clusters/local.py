"""This machine: a job is a child process of who submits it, and ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import clusters
from clusters.base import Handle, Job, Request, State, intend, record, recorded
from clusters.process import process

_ROOT = Path(clusters.__file__).parents[1]


class LocalCluster:
    """Runs jobs as subprocesses beside the caller, on the cores and GPUs that the caller was given.

    A job leads a session of its own, so a Ctrl-C at the terminal does not reach it. When its submitter dies, it gets
    SIGTERM from the kernel: a job does not outlive its submitter by more than it takes to write a checkpoint. (What the
    kernel watches is the thread that called ``submit``.)

    Args:
        folder: holds one directory per job, named by the job's key.
    """

    name = "local"
    share = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def plan(self, job: Job) -> Request:
        """The command with its environment: thread counts, and no GPU to be seen where none was asked for."""
        threads = str(max(1, int(job.cpus)))
        env = {f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")}
        if job.gpus == 0:
            env["CUDA_VISIBLE_DEVICES"] = ""
        return Request(job, job.command, env | dict(job.env))

    def submit(self, request: Request) -> Handle:
        """Start the subprocess; it runs the same code as this process, wherever that was imported from."""
        job = request.job
        nonce = intend(job.directory)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        with job.log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "clusters.child", str(os.getpid()), *request.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | request.env | {"PYTHONPATH": path},
                cwd=job.directory,
                start_new_session=True,
            )
        handle = Handle(self.name, nonce, process(child.pid))
        self._children[nonce] = child
        record(job.directory, nonce, handle)
        return handle

    def find(self, key: str) -> Handle | None:
        """The job whose process lives on this machine."""
        handle = recorded(self.folder / key)
        if handle is None or handle.cluster != self.name or handle.process is None:
            return None
        return handle if handle.process.alive() else None

    def state(self, handle: Handle) -> State:
        """``killed`` and ``ended`` can be told apart only by who started the job."""
        child = self._children.get(handle.id)
        if child is not None:
            code = child.poll()
            if code is None:
                return State.RUNNING
            return State.KILLED if code < 0 else State.ENDED
        assert handle.process is not None
        return State.RUNNING if handle.process.alive() else State.GONE

    def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM to the job, and after ``grace_s`` seconds SIGKILL to whatever is left of its process group."""
        assert handle.process is not None
        handle.process.signal(signal.SIGTERM)
        ended = handle.process.wait(grace_s)
        child = self._children.get(handle.id)
        if not ended or (child is not None and child.returncode is None):  # so the number is still the job's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(handle.process.pid, signal.SIGKILL)
        if child is not None:
            child.wait()

    def printed(self, handle: Handle) -> Path | None:
        """Everything is in the log."""
        return None

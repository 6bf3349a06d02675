"""Slurm: every trial is a job of its own, submitted through submitit, which outlives whoever submitted it.

A job is known by its number and by the directory it works in, which is its trial's. How it is is told by a note in that
directory once it has ended, and by Slurm before that, which is asked for all jobs at once (see
:mod:`clusters.slurm_queue`). What a job does about Slurm's signals: :mod:`clusters.slurm_body`.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError

from clusters.base import Handle, Job, Request, Share, State, Unavailable, intend, record, recorded
from clusters.profile import Profile
from clusters.slurm_array import folder_of, write
from clusters.slurm_body import Body, directory_of_notes
from clusters.slurm_queue import Listed, Queue
from clusters.slurm_script import array_executor, command_of, environment, executor, title
from training.errors import UserError

NAME = "slurm"
_NOT_NOW = (  # what sbatch says when it may have the job later, or has it without having said so
    "Unable to contact",
    "timed out",
    "Connection refused",
    "temporarily unable",
    "Resource temporarily unavailable",
    "Zero Bytes were transmitted",
    "MaxSubmitJob",
    "job submit limit",
    "job limit",
    "configuration source",
    "configuration file",
    "sbatch’: No such file",  # there is no Slurm here
    "sbatch': No such file",
)
_FIELDS = {  # the line of a profile that sbatch complains of
    "account": "account",
    "partition": "partition",
    "qos": "qos",
    "gres": "gpus",
    "feature": "constraint",
    "constraint": "constraint",
    "reservation": "reservation",
    "memory": "memory",
    "time limit": "time",
    "node configuration": "cpus",
    "cpu count": "cpus",
    "mail": "mail",
}


@dataclass(frozen=True)
class SlurmRequest(Request):
    """A job with its script."""

    script: str = ""

    def __str__(self) -> str:
        return f"sbatch <<'END'\n{self.script}END\nwhich runs: {super().__str__()}"


class SlurmCluster:
    """Jobs of one user on one site.

    Args:
        folder: holds one directory per job, named by the job's key; on a disk that the nodes see too.
        profile: how jobs are submitted; None to look after jobs only.
    """

    def __init__(self, folder: Path, profile: Profile | None = None) -> None:
        self.folder, self.profile = folder.resolve(), profile
        self.name = NAME if profile is None else f"{NAME}:{profile.file}"
        self.queue = Queue(self.folder, *((profile.poll, profile.accounting) if profile else ()))
        self.share = (
            Share(1, 0, 1)
            if profile is None
            else Share(profile.cpus, profile.gpus, profile.parallel, profile.python or "")
        )

    def plan(self, job: Job) -> SlurmRequest:
        """The script that would be submitted; its nonce is made at submission."""
        assert self.profile is not None
        script = executor(self.profile, job, "NONCE").text()
        return SlurmRequest(job, job.command, environment(self.profile, job), script)

    def submit(self, request: Request) -> Handle:
        """Submit the job, and write its number down. Not as long as Slurm counts another as live: Unavailable."""
        assert self.profile is not None
        job = request.job
        if other := self.occupied(job.key):
            raise Unavailable(f"job {other} of this trial has not ended yet")
        nonce = intend(job.directory)
        body = self._body(job, nonce)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it then raises
                submitted = executor(self.profile, job, nonce).submit(body)
        except (FailedJobError, FailedSubmissionError) as error:
            raise self._refusal(str(error).strip()) from None
        handle = Handle(self.name, submitted.job_id, key=job.key, sweep=job.sweep, nonce=nonce)
        self.queue.watch(handle.id, job.directory)
        record(job.directory, nonce, handle)
        return handle

    def plan_array(self, jobs: Sequence[Job], parallel: int) -> str:
        """The script that ``submit_array`` would submit."""
        assert self.profile is not None
        return array_executor(self.profile, jobs, folder_of(self.folder, "NONCE"), "NONCE", parallel).text()

    def submit_array(self, jobs: Sequence[Job], parallel: int) -> list[Handle]:
        """Submit jobs as one array, of which ``parallel`` run at once, and write their numbers down.

        Raises as ``submit``. The caller makes sure that nobody else submits one of these keys meanwhile.
        """
        assert self.profile is not None
        nonce = secrets.token_hex(8)
        folder = write(self.folder, nonce, [job.key for job in jobs])
        for job in jobs:
            intend(job.directory, nonce)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                made = array_executor(self.profile, jobs, folder, nonce, parallel)
                number = made.submit_as_array([self._body(job, nonce, title(job, nonce)) for job in jobs])
        except (FailedJobError, FailedSubmissionError) as error:
            raise self._refusal(str(error).strip()) from None
        handles = [
            Handle(self.name, f"{number}_{task}", key=job.key, sweep=job.sweep, nonce=nonce)
            for task, job in enumerate(jobs)
        ]
        self.queue.watch_all({handle.id: self.folder / handle.key for handle in handles})
        for job, handle in zip(jobs, handles, strict=True):
            record(job.directory, nonce, handle)
        return handles

    def _body(self, job: Job, nonce: str, named: tuple[str, str] | None = None) -> Body:
        assert self.profile is not None
        requeue = self.profile.requeue
        grace_s = requeue.warning * 0.75
        return Body(command_of(job), job.log, job.directory, nonce, requeue.allowed, grace_s, named)

    def find(self, key: str) -> Handle | None:
        """The recorded job if it lives, or a live one whose submitter died before it had written its number down."""
        handle = recorded(self.folder / key)
        if handle is not None:
            ours = handle.cluster.partition(":")[0] == NAME and _code(self.folder, handle) is None
            return handle if ours and self.queue.live_at(handle.id, self.folder / key) else None
        if not (self.folder / key / "job.json").exists():
            return None
        for job in self.queue.listed():
            if job.state.live and job.place == str(self.folder / key):
                handle = self.handle(job)
                _adopt(self.folder / key, handle)
                self.queue.watch(job.id, self.folder / key)
                record(self.folder / key, handle.nonce, handle)
                return handle
        return None

    def occupied(self, key: str) -> str:
        """The number of a job that Slurm counts as live although what it ran may have ended; empty when there is none.

        Slurm ends a job some time after its command, on a busy node seconds later. Raises Unavailable.
        """
        if recorded(self.folder / key) is None:
            return ""
        place = str(self.folder / key)
        ids = (j.id for j in self.queue.listed() if j.place == place and j.state.live and not j.completing)
        return next(ids, "")

    def state(self, handle: Handle) -> State:
        """As its directory says, once it has ended; else as Slurm said when it was last asked.

        ``cancelled`` is what others did: a job that :meth:`tell` asked to end has ended, however it did.
        """
        code = _code(self.folder, handle)
        if code is not None:
            return State.KILLED if code < 0 else State.ENDED
        state = self.queue.state(handle.id, self.folder / handle.key)
        return State.ENDED if state is State.CANCELLED and _note(self.folder, handle).exists() else state

    def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM, and ``scancel`` after ``grace_s`` seconds. Returns when it has ended, or Slurm was told."""
        self.stop_all([handle], grace_s)

    def stop_all(self, handles: Sequence[Handle], grace_s: float) -> None:
        """Ask these jobs to end, all at once, and make those end that still live after ``grace_s`` seconds."""
        with contextlib.suppress(Unavailable):
            self.tell(handles)
        began = asked = time.monotonic()
        left = list(handles)
        while left and time.monotonic() < began + grace_s:
            time.sleep(0.1)
            left = [handle for handle in left if _code(self.folder, handle) is None]
            if left and time.monotonic() > asked + 1:  # a job that waited leaves no note
                asked = time.monotonic()
                with contextlib.suppress(Unavailable):
                    live = {job.id for job in self.queue.listed() if job.state.live}
                    left = [handle for handle in left if handle.id in live]
        with contextlib.suppress(Unavailable):
            self.cancel([handle.id for handle in left])

    def tell(self, handles: Sequence[Handle]) -> None:
        """Ask these jobs to end, with two commands for all; does not wait. Raises Unavailable."""
        for handle in handles:
            directory_of_notes(self.folder / handle.key)
            _note(self.folder, handle).touch()
        live = {job.id for job in self.queue.listed(within_s=2) if job.state.live}
        self.queue.tell([handle.id for handle in handles if handle.id in live])

    def cancel(self, ids: Sequence[str]) -> None:
        """``scancel`` those of these jobs that are ours at this moment. Raises Unavailable."""
        if ids:
            live = {job.id for job in self.queue.listed() if job.state.live}
            self.queue.cancel([id for id in ids if id in live])
            self.queue.expire()

    def live(self, sweep: str) -> list[Listed]:
        """The sweep's jobs that run or wait, recorded or not. Raises Unavailable."""
        return [job for job in self.queue.listed() if job.state.live and job.says("sweep") == sweep]

    def handle(self, job: Listed) -> Handle:
        """The handle of a job that Slurm lists."""
        return Handle(self.name, job.id, None, job.says("key"), job.says("sweep"), job.says("nonce"))

    def printed(self, handle: Handle) -> Path | None:
        """What its setup lines and submitit said."""
        if "_" in handle.id:
            return folder_of(self.folder, handle.nonce) / f"{handle.id}_0_log.err"
        return self.folder / handle.key / "slurm" / f"{handle.id}_0_log.err"

    def _refusal(self, said: str) -> Exception:
        """What sbatch's words come to: not now, or never, and then by which line of the profile."""
        assert self.profile is not None
        if may_pass(said):
            return Unavailable(said.splitlines()[-1])
        words = said.rpartition("error: ")[2]
        field = next((field for sign, field in _FIELDS.items() if sign in words.lower()), None)
        place = self.profile.line_of(field) if field else str(self.profile.file)
        return UserError(f"{place}: Slurm does not accept the job: {words}")


def may_pass(said: str) -> bool:
    """Is sbatch's refusal about something else than the job, so that it is worth trying again?"""
    return any(sign.lower() in said.lower() for sign in _NOT_NOW)


def _adopt(directory: Path, handle: Handle) -> None:
    """Give a job what it runs: its submitter died before submitit had called that by the job's number.

    Without it the job waits for a minute, and ends. A copy, as the submitter may live and be about to do so. What is
    meant for a task of an array lies among the others', and says which directory it works in.
    """
    array = "_" in handle.id
    folder = folder_of(directory.parent, handle.nonce) if array else directory / "slurm"
    meant = handle.key if array else handle.nonce
    place = folder / f"{handle.id}_submitted.pkl"
    for draft in () if place.exists() else list(folder.glob("*.pkl")):
        with contextlib.suppress(FileNotFoundError):  # the submitter was quicker
            if "_" not in draft.name and meant.encode() in draft.read_bytes():
                copy = place.with_suffix(f".{os.getpid()}.tmp")
                copy.write_bytes(draft.read_bytes())
                copy.replace(place)


def _note(folder: Path, handle: Handle) -> Path:
    """The note that we have asked a job to end."""
    return folder / handle.key / "slurm" / f"{handle.nonce}.stop"


def _code(folder: Path, handle: Handle) -> int | None:
    """The exit code that a job left in its directory; None when it left none."""
    try:
        return int((folder / handle.key / "slurm" / f"{handle.nonce}.ended").read_text())
    except (FileNotFoundError, ValueError):
        return None

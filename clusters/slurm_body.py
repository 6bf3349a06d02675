"""What a Slurm job runs: the command as a child of submitit's process, which Slurm's signals reach too.

===================== ====================================================================================
SIGUSR2               Slurm will take the job away (preemption, time limit): the command writes a checkpoint
                      and ends, and submitit asks Slurm to start the job again (``scontrol requeue``)
SIGTERM               of ours (a file says so): the command writes a checkpoint and ends, and with it the job
SIGTERM of others     scancel, or a preemption that gives no other warning: the command writes a checkpoint
                      and ends; the job stays for Slurm to decide what becomes of it
no signal             the command ended because it was asked to by other means (``ON_REQUEST``): so does the job
===================== ====================================================================================

Only this marks the end of a job without Slurm being asked: ``DIR/slurm/NONCE.ended`` holds the exit code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from submitit.core.utils import DelayedSubmission

from clusters.base import ON_REQUEST, STOPPED

AWAIT_S = 60.0  # for Slurm to end or requeue a job whose command it has told to end
RACE_S = 2.0  # between the same signal reaching the command and us
_POLL_S = 0.05
_TOLD = (STOPPED, -signal.SIGUSR2, -signal.SIGTERM)  # told to end; the latter two before it could listen


class Body:
    """The function that submitit calls.

    Args:
        command: its first word is None for the Python that this runs in.
        log: what the command prints is appended to it.
        directory: where it runs; notes of job NONCE are in its folder ``slurm``.
        requeue: is the job to be started again when Slurm takes it away?
        grace_s: how long the command may take to end when it is told to.
        title: name and comment that the job gives itself: a task of an array has the array's until then.
    """

    def __init__(
        self,
        command: tuple[str | None, ...],
        log: Path,
        directory: Path,
        nonce: str,
        requeue: bool,
        grace_s: float,
        title: tuple[str, str] | None = None,
    ) -> None:
        self.command, self.log, self.directory, self.nonce = command, log, directory, nonce
        self.requeue, self.grace_s, self.title = requeue, grace_s, title
        self._pid = 0

    def __call__(self) -> int:
        """Run the command to its end; returns its exit code, and raises RuntimeError if it failed."""
        note = directory_of_notes(self.directory)
        (note / f"{self.nonce}.ended").unlink(missing_ok=True)
        if (note / f"{self.nonce}.stop").exists():  # while it waited to be started again
            return self._end(STOPPED)
        self._take_title()
        first, *rest = self.command
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                [first or sys.executable, *[str(word) for word in rest]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
            )
        self._pid = child.pid
        while not self._ended():  # no wait(): a signal's handler could not look at the child meanwhile
            time.sleep(_POLL_S)
        if self._code() in _TOLD:
            self._await_slurm(note / f"{self.nonce}.stop")
        code = self._end(child.wait())
        if code not in (0, STOPPED, ON_REQUEST):
            raise RuntimeError(f"the command ended with code {code}; what it printed is in {self.log}")
        return code

    def checkpoint(self) -> DelayedSubmission | None:
        """What submitit calls on SIGUSR2: have the command end; returns what is to be run again, if anything."""
        end = time.monotonic() + self.grace_s
        while self._pid and not self._ended():
            os.kill(self._pid, signal.SIGUSR2 if time.monotonic() < end else signal.SIGKILL)
            time.sleep(0.5)  # again and again: the first may come before the command listens
        if self._pid and self._code() not in (*_TOLD, -signal.SIGKILL):
            self._end(self._code())
            return None
        if not self.requeue:
            self._end(STOPPED)
            return None
        again = (self.command, self.log, self.directory, self.nonce, self.requeue, self.grace_s, self.title)
        return DelayedSubmission(Body(*again))

    def _take_title(self) -> None:
        """For people who read squeue: nothing depends on it."""
        if self.title is not None:
            name, comment = self.title
            own = "_".join(os.environ.get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK"))
            words = ["scontrol", "update", f"JobId={own}"]  # SLURM_JOB_ID may be the whole array's
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(
                    [*words, f"JobName={name}", f"Comment={comment}"],
                    timeout=10,
                    capture_output=True,
                    check=False,
                )

    def _await_slurm(self, stop: Path) -> None:
        """A signal has ended the command. Unless we were asked for it, Slurm has more to say."""
        end = time.monotonic() + (AWAIT_S if self.requeue else RACE_S)
        while not stop.exists() and time.monotonic() < end:
            time.sleep(_POLL_S)

    def _ended(self) -> bool:
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self._pid, flags) is not None

    def _code(self) -> int:
        found = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        assert found is not None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _end(self, code: int) -> int:
        code = STOPPED if code in _TOLD else code
        (directory_of_notes(self.directory) / f"{self.nonce}.ended").write_text(f"{code}\n")
        return code


def directory_of_notes(directory: Path) -> Path:
    """Where a job's submission, notes and Slurm's output are."""
    folder = directory / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""A trial's job where RUNS is on an object store: ``python -m orchestrate.storage.job --sweep NAME URL DIR COMMAND``.

Takes the trial's lease, brings the trial and its helpers to DIR, runs COMMAND (which trains there, and knows nothing of
all this), and carries up what it writes. It is a process of its own so that it outlives the actor: whoever ends
that, the last checkpoint still goes up. A store that does not answer delays nothing but this process's end.

Without a COMMAND it only brings here what is small, for the actor: is there anything to do?
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from clusters.base import STOPPED
from orchestrate.runs import Runs, TrialDir
from orchestrate.storage.lease import Lease
from orchestrate.storage.place import Place, Unreachable
from orchestrate.storage.trial_mirror import Overtaken, TrialMirror, fetch_checkpoints
from training.errors import UserError

EVERY_S = 3.0  # between two looks at what is new
LONGEST_S = 30.0  # between two tries with a store that does not answer
AFTERWARDS_S = 60.0  # for the last of it to go up, when it was asked to end
OVERTAKEN = 70


class Job:
    """One attempt at one trial, on this node."""

    def __init__(self, place: Place, trial: TrialDir, sweep: str) -> None:
        self.place, self.trial, self.sweep = place, trial, sweep
        self.runs = Runs(trial.path.parents[1])
        self.lease = Lease(place, f"trials/{trial.key}", lost=self._overtaken)
        self.mirror = TrialMirror(place, trial, self.lease.still_ours)
        self.child: subprocess.Popen[bytes] | None = None
        self.asked_at: float | None = None  # to end
        self._woken = threading.Event()
        self._pause = EVERY_S

    def listen(self) -> None:
        """Take signals from now on; the child gets them too."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._asked)

    def run(self, command: Sequence[str]) -> int:
        """All of it; returns the exit code of COMMAND, negative after a signal."""
        if not self._until(self._enter):
            return STOPPED
        started = [sys.executable, "-P", "-m", "clusters.child", str(os.getpid()), *command]
        self.child = subprocess.Popen(started, stdin=subprocess.DEVNULL)
        if self.asked_at is not None:  # a signal before it could be passed on
            self.child.terminate()
        while self.child.poll() is None:
            self._try(self._round)
            self._sleep(self._pause)
        if not self._until(lambda: self._round(final=True)):
            print(f"not all of {self.trial.path} went to the object store", file=sys.stderr, flush=True)
        self.lease.release()
        return self.child.returncode

    def fetch(self) -> None:
        """What is small of the trial, and whether the sweep was asked to end. Raises Unreachable."""
        self.mirror.refresh()
        self._look_for_stop()

    def _enter(self) -> bool:
        """Take the lease and bring everything here; until then, what its holder has told."""
        self.fetch()
        if self.runs.sweep(self.sweep).stop_file.exists():
            self.asked_at = time.monotonic() - AFTERWARDS_S
            return False
        if not self.lease.number and not self.lease.take():
            return False
        self.mirror.adopt()
        spec = self.trial.spec()
        imports = set(spec.imports.items())
        for helper in (ref["key"] for ref in spec.helpers.values() if "key" in ref):
            there = TrialMirror(self.place, self.runs.trial(helper)).refresh()
            fetch_checkpoints(self.place, self.runs.trial(helper), there, ("last.pt",))
            imports |= set(self.runs.trial(helper).spec().imports.items())
        for name, digest in imports:
            file = self.runs.imports / digest / name
            if not file.exists():
                self.place.fetch(f"imports/{digest}/{name}", file)
        return True

    def _round(self, final: bool = False) -> bool:
        self.mirror.push(final)
        if not final:
            self._look_for_stop()
        return True

    def _look_for_stop(self) -> None:
        """A request to end, of the trial or of its sweep, is an object; here it becomes a file."""
        swept = self.runs.sweep(self.sweep)
        for path, file in (
            (f"sweeps/{self.sweep}/stop", swept.stop_file),
            (f"trials/{self.trial.key}/stop", self.trial.stop_file),
        ):
            if self.place.exists(path):
                self.place.fetch(path, file)
            elif file == swept.stop_file:
                file.unlink(missing_ok=True)
        if self.trial.stop_file.exists():
            self.place.remove([f"trials/{self.trial.key}/stop"])
        if swept.stop_file.exists() and self.child is not None and self.asked_at is None:
            self._asked(signal.SIGTERM, None)

    def _until(self, done: Callable[[], bool]) -> bool:
        """Try until it is done; False when this process was asked to end and has tried for long enough."""
        while not self._try(done):
            patience = AFTERWARDS_S if self.child is not None else 0.0
            if self.asked_at is not None and time.monotonic() - self.asked_at >= patience:
                return False
            self._sleep(self._pause if self.asked_at is None else 1.0)
        return True

    def _try(self, what: Callable[[], bool]) -> bool:
        try:
            done = what()
            self._pause = EVERY_S
        except Unreachable as error:
            if self._pause == EVERY_S:
                print(
                    f"the object store does not answer ({error}); trying again", file=sys.stderr, flush=True
                )
            self._pause = min(2 * self._pause, LONGEST_S)
            return False
        return done

    def _sleep(self, seconds: float) -> None:
        """At most so long: a signal, or the end of the child, is heard of within a moment."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and (self.child is None or self.child.poll() is None or seconds == 1.0):
            if self._woken.wait(min(0.2, seconds)):
                self._woken.clear()
                return

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        self.asked_at = self.asked_at or time.monotonic()
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)
        self._woken.set()

    def _overtaken(self) -> None:
        if self.child is not None:
            self.child.kill()
        os._exit(OVERTAKEN)


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrate.storage.job")
    parser.add_argument("url")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--sweep", required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    try:
        job = Job(Place.open(given.url), TrialDir(given.directory), given.sweep)
        if not given.command:
            job.fetch()
            return 0
        job.listen()
        return job.run(given.command)
    except (UserError, Unreachable, Overtaken) as error:
        print(error, file=sys.stderr)
        return OVERTAKEN if isinstance(error, Overtaken) else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:  # so that who started this sees how the process ended that trained
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code)

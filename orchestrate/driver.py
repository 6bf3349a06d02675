"""Runs a sweep from its first to its last trial, and leaves nothing behind, however it ends.

The main thread conducts: it starts the reaper (and through it the tracking relay), Ray, the live view, and Tune in a
thread of its own, and then only waits. So a signal is acted on at once, whatever Tune is busy with::

    Ctrl-C, SIGTERM, SIGHUP, a stop file    every job is asked to end; checkpoints are waited for; a second Ctrl-C
                                            does not wait
    kill -9, or a lost machine              the reaper does the same; after a lost machine the ledger and the trials'
                                            directories are all that is needed to go on

Exit codes: 0 all finished or were pruned, 1 some failed, 128 + N after signal N (``parapet stop`` counts as SIGINT).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from clusters.process import me
from orchestrate import ledger, reaper
from orchestrate.agenda import Agenda, Pause
from orchestrate.ledger import Row
from orchestrate.locks import Lock, LockHeld
from orchestrate.plan import Planner, on_a_cluster
from orchestrate.runner import Task
from orchestrate.runs import Runs, SweepDir, write_whole
from orchestrate.search import grid, proposer
from orchestrate.sweep_file import Sweep
from training.errors import UserError

READY_S = 120.0  # for the tracking store to answer
TOLD_S = 60.0  # for the relay to tell what is left
LOOK_S = 0.2  # between two looks at the stop file
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENVIRONMENT = {  # of Ray and Tune; what the user sets wins
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one talks even when it is told not to
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no accuracy to report
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: Ray listens on 127.0.0.1 only, also on Linux


class Interrupted(BaseException):
    """The sweep was asked to end; ``number`` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(sweep: Sweep, runs: Runs, *, cluster: str = "local", planner: Planner | None = None) -> int:
    """Run a sweep, or go on with it; returns the exit code. Does not return when it was interrupted: it exits.

    Args:
        planner: of this sweep, where the caller has one that has read the data already.

    Raises:
        UserError: a mistake in the sweep, a store that cannot be used, or the sweep is running already.
    """
    folder = runs.sweep(sweep.name)
    lock = Lock(folder.lock_file)
    try:
        lock.acquire()
    except LockHeld as held:
        raise UserError(
            f"{folder.path}: the sweep is being run already by {held.holder.process}"
            f" (parapet stop {sweep.name} ends it)"
        ) from None
    try:
        driver = _Driver(sweep, runs, cluster, planner or Planner(sweep, runs))
        code = driver.run()
    finally:
        lock.release()
    if driver.tracking is not None and driver.tracking.lost:
        tell = [sys.executable, "-P", "-m", "orchestrate.relay", str(runs.path), sweep.name, "--once"]
        subprocess.run(tell, stdin=subprocess.DEVNULL, timeout=TOLD_S, check=False)
    if code >= 128:
        _leave(code)
    return code


class _Driver:
    """One run of one sweep, under its lock."""

    def __init__(self, sweep: Sweep, runs: Runs, cluster: str, planner: Planner) -> None:
        self.sweep, self.runs, self.cluster, self.planner = sweep, runs, cluster, planner
        self.folder = runs.sweep(sweep.name)
        self.token = secrets.token_hex(8)
        self.scratch = ""
        self.tracking: Tracking | None = None

    def run(self) -> int:
        """All of it, up to the report, or up to an interruption; returns the exit code."""
        try:
            return self._run()
        except Interrupted as interrupted:
            self._wind_down("KILLED")
            name = self.sweep.name
            print(
                f"{name}: stopped ({interrupted}); parapet sweep {name} --resume goes on from the checkpoints"
            )
            return 128 + interrupted.number
        except BaseException:
            self._wind_down("FAILED")
            raise

    def _run(self) -> int:
        replay = self.sweep.scheduler.name != "none"
        agenda = Agenda(self.sweep, self.runs, self.planner, proposer(self.sweep), replay=replay)
        self.folder.stop_file.unlink(missing_ok=True)
        write_whole(self.folder.sweep_file, yaml.safe_dump(self.sweep.dump(), sort_keys=False))
        _listen()
        self.scratch = tempfile.mkdtemp(prefix="parapet-", dir=_short_folder())
        self.tracking = Tracking(self.runs, self.folder, self.token, self.scratch)
        first = agenda.next()
        if isinstance(first, Pause):
            self.tracking.wait_until_ready()
        else:
            agenda.put_back(first)
            self._search(agenda)
        return self._conclude(ledger.read(self.folder.ledger_file))

    def _wind_down(self, status: str) -> None:
        """End the jobs that still run, and have everything told."""
        with contextlib.suppress(OSError):  # the disk may be full; that is no reason to leave jobs behind
            write_whole(self.folder.stop_file, "")  # actors submit nothing from now on
        reaper.end_jobs(self.token)
        if self.tracking is not None:
            self.tracking.end(status)
        self.folder.stop_file.unlink(missing_ok=True)

    def _search(self, agenda: Agenda) -> None:
        """Start Ray and let Tune run the agenda."""
        assert self.tracking is not None
        with _ray(self.scratch) as total:
            self.tracking.wait_until_ready()
            cpus, gpus, at_once = self._room(total)
            from orchestrate.live import Live
            from orchestrate.tune_search import TuneSearch, scheduler, tuner

            search = TuneSearch(agenda, lambda row: self._task(row, cpus, gpus), at_once)
            tune = tuner(search, scheduler(self.sweep.scheduler), self.scratch)
            with Live(self.folder, self.runs, _expected(self.sweep)):
                self._conduct(tune.fit)

    def _conduct(self, fit: Callable[[], object]) -> None:
        """Wait for Tune, which works in another thread; raise what it raised, or Interrupted."""
        errors: list[BaseException] = []

        def work() -> None:
            try:
                fit()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work, name="tune", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(LOOK_S)
                if self.folder.stop_file.exists():
                    raise Interrupted(signal.SIGINT)
        except Interrupted:
            write_whole(self.folder.stop_file, "")
            for job in reaper.jobs_of(self.token):
                job.signal(signal.SIGTERM)
            raise
        for error in errors:
            raise error

    def _room(self, total: Mapping[str, float]) -> tuple[float, float, int]:
        """CPUs and GPUs of a trial, and how many trials at once there is room for."""
        asked = self.sweep.resources
        gpus = asked.gpus if asked.gpus is not None else float(total.get("GPU", 0) > 0)
        rooms = [self.sweep.concurrency, int(total.get("CPU", 0) / asked.cpus)]
        if gpus:
            rooms.append(int(total.get("GPU", 0) / gpus))
        if on_a_cluster():  # which may grow when more is asked of it
            return asked.cpus, gpus, self.sweep.concurrency
        if min(rooms) == 0:
            raise UserError(
                f"resources: a trial asks for {asked.cpus:g} cores and {gpus:g} GPUs, and there are"
                f" {total.get('CPU', 0):g} and {total.get('GPU', 0):g} here"
            )
        return asked.cpus, gpus, min(rooms)

    def _task(self, row: Row, cpus: float, gpus: float) -> Task:
        limits = self.sweep.limits
        return Task(
            runs=str(self.runs.path),
            key=row.key,
            evaluations=tuple(row.evaluations),
            cluster=self.cluster,
            cpus=cpus,
            gpus=gpus,
            hours=limits.hours,
            retries=limits.retries,
            checkpoint_minutes=limits.checkpoint_minutes,
            token=self.token,
            driver=me(),
            stop_file=str(self.folder.stop_file),
            replay=row.state != "open",
        )

    def _conclude(self, rows: list[Row]) -> int:
        """Failures, front, tracking; returns the exit code."""
        assert self.tracking is not None
        from orchestrate import report

        report.show(report.make(self.runs, [self.sweep.name]))
        failed = any(row.state == "failed" for row in rows)
        self.tracking.end("FAILED" if failed else "FINISHED")
        return 1 if failed else 0


class Tracking:
    """The relay, at the other end of two pipes, and the reaper that started it."""

    def __init__(self, runs: Runs, folder: SweepDir, token: str, scratch: str) -> None:
        self.ready = self.lost = False
        self.log = folder.path / "relay.log"
        self.log_from = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-P", "-m", "orchestrate.reaper", str(runs.path), folder.name]
        command += [
            "--driver",
            str(os.getpid()),
            "--token",
            token,
            "--log",
            str(self.log),
            "--scratch",
            scratch,
        ]
        self.pipes = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True
        )
        self.pipes.wait()  # what goes on is its child

    def wait_until_ready(self) -> None:
        """Raises UserError when the store cannot be used."""
        assert self.pipes.stdout is not None
        said = self._hear(READY_S)
        if said is None:
            raise UserError(f"the tracking store does not answer (see {self.log})")
        if not said.startswith("ready"):
            lines = self._complaints().splitlines() or [f"the tracking relay ended at once (see {self.log})"]
            raise UserError(lines[-1])
        self.ready = True

    def end(self, status: str) -> None:
        """Have everything told that is left. A relay that ended before is ``lost``; what it knew is still on disk."""
        assert self.pipes.stdin is not None
        self.lost = self.ready and self._hear(0) == ""
        with contextlib.suppress(BrokenPipeError):
            self.pipes.stdin.write(f"end {status}\n")
            self.pipes.stdin.flush()
        while self._hear(TOLD_S):
            pass
        if complaints := self._complaints():
            print(complaints, file=sys.stderr)

    def _hear(self, seconds: float) -> str | None:
        """The next line, an empty text at the end of them, None when nothing comes for so long."""
        assert self.pipes.stdout is not None
        ready, _, _ = select.select([self.pipes.stdout], [], [], seconds)
        return self.pipes.stdout.readline() if ready else None

    def _complaints(self) -> str:
        if not self.log.exists():
            return ""
        news = self.log.read_bytes()[self.log_from :]
        self.log_from += len(news)
        return news.decode(errors="replace").strip()


@contextlib.contextmanager
def _ray(scratch: str) -> Iterator[Mapping[str, float]]:
    """Ray: the cluster that RAY_ADDRESS names, or one of our own on this machine. Yields its resources."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not on_a_cluster():
        os.environ |= {LOOPBACK: "0"} | _token(Path(scratch))
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": 100_000_000,
            "_temp_dir": scratch,
        }
    import ray

    try:
        ray.init(**options)
    except SystemExit:  # Ray has a handler of its own for SIGTERM while it starts
        raise Interrupted(signal.SIGTERM) from None
    finally:
        _listen()
    try:
        yield ray.cluster_resources()
    except Interrupted:  # Tune's thread is still at work in it: it goes when this process does
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def _token(scratch: Path) -> dict[str, str]:
    """A password for our own Ray alone. Ray would leave one in the user's home, which `ray job submit` trips over."""
    file = scratch / "ray-token"
    file.touch(mode=0o600)
    file.write_text(secrets.token_hex(32))
    os.environ.pop("RAY_AUTH_TOKEN", None)  # it would win
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}


def _listen() -> None:
    """Have signals raise Interrupted in this, the main, thread; the second one ends the process at once."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup, or a shell's background, wants it
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    for other in SIGNALS:
        signal.signal(other, lambda n, _: os._exit(128 + n))
    raise Interrupted(number)


def _leave(code: int) -> NoReturn:
    """Exit without waiting for Tune's thread and its Ray; the reaper sees those out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _short_folder() -> str | None:
    """Where sockets may lie: their paths are limited to 107 bytes, of which Ray needs most."""
    return None if len(tempfile.gettempdir()) < 30 else "/tmp"


def _expected(sweep: Sweep) -> int | None:
    """How many trials the sweep will have, where that is known beforehand."""
    if sweep.search.samples is not None:
        return sweep.search.samples * len(sweep.seeds)
    return sum(len(sweep.seeds_of(config)) for config in grid(sweep))

"""Runs a sweep from its first to its last trial, and leaves nothing behind, however it ends.

The main thread conducts: it starts the reaper (and through it the tracking relay), Ray, the live view, and Tune in a
thread of its own, and then only waits. So a signal is acted on at once, whatever Tune is busy with::

    Ctrl-C, SIGTERM, SIGHUP, a stop file    every job is asked to end; checkpoints are waited for; a second Ctrl-C
                                            does not wait
    kill -9, or a lost machine              the reaper does the same; after a lost machine the ledger and the trials'
                                            directories are all that is needed to go on. Jobs on a cluster where they
                                            outlive the sweep go on, and are taken over when it is resumed

Exit codes: 0 all finished or were pruned, 1 some failed or are left for want of GPU-hours, 128 + N after signal N
(``parapet stop`` counts as SIGINT). An error of the sweep's own is raised, and leaves jobs that outlive it alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import yaml

from clusters.process import me
from orchestrate import ledger, reaper, remote, webhook
from orchestrate.agenda import Agenda, Pause
from orchestrate.ahead import Ahead, suits
from orchestrate.attendant import TOLD_S, Attendant
from orchestrate.budget import Budget
from orchestrate.interruption import Interrupted, listening
from orchestrate.ledger import Row
from orchestrate.loading import loading
from orchestrate.locks import Lock, LockHeld
from orchestrate.plan import Planner, on_a_cluster
from orchestrate.ray_session import ray_session, scratch_folder
from orchestrate.runner import Task
from orchestrate.runs import Runs, write_whole
from orchestrate.search import grid, proposer
from orchestrate.storage.head import Head
from orchestrate.sweep_file import Sweep
from training.errors import UserError

if TYPE_CHECKING:
    from orchestrate.report import Report

SEEN_OUT_S = 20.0  # for jobs on other nodes to carry up their last checkpoint
LOOK_S = 0.2  # between two looks at the stop file


def run(sweep: Sweep, runs: Runs, *, cluster: str = "local", planner: Planner | None = None) -> int:
    """Run a sweep, or go on with it; returns the exit code. Does not return when it was interrupted: it exits.

    Args:
        planner: of this sweep, where the caller has one that has read the data already.

    Raises:
        UserError: a mistake in the sweep, a store that cannot be used, or the sweep is running already; an address
            for word of the end that is none.
    """
    told_to = webhook.address()
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
        try:
            driver = _Driver(sweep, runs, cluster, planner or Planner(sweep, runs))
            if driver.elsewhere is not None:
                remote.expect_answer(driver.elsewhere)
            with driver.alone(), listening():
                code = driver.run()
        finally:
            lock.release()
    except Exception as error:
        if told_to is not None:
            _warn(webhook.tell_error(told_to, runs, sweep.name, error))
        raise
    if driver.attendant is not None and driver.attendant.lost:
        driver.attendant.replace_relay()
    if told_to is not None:
        _warn(webhook.post(told_to, webhook.document(runs, sweep.name, code, driver.report)))
    if code >= 128:
        _leave(code)
    return code


class _Driver:
    """One run of one sweep, under its lock."""

    def __init__(self, sweep: Sweep, runs: Runs, cluster: str, planner: Planner) -> None:
        self.sweep, self.runs, self.cluster, self.planner = sweep, runs, cluster, planner
        self.folder = runs.sweep(sweep.name)
        self.token = secrets.token_hex(8)
        self.elsewhere = remote.open_cluster(cluster, runs)
        self.head = Head(runs) if runs.url else None
        self.ahead: Ahead | None = None
        self.budget = Budget(runs, sweep.name, sweep.limits.gpu_hours)
        self.attendant: Attendant | None = None
        self.report: Report | None = None

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Where RUNS is on an object store, no driver on another machine runs the sweep meanwhile."""
        return self.head.holding(self.sweep.name) if self.head else contextlib.nullcontext()

    def run(self) -> int:
        """All of it, up to the report, or up to an interruption; returns the exit code."""
        try:
            return self._run()
        except Interrupted as interrupted:
            self._wind_down("KILLED")
            print(f"{self.sweep.name}: stopped ({interrupted}); {self._again()} goes on from the checkpoints")
            return 128 + interrupted.number
        except BaseException:  # no reason to end jobs that can do without us
            self._wind_down("FAILED", self.elsewhere is None)
            raise

    def _run(self) -> int:
        replay = self.sweep.scheduler.name != "none"
        agenda = Agenda(
            self.sweep,
            self.runs,
            self.planner,
            proposer(self.sweep),
            replay=replay,
            spent=self.budget.reached,
        )
        self.folder.stop_file.unlink(missing_ok=True)
        self.planner.imports.keep()
        kept = self.sweep.dump() | {"import": self.planner.imports.digests}
        write_whole(self.folder.sweep_file, yaml.safe_dump(kept, sort_keys=False))
        if not on_a_cluster():  # whose Ray may be gone when the sweep goes on
            write_whole(self.folder.cluster_file, self.cluster)
        if self.elsewhere is not None:
            remote.reap(self.runs, self.sweep.name, self.elsewhere)
        scratch = scratch_folder()
        self.attendant = Attendant(self.runs, self.folder, self.token, scratch, self.cluster)
        first = agenda.next()
        if isinstance(first, Pause):
            if not self.budget.reached():
                print(f"{self.sweep.name}: nothing to run, every trial has ended before")
            self.attendant.wait_until_ready()
        else:
            agenda.put_back(first)
            self._search(agenda, self.attendant, scratch)
        return self._conclude(self.attendant)

    def _search(self, agenda: Agenda, attendant: Attendant, scratch: Path) -> None:
        """Start Ray and let Tune run the agenda."""
        with ray_session(scratch) as total:
            attendant.wait_until_ready()
            cpus, gpus, at_once = self._room(total)
            if self.budget.hours is not None and not gpus:
                print(
                    "warning: limits.gpu_hours: trials get no GPU, so there is nothing to count",
                    file=sys.stderr,
                )
            from orchestrate.live import Live

            with loading("ray.tune"):
                from orchestrate.tune_search import TuneSearch, scheduler, tuner

            if self.elsewhere is not None and suits(self.sweep):

                def task_of(row: Row) -> Task:
                    return self._task(row, cpus, gpus)

                self.ahead = Ahead(self.runs, self.sweep.name, self.elsewhere, agenda, task_of, at_once)
            search = TuneSearch(agenda, lambda row: self._hand_out(row, cpus, gpus), at_once, self._settle)
            tune = tuner(search, scheduler(self.sweep.scheduler, search.spared), scratch)
            waits = self.elsewhere.queue.waits if self.elsewhere is not None else dict
            with Live(self.folder, self.runs, _expected(self.sweep), waits):
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
                self.budget.reached()  # also while nothing is asked for: it keeps what failed from being tried again
                if self.folder.stop_file.exists():
                    raise Interrupted(signal.SIGINT)
        except Interrupted:
            self._call_off()  # before anything else: the live view may take a moment to close
            raise
        for error in errors:
            raise error

    def _conclude(self, attendant: Attendant) -> int:
        """Front, failures, tracking; returns the exit code."""
        from orchestrate import report

        if self.elsewhere is not None:
            remote.reap(self.runs, self.sweep.name, self.elsewhere)
        self.report = report.make(self.runs, [self.sweep.name])
        report.show(self.report)
        rows = ledger.read(self.folder.ledger_file)
        failed = any(row.state == "failed" for row in rows)
        left = self.budget.reached() and self._tell_of_what_is_left(rows)
        attendant.end("FAILED" if failed else "KILLED" if left else "FINISHED")
        if self.head:
            self.head.save(self.sweep.name)
        return 1 if failed or left else 0

    def _tell_of_what_is_left(self, rows: Sequence[Row]) -> bool:
        """Say what was not run for want of GPU-hours, if anything."""
        ended = sum(row.state != "open" and row.role == "trial" for row in rows)
        if ended >= _expected(self.sweep):
            return False
        again = self._again(f"--max-gpu-hours {2 * self.budget.spent():.3g}")
        print(
            f"{self.sweep.name}: {self.budget.spent():.2f} of {self.budget.hours:g} GPU-hours are spent, and"
            f" {_expected(self.sweep) - ended} trials are left; {again} goes on"
        )
        return True

    def _again(self, more: str = "") -> str:
        """The command that goes on with this sweep."""
        words = ["parapet", "sweep", self.sweep.name, "--runs", self.runs.url or str(self.runs.path)]
        words += [] if self.cluster == "local" else ["--cluster", self.cluster]
        return shlex.join([*words, "--resume", *more.split()])

    def _call_off(self) -> None:
        """Ask all jobs to end; nothing is submitted from now on, neither here nor by actors elsewhere."""
        with contextlib.suppress(OSError):  # the disk may be full: no reason to leave jobs behind
            write_whole(self.folder.stop_file, "")
        for job in reaper.jobs_of(self.token):
            job.signal(signal.SIGTERM)
        if self.elsewhere is not None:
            remote.call_off(self.elsewhere, self.sweep.name)
        if self.head:
            self.head.call_off(self.sweep.name)

    def _wind_down(self, status: str, call_off: bool = True) -> None:
        """See the jobs that still run to their end, or leave those that outlive us; have everything told."""
        if call_off:
            self._call_off()
        reaper.end_jobs(self.token)
        if self.elsewhere is not None and call_off:
            remote.end(self.elsewhere, self.sweep.name)
        elif self.elsewhere is not None:
            remote.tell_what_lives(self.elsewhere, self.sweep.name, self._again())
        if self.head:
            self.head.see_out(self.sweep.name, SEEN_OUT_S)
        if self.attendant is not None:
            self.attendant.end(status, TOLD_S)
        if self.head:
            self.head.save(self.sweep.name)
        self.folder.stop_file.unlink(missing_ok=True)

    def _room(self, total: Mapping[str, float]) -> tuple[float, float, int]:
        """CPUs and GPUs of a trial, and how many trials at once there is room for."""
        asked = self.sweep.resources
        if self.elsewhere is not None:
            share = self.elsewhere.share
            return *remote.needs(asked, share), min(self.sweep.concurrency, share.parallel)
        gpus = asked.gpus if asked.gpus is not None else float(total.get("GPU", 0) > 0)
        if on_a_cluster():  # which may grow when more is asked of it
            return asked.cpus, gpus, self.sweep.concurrency
        rooms = [self.sweep.concurrency, int(total.get("CPU", 0) / asked.cpus)]
        if gpus:
            rooms.append(int(total.get("GPU", 0) / gpus))
        if min(rooms) == 0:
            raise UserError(
                f"resources: a trial asks for {asked.cpus:g} cores and {gpus:g} GPUs, and there are"
                f" {total.get('CPU', 0):g} and {total.get('GPU', 0):g} here"
            )
        return asked.cpus, gpus, min(rooms)

    def _settle(self, key: str) -> None:
        """A trial has ended: bring all of it here, and let others have its place."""
        if self.ahead:
            self.ahead.settle()
        if self.head:
            head = self.head
            head.patiently(lambda: head.pull([key]), self.folder.stop_file.exists)

    def _hand_out(self, row: Row, cpus: float, gpus: float) -> Task:
        """The task of a row that an actor is about to get; its job may be submitted by now."""
        if self.ahead:
            self.ahead.submit(row)
        return self._task(row, cpus, gpus)

    def _task(self, row: Row, cpus: float, gpus: float) -> Task:
        limits = self.sweep.limits
        if self.head:
            self.head.plan(self.sweep.name, row.key)
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
            sweep=self.sweep.name,
            token=self.token,
            driver=me(),
            stop_file=str(self.folder.stop_file),
            spent_file=str(self.folder.spent_file),
            replay=row.state != "open",
            nonce=self.ahead.nonces.get(row.key, "") if self.ahead else "",
            url=self.runs.url,
        )


def _warn(problem: str | None) -> None:
    if problem:
        print(f"warning: {problem}", file=sys.stderr)


def _expected(sweep: Sweep) -> int:
    """How many trials the sweep will have, its helpers aside."""
    if sweep.search.samples is not None:
        return sweep.search.samples * len(sweep.seeds)
    return sum(len(sweep.seeds_of(config)) for config in grid(sweep))


def _leave(code: int) -> NoReturn:
    """Exit without waiting for Tune's thread and its Ray; the reaper sees those out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

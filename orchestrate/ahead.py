"""Submits the trials of a sweep that asks for all of them at once as one job array, ahead of their actors.

That is a grid or a random search without a scheduler, on Slurm: what comes next hangs on no result. When a row is about
to be handed out, it and all others that can run are submitted together; each actor then finds its trial's task, as it
would find the job of an earlier driver. A task that is lost is submitted again alone, by its actor.

While a row waits for a helper network nothing is submitted ahead: the rows go singly, helpers first, and the rest is an
array once the last helper is there. So at no time more than the sweep's ``concurrency`` run: the array's tasks get the
places that other jobs of the sweep do not have.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from clusters.base import Job, Unavailable
from clusters.slurm import SlurmCluster
from clusters.slurm_array import largest
from orchestrate.agenda import Agenda
from orchestrate.ledger import Row
from orchestrate.locks import Lock, LockHeld, Watch
from orchestrate.runner import Task, job
from orchestrate.runs import Runs
from orchestrate.sweep_file import Sweep
from training.errors import UserError

FEWEST = 2  # trials that are worth an array


def suits(sweep: Sweep) -> bool:
    """Is all that the sweep asks for known before the first result? A limit on GPU-hours has to be able to stop it."""
    asks_for_all = sweep.search.name in ("grid", "random") and sweep.scheduler.name == "none"
    return asks_for_all and sweep.limits.gpu_hours is None


class Ahead:
    """The arrays of one driver.

    Args:
        task_of: what is to be done for a row.
        parallel: most jobs of the sweep at once.
    """

    def __init__(
        self,
        runs: Runs,
        sweep: str,
        cluster: SlurmCluster,
        agenda: Agenda,
        task_of: Callable[[Row], Task],
        parallel: int,
    ) -> None:
        self.runs, self.sweep, self.cluster, self.agenda = runs, sweep, cluster, agenda
        self.task_of, self.parallel = task_of, parallel
        self.nonces: dict[str, str] = {}  # of the trials that were submitted ahead
        self._considered: set[int] = set()
        self._array, self._room = "", 0  # the last one's number, and how many of its tasks may run

    def submit(self, row: Row) -> None:
        """Submit this row, which is about to be handed out, with all that could be handed out after it."""
        if row.row in self._considered or row.state != "open":
            return
        rows = [row, *self.agenda.rest()]
        if self.agenda.waiting:
            return
        rows = [one for one in rows if one.row not in self._considered]
        self._considered |= {one.row for one in rows}
        for size in range(0, len(rows), limit := largest()):
            self._submit(rows[size : size + limit])

    def settle(self) -> None:
        """A trial has ended: the array may have its place, if it was not its own."""
        if self._array and self._room < self.parallel:
            with contextlib.suppress(Unavailable):
                self._throttle()

    def _submit(self, rows: list[Row]) -> None:
        with contextlib.ExitStack() as locks:
            jobs: list[Job] = []
            try:
                for row in rows:
                    found = self._needed(row, locks)
                    jobs += [found] if found is not None else []
                if len(jobs) < FEWEST:
                    return
                self._room = max(1, self.parallel - len(self.cluster.live(self.sweep)))
                handles = self.cluster.submit_array(jobs, self._room)
            except Unavailable as error:  # their actors find the tasks, should there be any
                print(f"{self.sweep}: {error}: no array was submitted", file=sys.stderr)
                return
            except (UserError, OSError) as error:
                print(
                    f"{self.sweep}: no array: {error}; its trials are submitted one by one", file=sys.stderr
                )
                return
            self._array = handles[0].id.partition("_")[0]
            self.nonces |= {handle.key: handle.nonce for handle in handles}

    def _needed(self, row: Row, locks: contextlib.ExitStack) -> Job | None:
        """The job of a row, under its trial's submit lock; None where somebody runs it, or is about to."""
        trial = self.runs.trial(row.key)
        try:
            locks.enter_context(Lock(trial.path / "submit.lock"))
        except LockHeld:
            return None
        if self.cluster.find(row.key) is not None or Watch(trial.lock_file).held():
            return None
        if self.cluster.occupied(row.key):
            return None
        trial.stop_file.unlink(missing_ok=True)  # asked of an earlier attempt
        return job(self.task_of(row))

    def _throttle(self) -> None:
        live = self.cluster.live(self.sweep)
        others = sum(job.id.partition("_")[0] != self._array for job in live)
        room = max(1, self.parallel - others)
        if room != self._room and len(live) > others:
            self.cluster.queue.throttle(self._array, room)
            self._room = room


def script(cluster: SlurmCluster, tasks: list[Task], parallel: int) -> str:
    """The sbatch script of an array of these trials."""
    return cluster.plan_array([job(task) for task in tasks], parallel)

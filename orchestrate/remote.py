"""A sweep's jobs on a cluster where they outlive it: what they get, how they are called off, which are left over.

Such a job is known as the sweep's by what the cluster says of it, recorded in its trial's directory or not; so this
needs nobody who may be dead, and never touches a job that is not the sweep's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import clusters
from clusters.base import Share, State, Unavailable, recorded
from clusters.slurm import NAME, SlurmCluster
from clusters.slurm_queue import Listed
from orchestrate import ledger
from orchestrate.plan import on_a_cluster
from orchestrate.runner import ask_to_stop
from orchestrate.runs import Runs, SweepDir
from orchestrate.sections import Resources
from training.errors import UserError

GRACE_S = 15.0  # for jobs to write their checkpoints


@dataclass(frozen=True)
class Leftover:
    """A live job that nobody needs any more, and why."""

    job: Listed
    why: str


def needs(asked: Resources, share: Share) -> tuple[float, float]:
    """Cores and GPUs of a job: the sweep file's where it says something else than its defaults, else the cluster's."""
    cpus = asked.cpus if asked.cpus != Resources().cpus else share.cpus
    return cpus, share.gpus if asked.gpus is None else asked.gpus


def open_cluster(name: str, runs: Runs) -> SlurmCluster | None:
    """The cluster of that name, if jobs outlive their submitters there."""
    kind, _, profile = name.partition(":")
    return clusters.open_slurm(runs.path / "trials", profile) if kind == NAME else None


def cluster_before(sweep: SweepDir) -> str:
    """Where a sweep ran last, for who does not say where it goes on; inside a Ray job that is the job's Ray."""
    if on_a_cluster() or not sweep.cluster_file.exists():
        return "local"
    return sweep.cluster_file.read_text().strip()


def expect_answer(cluster: SlurmCluster) -> None:
    """Raises UserError where Slurm cannot be reached: a sweep could start, and wait for ever."""
    try:
        cluster.queue.listed()
    except Unavailable as error:
        raise UserError(
            f"--cluster {cluster.name}: {error} (is this a machine that jobs are submitted from?)"
        ) from None


def call_off(cluster: SlurmCluster, sweep: str) -> None:
    """Ask all jobs of a sweep to end; does not wait for it. Should Slurm not answer, ``end`` comes after this."""
    try:
        cluster.tell([cluster.handle(job) for job in cluster.live(sweep)])
    except Unavailable as error:
        print(f"{sweep}: {error}", file=sys.stderr)


def end(cluster: SlurmCluster, sweep: str, grace_s: float = GRACE_S) -> None:
    """Ask all jobs of a sweep to end, and make those end that still live after a while."""
    try:
        cluster.stop_all([cluster.handle(job) for job in cluster.live(sweep)], grace_s)
    except Unavailable as error:
        print(f"{sweep}: {error}: jobs may still run; parapet reap {sweep} ends them", file=sys.stderr)


def tell_what_lives(cluster: SlurmCluster, sweep: str, again: str) -> None:
    """Say how many jobs of a sweep go on without it, and which command takes them over."""
    with contextlib.suppress(Unavailable):
        if live := len(cluster.live(sweep)):
            print(f"{sweep}: {live} jobs go on; {again} takes them over", file=sys.stderr)


def leftovers(runs: Runs, sweep: str, cluster: SlurmCluster) -> list[Leftover]:
    """Live jobs of a sweep whose trial is over or unknown, or has another job. Raises Unavailable."""
    states: dict[str, set[str]] = {}
    reasons: dict[str, str] = {}
    for row in ledger.read(runs.sweep(sweep).ledger_file):
        states.setdefault(row.key, set()).add(row.state)
        reasons[row.key] = row.state
    found = []
    for job in cluster.live(sweep):
        key = job.says("key")
        if job.state is not State.WAITING and not cluster.state(cluster.handle(job)).live:
            continue  # about to go
        known = recorded(runs.trial(key).path)
        if key not in states:
            found.append(Leftover(job, "the sweep has no such trial"))
        elif "open" not in states[key]:
            found.append(Leftover(job, f"its trial is over: {reasons[key]}"))
        elif known is not None and known.id != job.id:
            found.append(Leftover(job, f"its trial has job {known.id}"))
    return found


def reap(runs: Runs, sweep: str, cluster: SlurmCluster) -> list[Leftover]:
    """End what is left over of a sweep, and say so."""
    try:
        found = leftovers(runs, sweep, cluster)
    except Unavailable as error:
        print(f"{sweep}: {error}: whether jobs are left over is not known", file=sys.stderr)
        return []
    for one in found:
        print(f"{sweep}: job {one.job.id} ({one.job.name}) is ended: {one.why}")
    cluster.stop_all([cluster.handle(one.job) for one in found], GRACE_S)
    with contextlib.suppress(Unavailable):
        cluster.cancel([one.job.id for one in found])  # also one that has ended and waits to be started again
    return found


def refuse_jobs(runs: Runs, keys: Iterable[str], field: str) -> None:
    """Raises UserError where one of these trials has a job on Slurm, waiting or running, or where that is not known."""
    handles = {key: recorded(runs.trial(key).path) for key in keys}
    ours = [key for key, job in handles.items() if job is not None and job.cluster.partition(":")[0] == NAME]
    if not ours:
        return
    cluster = clusters.open_slurm(runs.path / "trials")
    try:
        live = [job for key in ours if (job := cluster.find(key)) is not None]
    except Unavailable as error:
        raise UserError(f"{field}: {error}: whether trials have jobs is not known") from None
    if live:
        raise UserError(
            f"{field}: trial {live[0].key} has job {live[0].id} on Slurm; stop it first (parapet stop {live[0].key})"
        )


def stop_trials(runs: Runs, keys: Iterable[str]) -> list[str]:
    """Cancel these trials' jobs for their user, whichever sweep's; the keys of those that had one.

    One that runs is asked by its stop file, and says itself that it was cancelled; one that waits leaves the queue.
    """
    handles = [recorded(runs.trial(key).path) for key in dict.fromkeys(keys)]
    ours = [handle for handle in handles if handle is not None and handle.cluster.partition(":")[0] == NAME]
    if not ours:
        return []
    cluster = clusters.open_slurm(runs.path / "trials")
    try:
        live = [handle for handle in ours if cluster.find(handle.key) == handle]
        for handle in live:
            ask_to_stop(runs.trial(handle.key), "cancelled")
        cluster.cancel([handle.id for handle in live if cluster.state(handle) is State.WAITING])
    except Unavailable as error:
        print(f"{error}: jobs may still run", file=sys.stderr)
        return []
    return [handle.key for handle in live]

"""Rows of the faults table: what Slurm, its operators and its user do to jobs."""

from __future__ import annotations

import os
import signal
import time

import record
from real_slurm import NODES
from rows_services import AWAY_S
from stage import Stage
from sweep_process import SLOW

URGENT = ("sbatch", "--parsable", "--partition=high", "--exclusive", f"--nodes={NODES}", "--wrap=sleep 1")


def preempted(stage: Stage) -> None:
    """preempted by a higher partition, all jobs at once"""
    stage.write(epochs=2 * 160)
    sweep = stage.start()
    jobs = {stage.job(key) for key in stage.until_all_train()}
    stage.slurm(*URGENT, f"--chdir={stage.folder}")
    stage.finish(sweep)
    found = stage.record()
    assert {job.id for job in found.jobs} == jobs, "submitted again instead of requeued"
    assert all(trial.attempts == 2 for trial in found.trials.values())
    stage.notes.append("the same jobs were started again")


def requeued(stage: Stage) -> None:
    """jobs requeued by the scheduler (scontrol requeue)"""
    stage.write(epochs=2 * 160)
    sweep = stage.start()
    for key in stage.until_all_train():
        stage.slurm("scontrol", "requeue", stage.job(key))
    stage.finish(sweep)
    assert all(trial.attempts > 1 for trial in stage.trials().values())


def node_down(stage: Stage) -> None:
    """a node set down by its operator while a job runs on it"""
    stage.write(epochs=2 * 160)
    sweep = stage.start()
    key = stage.until_all_train()[0]
    node = _node(stage, key)
    stage.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        stage.until(lambda: stage.trials()[key].attempts > 1)
    finally:
        stage.slurm("scontrol", "update", f"nodename={node}", "state=resume")
    stage.finish(sweep)


def node_cut_off(stage: Stage) -> None:
    """a node's slurmd killed -9 and the node set down: what trains there goes on, and Slurm starts the job elsewhere"""
    stage.write(epochs=3 * 160)
    sweep = stage.start()
    key = stage.until_all_train()[0]
    node = _node(stage, key)
    daemon = stage.site.daemons[f"slurmd.{node[1:]}"]
    daemon.kill()
    daemon.wait()
    stage.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        stage.until(
            lambda: len([job for job in _jobs(stage) if job.key == key]) > 1 or stage.trials()[key].finished
        )
    finally:
        stage.site.restart(f"slurmd.{node[1:]}")
        stage.slurm("scontrol", "update", f"nodename={node}", "state=resume")
    stage.finish(sweep)


def time_limit(stage: Stage) -> None:
    """a time limit of one minute, shorter than the training"""
    stage.settings |= {"time": 1, "requeue": {"warning": 30}}
    stage.write(epochs=600)
    sweep = stage.start()
    stage.finish(sweep)
    attempts = [trial.attempts for trial in stage.trials().values()]
    assert min(attempts) > 1, "no limit was reached"
    stage.notes.append("the same jobs were started again")


def cancelled_by_its_user(stage: Stage) -> None:
    """scancel by the user: the trial stays cancelled, the sweep goes on"""
    stage.write(epochs=3 * 160)
    sweep = stage.start()
    victim, other = stage.until_all_train()
    stage.slurm("scancel", stage.job(victim))
    stage.finish(sweep, code=1)
    assert not stage.trials()[victim].finished
    assert stage.trials()[other].finished
    assert len([job for job in stage.record().jobs if job.key == victim]) == 1, "submitted again"
    stage.notes.append("not submitted again")


def controller_restarted(stage: Stage) -> None:
    """slurmctld and slurmdbd killed -9 while jobs run and wait, away for two minutes"""
    stage.inside(SLOW)
    stage.write(
        epochs=2 * 160, trials=[{"method": {"name": "trades", "beta": {"grid": [1, 2, 3]}}}], concurrency=2
    )
    sweep = stage.start()
    stage.until_all_train()
    time.sleep(8)  # Slurm saves its state every few seconds; a start that it had not saved it forgets
    for name in ("slurmctld", "slurmdbd"):
        os.kill(stage.site.daemons[name].pid, signal.SIGKILL)
    time.sleep(AWAY_S)
    for name in ("slurmdbd", "slurmctld"):
        stage.site.restart(name)
    stage.finish(sweep)
    assert all(trial.attempts == 1 for trial in stage.trials().values()), "a job was lost"
    stage.notes.append("no job was lost")


def numbers_used_again(stage: Stage) -> None:
    """the controller loses its state, and job numbers are used again by others' jobs"""
    stage.inside(SLOW)
    stage.write()
    first = stage.start()
    running = {stage.job(key) for key in stage.until_all_train()}
    jobs = {id.partition("_")[0] for id in running}
    stage.kill(first)
    stage.slurm("scancel", "--signal=KILL", "--full", *running)
    stage.until(lambda: not list(record.training(stage.runs)))
    stage.site.restart("slurmctld", forget=True)
    others: set[str] = set()
    while not jobs <= others:  # somebody else's jobs, until they have these numbers
        id = stage.slurm(
            "sbatch", "--parsable", "--hold", f"--chdir={stage.folder}", "--wrap=sleep 300"
        ).strip()
        others.add(id)
        assert len(others) < 500, f"{jobs} never came again"
    stage.finish(stage.start("--resume"))
    left = set(stage.slurm("squeue", "--noheader", "--format=%i").split())
    assert others <= left, f"jobs of others were ended: {others - left}"
    stage.slurm("scancel", *others)
    stage.notes.append(f"{len(others)} jobs of others untouched")


def _node(stage: Stage, key: str) -> str:
    return stage.slurm("squeue", "--noheader", "--format=%N", f"--jobs={stage.job(key)}").strip()


def _jobs(stage: Stage) -> list[record.Job]:
    return list(record.accounts(stage.slurm(*record.ACCOUNTS, record.ACCOUNTS_FORMAT), stage.runs))

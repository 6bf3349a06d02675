"""Rows of the faults table: the driver, its proxies, two drivers."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from stage import Stage


def killed_before_submission(stage: Stage) -> None:
    """driver killed before submission: the trial stands in the ledger, and Slurm has not heard of it"""
    stage.shim(
        "sbatch", 'if once; then kill -9 $(cat "$HERE/driver"); sleep 1; exit 1; fi\nexec $REAL "$@"\n'
    )
    stage.write()
    stage.bury(stage.start())
    stage.finish(stage.start("--resume"))


def killed_during_submission(stage: Stage, meanwhile: Callable[[Stage], None] = lambda _: None) -> None:
    """driver killed during submission: Slurm has the job, and its number was never written down"""
    stage.shim(
        "sbatch",
        """
        if once; then
            $REAL "$@" >"$HERE/taken"
            kill -9 $(cat "$HERE/driver") $PPID
            exit 0
        fi
        exec $REAL "$@"
        """,
    )
    stage.write()
    stage.bury(stage.start())
    again = stage.start("--resume")
    meanwhile(stage)
    stage.finish(again)
    [taken] = (stage.folder / "taken").read_text().split()[-1:]
    jobs = {job.id.partition("_")[0] for job in stage.record().jobs}
    assert taken in jobs, f"job {taken} was lost"
    stage.notes.append("its job was found again")


def killed_after_submission(stage: Stage) -> None:
    """driver killed while its jobs run: they go on, and are taken over"""
    stage.write(epochs=2 * 160)
    first = stage.start()
    jobs = {stage.job(key) for key in stage.until_all_train()}
    stage.kill(first)
    stage.finish(stage.start("--resume"))
    assert {job.id for job in stage.record().jobs} == jobs, "submitted again"
    stage.notes.append("no job was submitted again")


def killed_while_it_prunes(stage: Stage) -> None:
    """driver killed while ASHA prunes; the next one knows what was pruned"""
    stage.write(
        trials=[{"method": {"name": "trades", "beta": {"grid": [1, 2, 3, 4, 5, 6]}}}],
        scheduler={"name": "asha", "grace_epochs": 20, "reduction": 2},
        concurrency=3,
    )
    first = stage.start()
    stage.until(lambda: [end for end in stage.ends() if end.state == "pruned"])
    stage.kill(first)
    before = stage.ends()
    stage.finish(stage.start("--resume"))
    assert set(before) <= set(stage.ends()), "what had ended did not stay so"
    pruned = [end for end in stage.ends() if end.state == "pruned"]
    stage.notes.append(f"{len(pruned)} pruned, {len(before)} of 6 had ended before")


def proxy_killed(stage: Stage) -> None:
    """proxy of a trial killed -9: another follows the job"""
    stage.write(epochs=2 * 160)
    sweep = stage.start()
    jobs = {stage.job(key) for key in stage.until_all_train()}
    proxies = [
        pid for pid, line in sweep.alive().items() if line.startswith("ray::") and "TrialActor" in line
    ]
    assert proxies, sweep.alive()
    os.kill(proxies[0], signal.SIGKILL)
    stage.finish(sweep)
    assert {job.id for job in stage.record().jobs} == jobs, "submitted again"
    stage.notes.append("no job was submitted again")


def ray_killed(stage: Stage) -> None:
    """Ray's own processes (GCS and raylet) killed -9 under a driver that lives"""
    stage.write(epochs=3 * 160)
    first = stage.start()
    jobs = {stage.job(key) for key in stage.until_all_train()}
    rays = [pid for pid, line in first.alive().items() if "/gcs_server" in line or "/raylet/raylet" in line]
    assert len(rays) == 2, first.alive()
    for pid in rays:
        os.kill(pid, signal.SIGKILL)
    stage.bury(first)
    assert first.process.returncode not in (0, None), "it ended as if nothing had been"
    stage.finish(stage.start("--resume"))
    assert {job.id for job in stage.record().jobs} == jobs, "submitted again"
    stage.notes.append("no job was submitted again")


def head_rebooted(stage: Stage) -> None:
    """the head node reboots: driver, relay, reaper, proxies and Ray end at one moment, and nobody cleans up"""
    stage.write(epochs=2 * 160)
    first = stage.start()
    jobs = {stage.job(key) for key in stage.until_all_train()}
    doomed = [pid for pid, line in first.alive().items() if "orchestrate.trial" not in line]
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none sees another go
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    stage.bury(first)
    stage.finish(stage.start("--resume"))
    assert {job.id for job in stage.record().jobs} == jobs, "submitted again"
    stage.notes.append("no job was submitted again")


def two_drivers(stage: Stage) -> None:
    """two drivers started on one sweep: the second is refused"""
    stage.write()
    first = stage.start()
    stage.until_all_train(count=1, epochs=1)
    refused(stage)
    stage.finish(first)


def refused(stage: Stage) -> None:
    """Start a second driver, once the first has the sweep's lock."""
    first, lock = stage.sweeps[-1].process.pid, stage.runs / "sweeps" / stage.name / "live.lock"
    stage.until(lambda: lock.exists() and f'"pid": {first},' in lock.read_text())
    second = stage.start("--resume")
    stage.finish(second, code=2)
    assert "is being run already" in second.said, second.said
    stage.notes.append("exit code 2")

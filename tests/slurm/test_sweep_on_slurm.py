"""``parapet sweep --cluster slurm:PROFILE`` on a real Slurm: killed, resumed, interrupted and resumed again."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_slurm import RealSlurm
from small_trials import until
from sweep_process import SLOW, Sweep, inside, sweep_file

from clusters.base import recorded
from orchestrate.events import read, story
from orchestrate.locks import Watch
from orchestrate.runs import Runs

pytestmark = pytest.mark.slow

EPOCHS = 120  # a minute, with SLOW: longer than a driver needs to come back
TRIALS = [{"method": {"name": "pgd-at"}}, {"method": {"name": "trades", "beta": 1}}]


@pytest.fixture
def started() -> Iterator[list[Sweep]]:
    """Sweeps that a failed test leaves are killed."""
    sweeps: list[Sweep] = []
    yield sweeps
    for one in sweeps:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def live(slurm: RealSlurm) -> set[str]:
    """Numbers of the jobs that run or wait."""
    return set(slurm.run("squeue", "--noheader", "--format=%i").split())


def test_a_killed_driver_leaves_its_jobs_to_the_next_and_ctrl_c_ends_them(
    slurm: RealSlurm, tmp_path: Path, started: list[Sweep], with_tables: Callable[[Path], Path]
) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text("partition: low\ntime: 30\npoll: 0.5\n")
    file = sweep_file(tmp_path, trials=TRIALS)
    file.write_text(file.read_text().replace("epochs: 60", f"epochs: {EPOCHS}"))
    runs, where = Runs(with_tables(tmp_path / "runs")), ("--cluster", f"slurm:{profile}")

    slow = inside(tmp_path, SLOW)
    started.append(Sweep(file, runs, *where, **slow))
    first = started[-1]
    until(lambda: len(first.rows()) == 2 and all(first.story(label).epochs for label in _labels(first)), 180)
    labels = _labels(first)
    jobs = live(slurm)
    assert len(jobs) == 2
    first.process.kill()
    first.process.wait()
    time.sleep(1)
    assert live(slurm) == jobs
    no_store = {"MLFLOW_TRACKING_URI": "sqlite:////dev/null/store.db"}
    started.append(Sweep(file, runs, *where, "--resume", **no_store))
    assert started[-1].wait() != 0  # 2, unless Ray was too slow to start beside other tests
    assert "tiny: 2 jobs go on; parapet sweep tiny" in started[-1].said
    assert live(slurm) == jobs, "nobody who cannot go on ends what can"
    assert all(Watch(first.trial(label).lock_file).held() for label in labels)

    started.append(Sweep(file, runs, "--resume", *where))
    second = started[-1]
    until(lambda: "goes on" in second.said or "starts" in second.said, 180)
    assert live(slurm) == jobs  # taken over
    os.killpg(second.process.pid, signal.SIGINT)
    began = time.monotonic()
    until(lambda: not live(slurm), 20)
    assert time.monotonic() - began < 8
    assert second.process.wait(90) == 130, second.said
    assert f"--cluster slurm:{profile} --resume goes on" in second.said
    first.assert_gone(60)  # Ray, relay and reaper
    assert {second.story(label).stopped for label in labels} == {"signal"}
    assert {second.story(label).attempt for label in labels} == {1}  # one process each, under two drivers

    started.append(Sweep(file, runs, "--resume"))
    third = started[-1]
    assert third.wait() == 0, third.said
    assert f"tiny: on slurm:{profile}, as before" in third.said
    assert not live(slurm)
    for trial in runs.trials():
        told = story(trial.events)
        assert [event["epoch"] for event in told.epochs] == list(range(EPOCHS))  # each once
        starts = [event["resumes_at"] for event in read(trial.events) if event["event"] == "started"]
        assert len(starts) == 2
        assert starts[1] > [0, 0]
        handle = recorded(trial.path)
        assert handle is not None
        assert handle.id not in jobs
    with sqlite3.connect(runs.path / "mlflow.db") as store:
        keys = store.execute("select value from tags where key = 'parapet.key'").fetchall()
        assert sorted(key for (key,) in keys) == sorted(trial.key for trial in runs.trials())
        assert store.execute("select distinct status from runs").fetchall() == [("FINISHED",)]
        points = "select count(*) from metrics where key = 'val/robust' group by run_uuid"
        assert store.execute(points).fetchall() == [(EPOCHS,), (EPOCHS,)]


def _labels(sweep: Sweep) -> list[str]:
    return [row.label for row in sweep.rows()]

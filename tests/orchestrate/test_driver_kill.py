"""Sweeps run by the real driver, Ray, MLflow and relay, and killed in every way: nothing is left, nothing is lost."""

import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_trials import until
from sweep_process import Sweep, sweep_file

from orchestrate import ledger
from orchestrate.events import read, story
from orchestrate.locks import Watch
from orchestrate.locks import read as holder_of
from orchestrate.runs import Runs

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Starts sweeps, and kills at the end what a failed test leaves."""
    started: list[Sweep] = []

    def begin(file: Path, runs: Runs, *options: str) -> Sweep:
        started.append(Sweep(file, runs, *options))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def written_by_trials(runs: Runs) -> dict[Path, int]:
    """Events, checkpoints and outcomes, and when they were written."""
    parts = ("events", "checkpoints", "outcomes", "log")
    files = [f for trial in runs.trials() for part in parts for f in (trial.path / part).rglob("*")]
    return {file: file.stat().st_mtime_ns for file in files}


def assert_whole(runs: Runs, *names: str, trials: int) -> None:
    """What holds of a store in which every trial has ended well: invariants (a) to (f) of the design."""
    for name in names:
        rows = ledger.read(runs.sweep(name).ledger_file)
        assert {row.state for row in rows} == {"finished"}
        assert not Watch(runs.sweep(name).lock_file).held()
    directories = list(runs.trials())
    assert len(directories) == trials
    for trial in directories:
        assert not trial.lock_file.exists()
        told = story(trial.events)
        assert [event["epoch"] for event in told.epochs] == list(range(60))  # each once
        starts = [event for event in read(trial.events) if event["event"] == "started"]
        assert [s["resumes_at"] for s in starts] == sorted(s["resumes_at"] for s in starts)
        saved = [0, 0]  # no attempt began before the last checkpoint that was told of
        for event in read(trial.events):
            if event["event"] == "checkpoint" and not event["best"]:
                saved = [event["epoch"], event["step"]]
            elif event["event"] == "started":
                assert event["resumes_at"] >= saved
    with sqlite3.connect(runs.path / "mlflow.db") as store:
        status = dict(store.execute("select run_uuid, status from runs").fetchall())
        keys = store.execute("select run_uuid, value from tags where key = 'parapet.key'").fetchall()
        points = store.execute(
            "select run_uuid, key, step, count(*) from metrics group by 1, 2, 3"
        ).fetchall()
    assert sorted(key for _, key in keys) == sorted(trial.key for trial in directories)  # one run per key
    assert set(status.values()) == {"FINISHED"}
    assert len(status) == trials + len(names)
    assert [point for point in points if point[3] > 1] == []
    values = Counter(point[0] for point in points if point[1] == "val/robust")
    assert [values[run] for run, _ in keys] == [60] * trials


def test_killed_in_the_middle_it_goes_on_and_a_second_run_has_nothing_to_do(
    tmp_path: Path, start: Callable[..., Sweep], with_tables: Callable[[Path], Path]
) -> None:
    runs, file = Runs(with_tables(tmp_path / "runs")), sweep_file(tmp_path)
    first = start(file, runs)
    until(lambda: len(first.story("pgd-at").epochs) > 5, 180)
    holder = holder_of(first.trial("pgd-at").lock_file)
    first.process.kill()
    first.process.wait()
    first.assert_gone(60)  # Ray, jobs, relay and reaper
    assert holder is not None
    assert not holder.process.alive()
    assert len(first.story("pgd-at").epochs) < 60
    with sqlite3.connect(runs.path / "mlflow.db") as store:  # the relay has seen to that
        assert store.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (0,)

    second = start(file, runs, "--resume")
    assert second.wait() == 0, second.said
    assert_whole(runs, "tiny", trials=3)

    before = written_by_trials(runs)
    third = start(file, runs)
    assert third.wait() == 0, third.said
    assert written_by_trials(runs) == before
    assert_whole(runs, "tiny", trials=3)


def test_interrupted_it_ends_soon_and_leaves_nothing(
    tmp_path: Path, start: Callable[..., Sweep], with_tables: Callable[[Path], Path]
) -> None:
    """By Ctrl-C; SIGTERM, which ``ray job stop`` sends, is tested with Ray jobs."""
    runs, file = Runs(with_tables(tmp_path / "runs")), sweep_file(tmp_path)
    sweep = start(file, runs)
    until(lambda: len(sweep.story("pgd-at").epochs) > 3, 180)
    began = time.monotonic()
    os.killpg(sweep.process.pid, signal.SIGINT)  # a terminal tells everybody in the foreground
    until(lambda: sweep.story("pgd-at").stopped, 10)
    assert time.monotonic() - began < 5  # the design says 2 s; this machine may be busy
    assert sweep.process.wait(30) == 130, sweep.said
    sweep.assert_gone(10)
    assert "--resume goes on" in sweep.said
    assert "Traceback" not in sweep.said
    with sqlite3.connect(runs.path / "mlflow.db") as store:
        states = [state for (state,) in store.execute("select status from runs")]
    assert set(states) <= {"KILLED", "FINISHED"}
    assert "KILLED" in states


def test_two_sweeps_at_once_share_what_they_have_in_common(
    tmp_path: Path, start: Callable[..., Sweep]
) -> None:
    runs = Runs(tmp_path / "runs")
    hat = {"name": "hat", "beta": 2.5, "gamma": 0.5}
    one = start(sweep_file(tmp_path, "one", trials=[{"method": "pgd-at"}, {"method": hat}]), runs)
    two = start(sweep_file(tmp_path, "two", trials=[{"method": "pgd-at"}, {"method": "standard"}]), runs)
    assert one.wait() == 0, one.said
    assert two.wait() == 0, two.said
    assert_whole(runs, "one", "two", trials=3)
    starts = [e for trial in runs.trials() for e in read(trial.events) if e["event"] == "started"]
    assert len([s for s in starts if s["resumes_at"] == [0, 0]]) == 3

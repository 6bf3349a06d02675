"""Sweeps run by the real driver, Ray, MLflow and relay, and killed in every way: nothing is left, nothing is lost.

Each test starts ``parapet sweep`` as a process. All its descendants, wherever they are reparented to, carry a mark in
their environment, by which the test finds what is still alive.
"""

import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_trials import until

from orchestrate import ledger
from orchestrate.events import read, story
from orchestrate.locks import Watch
from orchestrate.locks import read as holder_of
from orchestrate.runs import Runs

MARK = "PARAPET_TEST_MARK"
pytestmark = pytest.mark.slow


def sweep_file(folder: Path, name: str = "tiny", **changes: Any) -> Path:
    """Standard, PGD-AT, and HAT, which needs the standard one; 1 s of training each."""
    content = {
        "name": name,
        "base": {
            "data": {"name": "digits", "train_size": 400, "test_size": 100},
            "model": {"name": "mlp"},
            "train": {"epochs": 60, "batch_size": 64},
            "attack": {"eps": 0.1, "steps": 2},
        },
        "trials": [
            {"method": {"name": "hat", "beta": 2.5, "gamma": 0.5}},
            {"method": {"name": "pgd-at"}},
            {"method": {"name": "standard"}},
        ],
        "evaluate": {"attacks": ["pgd"], "images": 50, "pgd_steps": 3},
        "resources": {"cpus": 1, "gpus": 0},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content | changes))
    return file


class Sweep:
    """A ``parapet sweep`` process, and what it leaves."""

    def __init__(self, file: Path, runs: Runs, *options: str) -> None:
        self.name, self.runs, self.mark = file.stem, runs, secrets.token_hex(8)
        self.log = file.with_suffix(f".{self.mark}.log")
        command = [
            sys.executable,
            "-m",
            "orchestrate",
            "sweep",
            str(file),
            "--runs",
            str(runs.path),
            *options,
        ]
        env = os.environ | {"OMP_NUM_THREADS": "1", MARK: self.mark}
        env.pop("RAY_ADDRESS", None)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def alive(self) -> list[str]:
        """Command lines of everything it started that still lives."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if (
                    folder.name.isdigit()
                    and f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes()
                ):
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

    def rows(self) -> list[ledger.Row]:
        return ledger.read(self.runs.sweep(self.name).ledger_file)

    def epochs(self, label: str) -> int:
        """Epochs that the trial of that label has told of."""
        return max(
            (len(story(self.runs.trial(r.key).events).epochs) for r in self.rows() if r.label == label),
            default=0,
        )

    def wait(self, seconds: float = 120) -> int:
        code = self.process.wait(seconds)
        until(lambda: not self.alive(), 20)
        return code


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
        # No attempt began from nothing once there was a checkpoint.
        assert all(s["resumes_at"] != [0, 0] for s in starts[2:])
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
    tmp_path: Path, start: Callable[..., Sweep]
) -> None:
    runs, file = Runs(tmp_path / "runs"), sweep_file(tmp_path)
    first = start(file, runs)
    until(lambda: first.epochs("pgd-at") > 5, 60)
    [pgd_at] = [row.key for row in first.rows() if row.label == "pgd-at"]
    holder = holder_of(runs.trial(pgd_at).lock_file)
    first.process.kill()
    first.process.wait()
    until(lambda: not first.alive(), 25)  # Ray, jobs, relay and reaper
    assert holder is not None
    assert not holder.process.alive()
    assert first.epochs("pgd-at") < 60
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


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_soon_and_leaves_nothing(
    tmp_path: Path, start: Callable[..., Sweep], end: signal.Signals
) -> None:
    runs, file = Runs(tmp_path / "runs"), sweep_file(tmp_path)
    sweep = start(file, runs)
    until(lambda: sweep.epochs("pgd-at") > 3, 60)
    [pgd_at] = [row.key for row in sweep.rows() if row.label == "pgd-at"]
    began = time.monotonic()
    sweep.process.send_signal(end)
    until(lambda: story(runs.trial(pgd_at).events).stopped, 10)
    assert time.monotonic() - began < 5  # the design says 2 s; this machine may be busy
    assert sweep.process.wait(30) == 128 + end, sweep.said
    until(lambda: not sweep.alive(), 10)
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
    trials = [{"method": {"name": "pgd-at"}}, {"method": {"name": "trades", "beta": 1}}]
    one = start(sweep_file(tmp_path, "one"), runs)
    two = start(sweep_file(tmp_path, "two", trials=trials), runs)
    assert one.wait() == 0, one.said
    assert two.wait() == 0, two.said
    assert_whole(runs, "one", "two", trials=4)
    starts = [e for trial in runs.trials() for e in read(trial.events) if e["event"] == "started"]
    assert len([s for s in starts if s["resumes_at"] == [0, 0]]) == 4

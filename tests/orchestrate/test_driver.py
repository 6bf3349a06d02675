"""The driver, with the real Ray, MLflow and relay: what fails fails alone, what is stopped stops, memory is small."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_trials import until
from sweep_process import Sweep, sweep_file

from clusters.process import Process, process
from orchestrate import reaper
from orchestrate.events import read
from orchestrate.locks import Lock
from orchestrate.locks import read as holder_of
from orchestrate.runs import Runs


@pytest.fixture
def runs(tmp_path: Path, with_tables: Callable[[Path], Path]) -> Runs:
    return Runs(with_tables(tmp_path / "runs"))


def test_a_store_that_cannot_be_used_is_one_line_and_nothing_runs(tmp_path: Path, runs: Runs) -> None:
    sweep = Sweep(sweep_file(tmp_path), runs, MLFLOW_TRACKING_URI="sqlite:////dev/null/store.db")
    assert sweep.wait() == 2, sweep.said
    [line] = [line for line in sweep.said.splitlines() if not line.startswith("warning")]
    assert "/dev/null/store.db" in line
    assert list(runs.path.glob("trials/*/events")) == []


def test_a_sweep_that_is_running_already_is_not_run_twice(tmp_path: Path, runs: Runs) -> None:
    with Lock(runs.sweep("tiny").lock_file):
        sweep = Sweep(sweep_file(tmp_path), runs)
        assert sweep.wait() == 2
    assert f"is being run already by process {os.getpid()}" in sweep.said
    assert not runs.sweep("tiny").ledger_file.exists()


def assert_small(pid: int) -> None:
    """An actor's proportional memory, and what it has not loaded."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    assert int(rollup.split("Pss:")[1].split()[0]) / 1024 < 150
    assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.slow
def test_what_fails_fails_alone_and_what_is_killed_is_started_again(
    tmp_path: Path, runs: Runs, chat: SimpleNamespace
) -> None:
    wild = {"method": {"name": "pgd-at"}, "train": {"lr": 1e30}}
    bad_helper = {
        "method": {"name": "hat", "beta": 2, "gamma": 0.5},
        "helpers": {"standard": {"train": {"lr": 1e30}}},
    }
    long = {"method": {"name": "trades", "beta": 6}, "train": {"epochs": 100}}
    file = sweep_file(tmp_path, trials=[wild, bad_helper, long], concurrency=1)
    sweep = Sweep(file, runs, PARAPET_WEBHOOK=chat.address)

    def kill_at(epoch: int, what: str) -> None:
        """Kill the processes of that name once the long trial has come so far."""
        until(lambda: len(sweep.story("trades").epochs) > epoch, 180)
        victims = [pid for pid, line in sweep.alive().items() if what in line]
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

    until(lambda: len(sweep.story("trades").epochs) > 1, 180)
    [actor] = [pid for pid, line in sweep.alive().items() if line.startswith("ray::TrialActor")]
    assert_small(actor)
    kill_at(3, "orchestrate.trial")
    kill_at(20, "ray::TrialActor")
    kill_at(40, "orchestrate.relay")
    assert sweep.wait() == 1, sweep.said
    ended = {row.label: (row.state, row.reason) for row in sweep.rows()}
    assert ended["trades"] == ("finished", "")
    assert [event["epoch"] for event in sweep.story("trades").epochs] == list(range(100))
    starts = [event for event in read(sweep.trial("trades").events) if event["event"] == "started"]
    assert len(starts) == 3
    state, reason = ended["pgd-at"]
    assert state == "failed"
    assert reason.startswith("diverged: ")
    state, reason = ended["hat"]
    assert state == "failed"
    assert reason.startswith("helper: standard (helper)")
    assert "Traceback" not in sweep.said
    assert not list(Path.home().glob("ray_results"))
    with sqlite3.connect(
        runs.path / "mlflow.db"
    ) as store:  # told by a second relay, in the killed one's place
        status = Counter(state for (state,) in store.execute("select status from runs"))
        points = store.execute("select count(*) from metrics where key = 'val/robust'").fetchone()
    assert status == {"FINISHED": 1, "FAILED": 4}  # the sweep itself has failed trials
    assert points == (100,)
    [(_, _, said)] = chat.said
    assert (said["sweep"], said["state"], said["counts"]) == ("tiny", "failed", {"finished": 1, "failed": 2})


@pytest.mark.slow
def test_asha_ends_jobs_early_and_a_stopped_sweep_goes_on(tmp_path: Path, runs: Runs) -> None:
    rates = [0.1, 1e-7, 1e-8, 0.05]
    trials = [{"method": {"name": "pgd-at"}, "train": {"lr": lr}} for lr in rates]
    asha = {"name": "asha", "grace_epochs": 5, "reduction": 2}
    file = sweep_file(tmp_path, trials=trials, scheduler=asha)
    first = Sweep(file, runs)
    until(lambda: any(row.state == "pruned" for row in first.rows()), 240)
    pruned = next(row for row in first.rows() if row.state == "pruned")
    lock = runs.trial(pruned.key).lock_file
    until(lambda: holder_of(lock) is None, 20)
    command = [sys.executable, "-m", "orchestrate", "stop", "tiny", "--runs", str(runs.path)]
    stopped = subprocess.run(command, capture_output=True, text=True)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert first.process.wait(90) == 130
    first.assert_gone(60)
    before = {row.key: row.state for row in first.rows() if row.state != "open"}

    second = Sweep(file, runs, "--resume")
    assert second.wait() == 0, second.said
    after = {row.key: row.state for row in second.rows()}
    assert before.items() <= after.items()  # what had ended stays as it was
    assert set(after.values()) == {"finished", "pruned"}
    assert second.story(next(row.label for row in second.rows() if row.state == "finished")).trained


@pytest.fixture
def job() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that carries a sweep's token and a job's key, and one that it started."""
    env = os.environ | {reaper.TOKEN: "t1", reaper.KEY: "k1"}
    with subprocess.Popen(
        ["sh", "-c", "trap '' TERM; sleep 60 & wait; wait"], env=env, start_new_session=True
    ) as child:
        yield child
        child.kill()


def test_the_reaper_finds_jobs_by_their_token_and_ends_deaf_ones(job: "subprocess.Popen[bytes]") -> None:
    child = until_has_child(job.pid)
    assert [found.pid for found in reaper.jobs_of("t1")] == [
        job.pid
    ]  # and not the child's, which has no group
    assert reaper.jobs_of("t2") == []
    began = time.monotonic()
    reaper.end_jobs("t1", grace_s=0.5)
    assert 0.4 < time.monotonic() - began < 5
    assert reaper.jobs_of("t1") == []
    assert job.wait(5) == -signal.SIGKILL
    assert child.wait(5)


def until_has_child(pid: int) -> Process:
    """Wait for the first child of a process."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    until(lambda: file.read_text().split())
    child = process(int(file.read_text().split()[0]))
    assert child is not None
    return child


def test_the_reaper_finds_who_uses_a_folder(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray2").mkdir()
    with (
        (tmp_path / "ray/log").open("w") as ours,
        (tmp_path / "ray2/log").open("w") as other,
        subprocess.Popen(["sleep", "60"], stdout=ours) as user,
        subprocess.Popen(["sleep", "60"], stdout=other) as stranger,
    ):
        assert [found.pid for found in reaper.users_of(tmp_path / "ray")] == [user.pid]
        reaper.kill_users(tmp_path / "ray")
        assert user.wait(5) == -signal.SIGKILL
        assert stranger.poll() is None
        stranger.kill()


def test_actors_import_neither_torch_nor_mlflow() -> None:
    code = (
        "import json, sys, orchestrate.actor;"
        "print(json.dumps([m for m in ('torch', 'mlflow', 'sklearn') if m in sys.modules]))"
    )
    assert json.loads(subprocess.check_output([sys.executable, "-c", code])) == []

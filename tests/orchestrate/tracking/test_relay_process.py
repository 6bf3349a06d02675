"""The relay as a process: it says when it is ready, obeys its driver, survives a server, and never outlives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from written_trials import Tracked, WrittenTrial, expected_points, make_sweep

from orchestrate.runs import Runs, SweepDir

Started = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def runs(tmp_path: Path, with_tables: Callable[[Path], Path]) -> Runs:
    return Runs(with_tables(tmp_path / "runs"))


@pytest.fixture
def sweep(runs: Runs) -> SweepDir:
    return make_sweep(runs)


@pytest.fixture
def start(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Starts relays, and ends those that a failed test left."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    started = []

    def start(*arguments: str, code: str | None = None) -> subprocess.Popen[str]:
        what = ["-c", code] if code else ["-m", "orchestrate.relay", str(runs.path), "digits"]
        process = subprocess.Popen(
            [sys.executable, *what, *(arguments or ("--parent", str(os.getpid())))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,  # not a repository
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def ready(relay: subprocess.Popen[str]) -> str:
    assert relay.stdout is not None
    line = relay.stdout.readline()
    assert line.startswith("ready "), relay.communicate()
    return line.removeprefix("ready ").strip()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_it_is_killed_while_a_trial_runs_and_all_arrives_once(
    runs: Runs, sweep: SweepDir, start: Started
) -> None:
    trial = WrittenTrial(runs, sweep, "a" * 16).start()
    enough = threading.Event()

    def train() -> None:
        n = 0
        while not enough.wait(0.02):
            trial.epoch(n)
            n += 1

    training = threading.Thread(target=train)
    training.start()
    try:
        relay = start()
        parent = ready(relay)
        time.sleep(1.3)
        relay.kill()
        relay.wait()
        relay = start()
        assert ready(relay) == parent
    finally:
        enough.set()
        training.join()
    trial.trained()
    trial.evaluated()
    trial.end()
    trial.close("finished")
    out, err = relay.communicate("end FINISHED\n", timeout=60)
    assert (relay.returncode, out, err) == (0, "", "")
    tracked = Tracked(runs)
    assert tracked.points(trial.dir.key) == expected_points(trial.dir)
    assert tracked.status(trial.dir.key) == "FINISHED"
    assert tracked.ask("SELECT status FROM runs WHERE run_uuid = ?", parent) == [("FINISHED",)]
    assert tracked.ask("SELECT count(*) FROM runs") == [(2,)]


def test_when_its_driver_dies_it_tells_what_is_there_ends_what_is_dead_and_goes(
    runs: Runs, sweep: SweepDir, start: Started
) -> None:
    trial = WrittenTrial(runs, sweep, "a" * 16).start()
    relay = start()
    parent = ready(relay)
    trial.epoch(0)
    os.killpg(relay.pid, signal.SIGINT)  # Ctrl-C is not its business
    trial.vanish()
    assert relay.stdin is not None
    relay.stdin.close()
    assert relay.wait(timeout=30) == 0
    tracked = Tracked(runs)
    assert tracked.points(trial.dir.key) == expected_points(trial.dir)
    assert tracked.status(trial.dir.key) == "KILLED"
    assert tracked.ask("SELECT status FROM runs WHERE run_uuid = ?", parent) == [("KILLED",)]


ORPHAN = """
import sys
from orchestrate.relay import Driver
told = Driver(int(sys.argv[2]))
told.wait(30)
open(sys.argv[1], "w").write(told.order)
"""


def test_it_notices_its_drivers_death_even_when_its_input_stays_open(tmp_path: Path) -> None:
    reading, writing = os.pipe()  # the other end stays ours, as a worker that the driver forked would hold it
    orphan = [sys.executable, "-c", ORPHAN, str(tmp_path / "order")]
    driver = f"import os, subprocess; subprocess.Popen({orphan} + [str(os.getpid())])"
    subprocess.run([sys.executable, "-c", driver], stdin=reading, timeout=30, check=True)
    until(lambda: (tmp_path / "order").exists() and (tmp_path / "order").read_text() == "gone")
    os.close(reading)
    os.close(writing)


def test_once_tells_what_a_dead_driver_and_a_dead_relay_left(
    runs: Runs, sweep: SweepDir, start: Started
) -> None:
    whole = WrittenTrial(runs, sweep, "a" * 16, row=0).whole()
    broken = WrittenTrial(runs, sweep, "b" * 16, row=1).start()
    broken.epoch(0)
    broken.vanish()
    relay = start("--once")
    assert relay.wait(timeout=60) == 0, relay.communicate()
    tracked = Tracked(runs)
    assert tracked.points(whole.dir.key) == expected_points(whole.dir)
    assert [tracked.status(t.dir.key) for t in (whole, broken)] == ["FINISHED", "KILLED"]
    assert tracked.ask("SELECT count(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]


def test_a_store_that_cannot_be_used_ends_it_with_one_line_before_it_is_ready(
    runs: Runs, sweep: SweepDir, start: Started
) -> None:
    (runs.path / "mlflow.db").write_text("not a database" * 100)
    relay = start()
    out, err = relay.communicate(timeout=60)
    assert relay.returncode == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "mlflow.db cannot be used" in err


SERVE = """
import sys
from pathlib import Path
from orchestrate import store
from orchestrate.runs import Runs
store.serve(Runs(Path(sys.argv[1])), port=int(sys.argv[2]))
"""


def test_a_server_that_is_away_for_a_while_loses_nothing(
    runs: Runs, sweep: SweepDir, start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    serving = start(str(runs.path), port, code=SERVE)
    assert serving.stdout is not None
    assert port in serving.stdout.readline(), serving.communicate()
    children = Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text()
    server = int(children)  # leads the group of all that serve
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    relay = start()
    ready(relay)
    trial = WrittenTrial(runs, sweep, "a" * 16).start()
    trial.epoch(0)
    tracked = Tracked(runs)
    until(lambda: bool(tracked.runs_of(trial.dir.key)))
    os.killpg(server, signal.SIGSTOP)
    trial.epoch(1)
    assert relay.stderr is not None
    assert "trying again" in relay.stderr.readline()
    trial.epoch(2)
    trial.trained()
    trial.evaluated()
    trial.end()
    trial.close("finished")
    os.killpg(server, signal.SIGCONT)
    _, err = relay.communicate("end FINISHED\n", timeout=60)
    serving.terminate()
    serving.wait()
    assert relay.returncode == 0, err
    assert tracked.points(trial.dir.key) == expected_points(trial.dir)
    assert tracked.status(trial.dir.key) == "FINISHED"
    [(uri,)] = tracked.ask("SELECT artifact_uri FROM runs WHERE run_uuid = ?", tracked.run_of(trial.dir.key))
    kept = runs.path / "mlartifacts" / uri.removeprefix("mlflow-artifacts:/")
    assert (kept / "checkpoints" / "best.pt").read_bytes() == (trial.dir.checkpoints / "best.pt").read_bytes()

"""``ray job submit -- parapet sweep``: on a real Ray head, with a true exit code, and stopped without a trace."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_trials import until
from sweep_process import SLOW, inside, sweep_file

from clusters.process import users_of
from orchestrate import ledger
from orchestrate.events import story
from orchestrate.runs import Runs

pytestmark = pytest.mark.slow
RAY = Path(sys.executable).with_name("ray")
MARK = "PARAPET_TEST_MARK"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Head:
    """A Ray head of the test's own, on loopback and free ports."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, secrets.token_hex(8)
        self.scratch = Path("/tmp") / f"parapet-head-{self.mark}"  # sockets need short paths
        self.address = f"http://127.0.0.1:{free_port()}"
        # A token in the home of whoever runs the tests would be asked of every client.
        self.env = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        self.env |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            MARK: self.mark,
            "HOME": str(folder),
        }
        self.env["PATH"] = f"{RAY.parent}{os.pathsep}{self.env['PATH']}"
        self.env.pop("RAY_ADDRESS", None)
        ports = ["--port", str(free_port()), "--dashboard-port", self.address.rpartition(":")[2]]
        ports += ["--dashboard-agent-listen-port", str(free_port()), "--dashboard-host", "127.0.0.1"]
        self.command = [RAY, "start", "--head", "--node-ip-address", "127.0.0.1", "--num-cpus", "2", *ports]
        self.command += ["--temp-dir", str(self.scratch), "--disable-usage-stats"]

    def start(self) -> None:
        """Returns when it takes jobs. Raises SubprocessError or AssertionError; what there is then, ``end`` ends."""
        subprocess.run(self.command, env=self.env, check=True, capture_output=True, timeout=90)
        until(lambda: self.job("list").returncode == 0, 60)

    def job(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [RAY, "job", words[0], "--address", self.address, *words[1:]]
        return subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=300
        )

    def alive(self, part: str) -> list[int]:
        """Its processes whose command line holds ``part``."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_text().replace("\0", " ")
                own = f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes()
            except OSError:
                continue
            if int(folder.name) != os.getpid() and part in line and (own or str(self.scratch) in line):
                found.append(int(folder.name))
        return found

    def end(self) -> None:
        """Kill all of it. Its agents change their titles and then have only open files; left alone they take a core."""
        for _ in range(50):
            left = {*self.alive(""), *(user.pid for user in users_of(self.scratch))}
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.1)
        shutil.rmtree(self.scratch, ignore_errors=True)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    one = _started(tmp_path_factory.mktemp("head"))
    yield one
    one.end()
    assert not users_of(one.scratch)


def _started(folder: Path) -> Head:
    """Tried twice, as one of its ports may be taken meanwhile: its dashboard then ends, and no job is taken."""
    one = Head(folder)
    try:
        one.start()
    except (subprocess.SubprocessError, AssertionError) as error:
        print(f"once more: {error}", file=sys.stderr)
        one.end()
        one = Head(folder)
        one.start()
    return one


def test_a_relative_store_is_refused(head: Head) -> None:
    submit = ("submit", "--working-dir", ".", "--", "parapet", "sweep", sweep_file(head.folder).name)
    answers: list[subprocess.CompletedProcess[str]] = []

    def taken() -> bool:
        answers.append(head.job(*submit))
        return "No available agent" not in answers[-1].stderr

    until(taken, 120)
    assert answers[-1].returncode == 1
    assert "--runs: 'runs' is relative" in answers[-1].stdout


def test_a_job_with_a_failed_trial_fails(head: Head) -> None:
    trials = [{"method": {"name": "standard"}, "train": {"lr": 1e30, "nesterov": False}}]
    file = sweep_file(head.folder, "badly", trials=trials)
    words = ("submit", "--working-dir", ".", "--", "parapet", "sweep", file.name)
    done = head.job(*words, "--runs", str(head.folder / "runs"))
    assert done.returncode == 1
    assert "diverged" in done.stdout


def test_a_stopped_job_leaves_no_process_and_the_same_again_ends_well(head: Head) -> None:
    file = sweep_file(head.folder, "stopped", trials=[{"method": {"name": "pgd-at"}}])
    runs = Runs(head.folder / "runs")
    words = ("--working-dir", ".", "--", "parapet", "sweep", file.name, "--runs", str(runs.path))
    slow = ("--runtime-env-json", json.dumps({"env_vars": inside(head.folder, SLOW)}))
    assert head.job("submit", "--submission-id", "s1", "--no-wait", *slow, *words).returncode == 0
    ledger_file = runs.sweep("stopped").ledger_file
    until(lambda: bool(ledger.read(ledger_file)), 120)
    trial = runs.trial(ledger.read(ledger_file)[0].key)
    until(lambda: len(story(trial.events).epochs) > 3, 120)
    assert head.alive("orchestrate.trial")
    assert head.job("stop", "s1").returncode == 0
    until(lambda: not head.alive("orchestrate."), 60)
    assert story(trial.events).state == "stopped"
    assert (trial.checkpoints / "last.pt").exists()

    again = head.job("submit", *words)
    assert again.returncode == 0, again.stdout[-3000:]
    assert [row.state for row in ledger.read(ledger_file)] == ["finished"]
    assert story(trial.events).attempt == 2
    assert (runs.sweep("stopped").report / "front.png").exists()
    assert not runs.sweep("stopped").cluster_file.exists(), "its Ray goes; where it ran before stays"

"""The local cluster: a job is found again, ends when asked or made to, and never outlives who submitted it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import clusters
from clusters.base import Job, State, recorded
from clusters.local import LocalCluster
from clusters.process import process
from training.errors import UserError

IGNORES_TERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('on', flush=True)
time.sleep(60)
"""


def job(folder: Path, *command: str, cpus: float = 1, gpus: float = 0) -> Job:
    return Job("k1", folder / "k1", command, cpus, gpus, folder / "k1" / "log" / "1.txt")


def until(true: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def local(tmp_path: Path) -> LocalCluster:
    (tmp_path / "k1").mkdir()
    return LocalCluster(tmp_path)


def test_a_job_runs_with_its_environment_and_its_output_is_kept(local: LocalCluster, tmp_path: Path) -> None:
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"]
    request = local.plan(
        job(tmp_path, sys.executable, "-c", f"import os; print([os.environ[n] for n in {names}])")
    )
    request = local.plan(Job(**vars(request.job) | {"cpus": 2.5}))
    handle = local.submit(request)
    until(lambda: local.state(handle) is State.ENDED)
    assert (tmp_path / "k1/log/1.txt").read_text() == "['2', '2', '']\n"


def test_a_request_shows_what_would_run(local: LocalCluster, tmp_path: Path) -> None:
    shown = str(local.plan(job(tmp_path, "echo", "a b", cpus=0.5)))
    env = "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=''"
    assert shown == f"{env} echo 'a b' >> {tmp_path}/k1/log/1.txt"
    assert "CUDA" not in str(
        local.plan(job(tmp_path, "echo", gpus=0.5))
    )  # what the submitter sees, its job sees


def test_a_live_job_is_found_by_another_and_a_dead_one_is_not(local: LocalCluster, tmp_path: Path) -> None:
    handle = local.submit(local.plan(job(tmp_path, "sleep", "60")))
    other = LocalCluster(tmp_path)
    assert other.find("k1") == handle
    assert other.state(handle) is State.RUNNING
    assert other.find("k2") is None
    other.stop(handle, grace_s=5)
    assert other.state(handle) is State.GONE
    assert local.state(handle) is State.KILLED
    assert other.find("k1") is None


def test_a_submission_that_broke_off_is_no_job(local: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "k1/job.json").write_text(json.dumps({"nonce": "1", "submitter": {}}))
    assert local.find("k1") is None


def test_a_process_with_the_number_of_a_dead_job_is_not_taken_for_it(
    local: LocalCluster, tmp_path: Path
) -> None:
    handle = local.submit(local.plan(job(tmp_path, "sleep", "60")))
    local.stop(handle, grace_s=5)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        facts = json.loads((tmp_path / "k1/job.json").read_text())
        facts["handle"]["process"]["pid"] = stranger.pid
        (tmp_path / "k1/job.json").write_text(json.dumps(facts))
        assert LocalCluster(tmp_path).find("k1") is None
        forged = recorded(tmp_path / "k1")
        assert forged is not None
        LocalCluster(tmp_path).stop(forged, grace_s=0.1)
        assert stranger.poll() is None
        stranger.kill()


def test_a_job_that_does_not_listen_is_killed_with_all_its_group(local: LocalCluster, tmp_path: Path) -> None:
    script = f"{sys.executable} -c \"{IGNORES_TERM}\" & echo $!; trap '' TERM; wait"
    handle = local.submit(local.plan(job(tmp_path, "sh", "-c", script)))
    log = tmp_path / "k1/log/1.txt"
    until(lambda: "on" in log.read_text())
    grandchild = process(int(log.read_text().split()[0]))
    assert grandchild is not None
    began = time.monotonic()
    local.stop(handle, grace_s=0.3)
    assert time.monotonic() - began < 3
    assert local.state(handle) is State.KILLED
    assert grandchild.wait(5)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_ends_with_its_submitter(tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "k1").mkdir()
    script = f"""
import sys, time
from pathlib import Path
from clusters.base import Job
from clusters.local import LocalCluster
folder = Path({str(tmp_path)!r})
local = LocalCluster(folder)
handle = local.submit(local.plan(Job("k1", folder / "k1", ("sleep", "60"), 1, 0, folder / "k1/1.txt")))
print(handle.process.pid, flush=True)
time.sleep(60)
"""
    submitter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert submitter.stdout is not None
    child = process(int(submitter.stdout.readline()))
    assert child is not None
    until(lambda: Path(f"/proc/{child.pid}/cmdline").read_bytes()[:5] == b"sleep")
    submitter.send_signal(end)
    assert child.wait(5)
    submitter.wait()


def test_nothing_is_started_for_a_submitter_that_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clusters.child", str(os.getpid() + 1), "touch", str(tmp_path / "ran")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is gone" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_an_unknown_cluster_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cluster 'slurn'"):
        clusters.open("slurn", tmp_path)

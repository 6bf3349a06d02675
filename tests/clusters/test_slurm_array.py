"""Several jobs submitted as one array: each is found, followed and ended as if it had been submitted alone."""

import sys
import time
from pathlib import Path

import pytest
from fake import FakeSlurm
from submitit.core.utils import DelayedSubmission

import clusters
from clusters.base import Handle, Job, State, Unavailable, recorded, submitted
from clusters.slurm import SlurmCluster
from clusters.slurm_array import LARGEST, largest

KEYS = ("k0", "k1", "k2")


@pytest.fixture
def cluster(fake: FakeSlurm, tmp_path: Path) -> SlurmCluster:
    (tmp_path / "lab.yaml").write_text("time: 60\npoll: 0.02\n")
    return clusters.open_slurm(tmp_path / "trials", str(tmp_path / "lab.yaml"))


def jobs(cluster: SlurmCluster) -> list[Job]:
    found = []
    for key in KEYS:
        directory = cluster.folder / key
        directory.mkdir(parents=True, exist_ok=True)
        log = directory / "log/1.txt"
        found.append(Job(key, directory, (sys.executable, "-c", "0"), 1, 0, log, sweep="digits"))
    return found


def until(cluster: SlurmCluster, handle: Handle, state: State) -> None:
    end = time.monotonic() + 5
    while (now := cluster.state(handle)) is not state:
        assert time.monotonic() < end, now
        time.sleep(0.02)


def test_its_tasks_are_jobs_of_their_own(cluster: SlurmCluster, fake: FakeSlurm) -> None:
    handles = cluster.submit_array(jobs(cluster), parallel=2)
    assert [(handle.key, handle.id) for handle in handles] == [
        ("k0", "100_0"),
        ("k1", "100_1"),
        ("k2", "100_2"),
    ]
    assert len(fake.calls("sbatch")) == 1
    assert [recorded(cluster.folder / key) for key in KEYS] == handles
    assert all(submitted(cluster.folder / key) for key in KEYS)
    assert {handle.nonce for handle in handles} == {handles[0].nonce}
    assert [job.says("key") for job in cluster.live("digits")] == list(KEYS)
    fake.job("100_0", "RUNNING")
    fake.job("100_1", "CANCELLED by 1000")
    fake.job("100_2", "NODE_FAIL")
    for handle, state in zip(handles, (State.RUNNING, State.CANCELLED, State.LOST), strict=True):
        until(cluster, handle, state)
    assert cluster.find("k0") == handles[0]
    assert cluster.find("k1") is None


def test_an_end_that_squeue_forgot_is_learnt_from_sacct(cluster: SlurmCluster, fake: FakeSlurm) -> None:
    handle = cluster.submit_array(jobs(cluster), parallel=2)[1]
    fake.job(handle.id, "RUNNING")
    until(cluster, handle, State.RUNNING)
    fake.job(handle.id, "TIMEOUT")
    fake.set(forgets=True)
    until(cluster, handle, State.LOST)


def test_it_is_found_though_its_submitter_never_learnt_its_number(
    cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    fake.set(swallowed=True)
    with pytest.raises(Unavailable):
        cluster.submit_array(jobs(cluster), parallel=2)
    assert recorded(cluster.folder / "k2") is None
    found = cluster.find("k2")
    assert found is not None
    assert (found.id, found.key, found.sweep) == ("100_2", "k2", "digits")
    assert recorded(cluster.folder / "k2") == found
    for task, key in enumerate(KEYS):
        assert cluster.find(key) is not None
        runs = cluster.folder.parent / f"arrays/{found.nonce}/100_{task}_submitted.pkl"
        body = DelayedSubmission.load(runs).function  # without it the task would wait for a minute, and end
        assert body.directory == cluster.folder / key


def test_tasks_are_ended_one_by_one_and_others_arrays_not_at_all(
    cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    handles = cluster.submit_array(jobs(cluster), parallel=2)
    place = str(cluster.folder)
    fake.job("7_0", "RUNNING", comment="parapet sweep=digits nonce=ab12", name="digits.array", place=place)
    fake.job("8_0", "RUNNING", comment="parapet sweep=digits nonce=../../x", name="digits.array", place=place)
    cluster.tell([handles[0]])
    assert fake.states()["100_0"] == "CANCELLED"
    assert len(cluster.live("digits")) == 2, "no table knows of the others"
    cluster.cancel([job.id for job in cluster.live("digits")])
    assert {id for id, state in fake.states().items() if state == "RUNNING"} == {"7_0", "8_0"}


def test_what_the_setup_said_is_with_the_array(cluster: SlurmCluster, tmp_path: Path) -> None:
    handle = cluster.submit_array(jobs(cluster), parallel=2)[2]
    assert cluster.printed(handle) == tmp_path / f"arrays/{handle.nonce}/100_2_0_log.err"
    assert (tmp_path / f"arrays/{handle.nonce}/100_2_submitted.pkl").exists()


def test_how_large_an_array_may_be_is_slurms_to_say(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert largest() == LARGEST, "the fake does not say"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text("#!/bin/sh\necho 'MaxArraySize            = 64'\n")
    (tmp_path / "bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    assert largest() == 64

"""Jobs on a Slurm that lags, forgets, does not answer and uses numbers again: none is lost, none mistaken."""

import json
import sys
import time
from pathlib import Path

import pytest
from fake import FakeSlurm

import clusters
from clusters import slurm_queue
from clusters.base import Handle, Job, State, Unavailable, recorded
from clusters.slurm import SlurmCluster
from training.errors import UserError


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    file = tmp_path / "lab.yaml"
    file.write_text("partition: gpu\naccount: ours\ntime: 60\npoll: 0.02\n")
    return file


@pytest.fixture
def cluster(fake: FakeSlurm, profile: Path, tmp_path: Path) -> SlurmCluster:
    return clusters.open_slurm(tmp_path / "trials", str(profile))


def another(cluster: SlurmCluster) -> SlurmCluster:
    """As another process has it."""
    return SlurmCluster(cluster.folder, cluster.profile)


def job(cluster: SlurmCluster, key: str = "k1", sweep: str = "digits") -> Job:
    directory = cluster.folder / key
    directory.mkdir(parents=True, exist_ok=True)
    return Job(key, directory, (sys.executable, "-c", "0"), 1, 0, directory / "log/1.txt", sweep=sweep)


def submit(cluster: SlurmCluster, key: str = "k1") -> Handle:
    return cluster.submit(cluster.plan(job(cluster, key)))


def leave(cluster: SlurmCluster, handle: Handle, code: int) -> None:
    """Write the note that a job leaves when it has ended."""
    (cluster.folder / handle.key / "slurm" / f"{handle.nonce}.ended").write_text(f"{code}\n")


def until(cluster: SlurmCluster, handle: Handle, state: State) -> None:
    end = time.monotonic() + 5
    while (now := cluster.state(handle)) is not state:
        assert time.monotonic() < end, now
        time.sleep(0.02)


def test_a_job_is_followed_from_the_queue_to_its_end(cluster: SlurmCluster, fake: FakeSlurm) -> None:
    handle = submit(cluster)
    assert (handle.id, handle.key, handle.sweep) == ("100", "k1", "digits")
    assert cluster.state(handle) is State.WAITING
    fake.job("100", "RUNNING")
    until(cluster, handle, State.RUNNING)
    fake.job("100", "FAILED")
    until(cluster, handle, State.ENDED)


def test_the_note_in_its_directory_comes_before_slurms_word(cluster: SlurmCluster, fake: FakeSlurm) -> None:
    handle = submit(cluster)
    fake.job("100", "RUNNING")
    until(cluster, handle, State.RUNNING)
    fake.set(down=True)
    leave(cluster, handle, 0)
    assert cluster.state(handle) is State.ENDED
    assert cluster.find("k1") is None
    leave(cluster, handle, -9)
    assert cluster.state(handle) is State.KILLED


def test_what_jobs_wait_for_is_known_without_asking_again(cluster: SlurmCluster, fake: FakeSlurm) -> None:
    handle = submit(cluster)
    fake.job("100", "PENDING", reason="Resources")
    cluster.queue.listed()
    asked = len(fake.calls("squeue"))
    assert cluster.queue.waits() == {"k1": (handle.id, "Resources")}
    assert len(fake.calls("squeue")) == asked
    fake.job("100", "RUNNING")
    cluster.queue.listed()
    assert cluster.queue.waits() == {}


def test_no_other_is_submitted_until_slurm_has_ended_the_one_before(
    cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    handle = submit(cluster)
    fake.job("100", "RUNNING")
    until(cluster, handle, State.RUNNING)
    leave(cluster, handle, -9)  # its command was killed; Slurm has not noticed
    assert cluster.state(handle) is State.KILLED
    with pytest.raises(Unavailable, match="job 100 of this trial has not ended yet"):
        submit(another(cluster))
    for word in ("COMPLETING", "FAILED"):
        fake.job("100", word)
        assert not cluster.occupied("k1")
    assert submit(cluster).id == "101"
    assert len(fake.calls("sbatch")) == 2


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("CANCELLED by 1000", State.CANCELLED),
        ("PREEMPTED", State.LOST),
        ("NODE_FAIL", State.LOST),
        ("TIMEOUT", State.LOST),
        ("OUT_OF_MEMORY", State.KILLED),
        ("CANCELLED+", State.CANCELLED),
        ("COMPLETING", State.RUNNING),
        ("REQUEUED", State.WAITING),
    ],
)
def test_every_word_of_slurm_comes_to_a_state(
    cluster: SlurmCluster, fake: FakeSlurm, word: str, state: State
) -> None:
    handle = submit(cluster)
    fake.job("100", word)
    until(cluster, handle, state)


def test_an_end_that_squeue_forgot_is_learnt_from_sacct_however_late(
    cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    handle = submit(cluster)
    fake.job("100", "RUNNING")
    until(cluster, handle, State.RUNNING)
    fake.job("100", "NODE_FAIL")
    fake.set(forgets=True, lag=4)  # sacct says RUNNING for a while
    assert cluster.state(handle).live
    until(cluster, handle, State.LOST)
    assert len(fake.calls("sacct")) > 1


def test_without_accounting_a_job_that_squeue_forgot_is_gone(
    tmp_path: Path, fake: FakeSlurm, profile: Path
) -> None:
    profile.write_text("time: 60\npoll: 0.02\naccounting: false\n")
    cluster = clusters.open_slurm(tmp_path / "trials", str(profile))
    handle = submit(cluster)
    fake.job("100", "COMPLETED")
    fake.set(forgets=True)
    until(cluster, handle, State.GONE)
    assert not fake.calls("sacct")


def test_a_job_that_nobody_knows_any_more_is_gone_after_a_while(
    cluster: SlurmCluster, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_queue, "SETTLE_S", 0.2)
    handle = submit(cluster)
    fake.set(jobs={})
    until(cluster, handle, State.GONE)


def test_slurm_not_answering_changes_nothing(cluster: SlurmCluster, fake: FakeSlurm) -> None:
    handle = submit(cluster)
    fake.job("100", "RUNNING")
    until(cluster, handle, State.RUNNING)
    fake.set(down=True)
    time.sleep(0.05)
    assert cluster.state(handle) is State.RUNNING
    with pytest.raises(Unavailable):
        another(cluster).find("k1")
    with pytest.raises(Unavailable, match="Unable to contact"):
        submit(cluster, "k2")
    fake.set(down=False)
    assert another(cluster).find("k1") == handle
    assert another(cluster).find("k2") is None


def test_a_live_job_is_found_by_another_process(cluster: SlurmCluster, fake: FakeSlurm) -> None:
    handle = submit(cluster)
    assert another(cluster).find("k1") == handle
    fake.job("100", "CANCELLED by 0")
    assert another(cluster).find("k1") is None
    assert another(cluster).find("k2") is None


@pytest.mark.parametrize("how", ["killed", "swallowed"])
def test_a_job_whose_number_was_never_written_down_is_found(
    cluster: SlurmCluster, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The submitter was killed after sbatch; or sbatch took the job and failed."""
    if how == "killed":
        with monkeypatch.context() as patched:
            patched.setattr("clusters.slurm.record", lambda *_: None)
            submit(cluster)
    else:
        fake.set(swallowed=True)
        with pytest.raises(Unavailable, match="timed out"):
            submit(cluster)
    assert recorded(cluster.folder / "k1") is None
    found = another(cluster).find("k1")
    assert found is not None
    assert (found.id, found.sweep) == ("100", "digits")
    assert recorded(cluster.folder / "k1") == found
    assert len(fake.calls("sbatch")) == 1
    runs = cluster.folder / "k1/slurm/100_submitted.pkl"
    assert found.nonce.encode() in runs.read_bytes()


def test_a_number_that_is_used_again_is_another_job(cluster: SlurmCluster, fake: FakeSlurm) -> None:
    handle = submit(cluster)
    fake.job("100", "COMPLETED")
    until(cluster, handle, State.ENDED)
    fake.job("100", "RUNNING", comment="(null)", name="mine", place="/home/me")
    assert cluster.find("k1") is None
    assert cluster.state(handle) is State.ENDED
    cluster.stop(handle, 0.1)
    assert fake.states() == {"100": "RUNNING"}
    fake.set(next_id=100, jobs={})
    second = submit(cluster, "k2")
    assert second.id == handle.id
    assert cluster.state(second) is State.WAITING
    assert another(cluster).find("k2") == second
    assert another(cluster).find("k1") is None


def test_many_processes_ask_once(cluster: SlurmCluster, fake: FakeSlurm, profile: Path) -> None:
    handles = [submit(cluster, f"k{number}") for number in range(6)]
    profile.write_text("time: 60\npoll: 5\n")
    crowd = [clusters.open_slurm(cluster.folder, str(profile)) for _ in range(6)]
    time.sleep(0.01)
    crowd[0].queue.listed()
    before = len(fake.calls("squeue"))
    for _ in range(20):
        assert {one.state(handle) for one, handle in zip(crowd, handles, strict=True)} == {State.WAITING}
    assert len(fake.calls("squeue")) == before
    fake.set(forgets=True)
    for handle in handles:
        fake.job(handle.id, "COMPLETED")
    cluster.queue.listed()
    assert [call for call in fake.calls("sacct") if len(call[-1].split(",")) == 6]


def test_stopping_asks_first_and_cancels_what_does_not_listen(cluster: SlurmCluster, fake: FakeSlurm) -> None:
    waits, runs, stubborn = (submit(cluster, key) for key in ("k1", "k2", "k3"))
    fake.job(runs.id, "RUNNING")
    fake.job(stubborn.id, "RUNNING")
    fake.job("7", "RUNNING")  # somebody else's
    leave(cluster, runs, 76)
    fake.job(runs.id, "COMPLETED")
    began = time.monotonic()
    cluster.stop_all([waits, runs, stubborn], 0.4)
    assert time.monotonic() - began < 5
    ids = [waits.id, stubborn.id]
    swept, told, cancelled = fake.calls("scancel")
    assert (told, swept) == (["--signal=TERM", *ids], ["--state=PENDING", *ids])
    assert cancelled == [stubborn.id]
    assert fake.states() == {"100": "CANCELLED", "101": "COMPLETED", "102": "CANCELLED", "7": "RUNNING"}
    assert cluster.state(stubborn) is State.ENDED  # cancelled is what others do


def test_what_slurm_refuses_names_the_line_of_the_profile(
    cluster: SlurmCluster, fake: FakeSlurm, profile: Path
) -> None:
    fake.set(
        refuses="Batch job submission failed: Invalid account or account/partition combination specified"
    )
    with pytest.raises(
        UserError, match=f"{profile}: line 2: account: Slurm does not accept the job: Batch job"
    ):
        submit(cluster)
    fake.set(refuses="invalid partition specified: gpu")
    with pytest.raises(UserError, match=f"{profile}: line 1: partition: Slurm"):
        submit(cluster)
    fake.set(refuses="QOSMaxSubmitJobPerUserLimit")
    with pytest.raises(Unavailable):
        submit(cluster)


def test_half_a_gpu_cannot_be_had(cluster: SlurmCluster) -> None:
    with pytest.raises(UserError, match=r"resources.gpus: Slurm gives whole GPUs, not 0.5"):
        cluster.plan(Job(**vars(job(cluster)) | {"gpus": 0.5}))


def test_jobs_of_a_sweep_are_listed_with_their_keys_and_no_others(
    cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    submit(cluster)
    cluster.submit(cluster.plan(job(cluster, "k2", sweep="other")))
    fake.job("7", "RUNNING", comment="parapet sweep=digits key=k9 nonce=1", place="/another/store/k9")
    [found] = cluster.live("digits")
    assert (found.id, found.says("key")) == ("100", "k1")


def test_jobs_do_not_get_the_submitters_environment(
    cluster: SlurmCluster, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PARAPET_DATA", "/data")
    (fake.bin / "sbatch").write_text('#!/bin/sh\nenv > "$HOME/env"\necho Submitted batch job 5\n')
    monkeypatch.setenv("HOME", str(cluster.folder.parent))
    submit(cluster)
    got = (cluster.folder.parent / "env").read_text()
    assert "SECRET" not in got
    assert "HOME=" in got
    assert "export PARAPET_DATA=/data\n" in cluster.plan(job(cluster)).script


def test_a_profile_that_is_not_there_or_not_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="say which profile"):
        clusters.open("slurm", tmp_path)
    with pytest.raises(UserError, match=r"there is no such file"):
        clusters.open("slurm:./no.yaml", tmp_path)
    with pytest.raises(UserError, match="there is: local, slurm:PROFILE"):
        clusters.open("lsf:x", tmp_path)


def test_an_answer_from_before_the_machine_was_restarted_is_not_believed(
    cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    handle = submit(cluster)
    cluster.queue.listed()
    file = cluster.queue._file
    file.write_text(json.dumps(json.loads(file.read_text()) | {"at": 1e12, "tried": 1e12, "jobs": {}}))
    assert another(cluster).find("k1") == handle

"""A trial whose job was submitted ahead of its actor, and has ended before that came: how it ended is heard once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake import FakeSlurm

import clusters
from clusters.base import Handle, submitted
from orchestrate import runner as runners
from orchestrate.events import EventWriter
from orchestrate.runner import Runner, Task
from orchestrate.runs import Runs, TrialDir


@pytest.fixture
def trial(fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialDir:
    monkeypatch.setattr(runners, "_POLL_S", (0.02, 0.05))
    (tmp_path / "lab.yaml").write_text("time: 60\npoll: 0.02\n")
    trial = Runs(tmp_path).trial("k1")
    trial.path.mkdir(parents=True)
    return trial


@pytest.fixture
def job(trial: TrialDir, tmp_path: Path) -> Handle:
    cluster = clusters.open(f"slurm:{tmp_path}/lab.yaml", trial.path.parent)
    return cluster.submit(cluster.plan(runners.job(task(trial))))


def task(trial: TrialDir, **facts: Any) -> Task:
    root = trial.path.parents[1]
    return Task(str(root), "k1", (), f"slurm:{root}/lab.yaml", sweep="digits", **facts)


def attempt(trial: TrialDir, *last: Callable[[EventWriter], None], **facts: Any) -> None:
    events = EventWriter(trial.events)
    events.started(pid=1, host="n1", resumes_at=[0, 0], **facts)
    for end in last:
        end(events)


def failed(kind: str) -> Callable[[EventWriter], None]:
    return lambda events: events.write("failed", kind=kind, reason="so it was")


def leave(trial: TrialDir, job: Handle, fake: FakeSlurm, code: int) -> None:
    (trial.path / f"slurm/{job.nonce}.ended").write_text(f"{code}\n")
    fake.job(job.id, "COMPLETED" if code == 0 else "FAILED")


def test_what_failed_for_good_is_not_submitted_again(trial: TrialDir, job: Handle, fake: FakeSlurm) -> None:
    attempt(trial, failed("diverged"), submitted=submitted(trial.path))
    leave(trial, job, fake, 1)
    report = Runner(task(trial, nonce=job.nonce)).step()
    assert (report["state"], report["kind"], report["done"]) == ("failed", "diverged", True)
    assert len(fake.calls("sbatch")) == 1


def test_a_crash_counts_as_one_of_the_trials_retries(trial: TrialDir, job: Handle, fake: FakeSlurm) -> None:
    attempt(trial, failed("crash"), submitted=submitted(trial.path))
    leave(trial, job, fake, 1)
    report = Runner(task(trial, nonce=job.nonce, retries=0)).step()
    assert (report["state"], report["kind"]) == ("failed", "crash")
    assert len(fake.calls("sbatch")) == 1


def test_what_an_earlier_attempt_said_is_not_said_of_a_job_that_never_began(
    trial: TrialDir, fake: FakeSlurm, tmp_path: Path
) -> None:
    attempt(trial, failed("diverged"), submitted=5)
    cluster = clusters.open(f"slurm:{tmp_path}/lab.yaml", trial.path.parent)
    job = cluster.submit(cluster.plan(runners.job(task(trial))))
    fake.job(job.id, "NODE_FAIL")
    runner = Runner(task(trial, nonce=job.nonce, retries=0))
    runner._begin()
    while len(fake.calls("sbatch")) == 1:
        assert runner._look() is None
    assert runner.losses == 1


def test_without_being_told_of_it_the_job_is_an_earlier_drivers(
    trial: TrialDir, job: Handle, fake: FakeSlurm
) -> None:
    attempt(trial, failed("diverged"), submitted=submitted(trial.path))
    leave(trial, job, fake, 1)
    runner = Runner(task(trial))
    runner._begin()
    while len(fake.calls("sbatch")) == 1:
        assert runner._look() is None

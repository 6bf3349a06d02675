"""A trial whose job is Slurm's: taken over, resubmitted, given up or left alone, as what became of the job demands.

The Slurm is a fake that the tests move by hand; events are written in the place of the process that would train.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake import FakeSlurm

import clusters
from clusters.base import recorded
from clusters.process import me
from orchestrate import ledger, remote
from orchestrate import runner as runners
from orchestrate.cli import main
from orchestrate.events import EventWriter
from orchestrate.ledger import Row
from orchestrate.runner import Runner, Task
from orchestrate.runs import Runs, TrialDir
from training.errors import UserError


class Followed(threading.Thread):
    """A runner, stepped to its end in a thread."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(daemon=True)
        self.runner = runner
        self.reports: list[dict[str, Any]] = []
        self.start()

    def run(self) -> None:
        while not self.reports or not self.reports[-1]["done"]:
            self.reports.append(self.runner.step())

    def last(self) -> dict[str, Any]:
        self.join(8)
        assert not self.is_alive(), self.reports
        return self.reports[-1]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture
def trial(runs: Runs) -> TrialDir:
    runs.trial("k1").path.mkdir(parents=True)
    return runs.trial("k1")


@pytest.fixture
def follow(
    fake: FakeSlurm, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Followed]]:
    monkeypatch.setattr(runners, "_POLL_S", (0.02, 0.05))
    monkeypatch.setattr(runners, "AGAIN_S", 0.1)
    (tmp_path / "lab.yaml").write_text("time: 60\npoll: 0.02\n")
    name = f"slurm:{tmp_path}/lab.yaml"

    def begin(**settings: Any) -> Followed:
        given = {"runs": str(runs.path), "key": "k1", "evaluations": (), "cluster": name, "sweep": "digits"}
        return Followed(Runner(Task(**given | settings)))

    yield begin
    (tmp_path / "stop").touch()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 8
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def train(trial: TrialDir, epoch: int, end: bool = False) -> None:
    """An attempt that gets through one epoch, and perhaps to the end."""
    events = EventWriter(trial.events)
    events.started(pid=1, host="n1", resumes_at=[epoch, 0])
    events.write("epoch", epoch=epoch, step=epoch, metrics={"val/robust": 0.5}, best=True)
    if end:
        events.write("trained", epochs=1, best_epoch=0, metrics={})
        events.write("finished", evaluations=[])


def test_a_job_of_the_same_sweep_is_taken_over_and_of_another_followed(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed]
) -> None:
    first = follow()
    until(lambda: "100" in fake.states() and recorded(trial.path))
    fake.job("100", "RUNNING")
    again, other = follow(), follow(sweep="other")
    train(trial, 0)
    until(lambda: first.reports and again.reports and other.reports)
    assert [one.reports[0]["mine"] for one in (first, again, other)] == [True, True, False]
    train(trial, 1, end=True)
    fake.job("100", "COMPLETED")
    assert [one.last()["state"] for one in (first, again, other)] == ["finished"] * 3
    assert len(fake.calls("sbatch")) == 1


def test_a_lost_job_is_submitted_again_three_times_and_then_given_up(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed]
) -> None:
    one = follow(retries=0)
    for number in range(4):
        until(lambda: str(100 + number) in fake.states())  # noqa: B023
        fake.job(str(100 + number), "NODE_FAIL")
    assert one.last()["reason"] == "its cluster took its job away, 4 times in a row"
    assert len(fake.calls("sbatch")) == 4


def test_a_job_that_gets_on_may_be_lost_as_often_as_it_likes(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed]
) -> None:
    one = follow(retries=0)
    for number in range(6):
        until(lambda: str(100 + number) in fake.states())  # noqa: B023
        train(trial, number, end=number == 5)
        fake.job(str(100 + number), "PREEMPTED")
    assert one.last()["state"] == "finished"


def test_a_checkpoint_within_an_epoch_is_progress_too_and_the_same_one_again_is_not(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed]
) -> None:
    one = follow(retries=0)
    steps = [10, 20, 30, 40, 50, *[50] * 3]  # epochs that are longer than what a job is given
    for number, step in enumerate(steps):
        until(lambda: str(100 + number) in fake.states())  # noqa: B023
        events = EventWriter(trial.events)
        events.started(pid=1, host="n1", resumes_at=[0, max(0, step - 10)])
        events.write("checkpoint", epoch=0, step=step, best=False)
        fake.job(str(100 + number), "PREEMPTED")
    assert one.last()["reason"].endswith("4 times in a row")
    assert len(fake.calls("sbatch")) == len(steps)


def test_what_slurm_says_instead_of_taking_a_job_is_there_to_be_read_until_it_takes_it(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed], tmp_path: Path
) -> None:
    refusal = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    fake.set(refuses=f"Batch job submission failed: {refusal}")
    one = follow(stop_file=str(tmp_path / "stop"))
    until(lambda: trial.waits_file.exists() and refusal in trial.waits_file.read_text())
    fake.set(refuses="")
    until(lambda: fake.states() and not trial.waits_file.exists())
    (tmp_path / "stop").touch()
    assert one.last()["state"] == "stopped"

    trial.waits_file.write_text("what an earlier sweep was told")
    (tmp_path / "stop").unlink()
    one = follow(stop_file=str(tmp_path / "stop"))
    until(lambda: not trial.waits_file.exists())
    (tmp_path / "stop").touch()
    assert one.last()["state"] == "stopped"


def test_a_trial_with_a_job_in_the_queue_is_not_cleaned_away(
    fake: FakeSlurm, trial: TrialDir, runs: Runs, follow: Callable[..., Followed], capsys: Any
) -> None:
    trial.spec_file.write_text("{}\n")
    one = follow(stop_file=str(runs.path / "stop"))
    until(lambda: "100" in fake.states() and recorded(trial.path))
    assert main(["clean", "--yes", "--runs", str(runs.path)]) == 2  # no sweep knows the trial
    assert "trial k1 has job 100 on Slurm" in capsys.readouterr().err
    assert trial.path.exists()
    (runs.path / "stop").touch()
    assert one.last()["state"] == "stopped"


@pytest.mark.parametrize("while_followed", [True, False])
def test_a_job_that_its_user_cancelled_is_failed_and_not_submitted_again(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed], while_followed: bool, tmp_path: Path
) -> None:
    one = follow(stop_file=str(tmp_path / "stop"))
    until(lambda: "100" in fake.states() and recorded(trial.path))
    fake.job("100", "RUNNING")
    if not while_followed:  # the driver is gone meanwhile
        (tmp_path / "stop").touch()
        assert one.last()["state"] == "stopped"
    fake.job("100", "CANCELLED by 1000")
    one = one if while_followed else follow()
    assert (one.last()["state"], one.last()["kind"]) == ("failed", "cancelled")
    assert len(fake.calls("sbatch")) == 1
    again = follow()  # unless it is asked for again
    until(lambda: "101" in fake.states())
    train(trial, 0, end=True)
    fake.job("101", "COMPLETED")
    assert again.last()["state"] == "finished"


def test_a_dead_driver_or_a_stopped_sweep_leaves_jobs_to_whoever_comes_after(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed]
) -> None:
    one = follow()
    until(lambda: "100" in fake.states() and recorded(trial.path))
    fake.job("100", "RUNNING")
    dead = follow(driver=replace(me(), started=0))
    assert dead.last()["state"] == "stopped"
    dead.runner.close()
    assert fake.calls("scancel") == []
    assert fake.states() == {"100": "RUNNING"}
    train(trial, 0, end=True)
    fake.job("100", "COMPLETED")
    assert one.last()["state"] == "finished"


def test_an_actor_that_never_steps_touches_nothing(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed]
) -> None:
    one = follow()
    until(lambda: "100" in fake.states() and recorded(trial.path))
    Runner(one.runner.task).close()
    assert fake.states() == {"100": "PENDING"}
    train(trial, 0, end=True)
    fake.job("100", "COMPLETED")
    one.last()


def test_a_pruned_trials_job_is_stopped(fake: FakeSlurm, trial: TrialDir, runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("time: 60\npoll: 0.02\n")
    one = Runner(Task(str(runs.path), "k1", (), f"slurm:{tmp_path}/lab.yaml", sweep="digits"))
    threading.Timer(0.3, lambda: train(trial, 0)).start()
    assert one.step()["mine"]
    one.close()
    assert fake.states() == {"100": "CANCELLED"}


def test_while_slurm_does_not_answer_nothing_is_submitted_twice(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed]
) -> None:
    fake.set(swallowed=True)
    one = follow()
    until(lambda: "100" in fake.states())
    fake.set(swallowed=False, down=True)
    time.sleep(0.3)
    fake.set(down=False)
    until(lambda: recorded(trial.path))
    train(trial, 0, end=True)
    fake.job("100", "COMPLETED")
    assert one.last()["state"] == "finished"
    assert one.last()["mine"]
    assert len(fake.calls("sbatch")) == 1


def test_what_slurm_refuses_fails_with_the_line_to_change(
    fake: FakeSlurm, trial: TrialDir, follow: Callable[..., Followed]
) -> None:
    fake.set(refuses="invalid qos specification")
    last = follow().last()
    assert (last["state"], last["kind"]) == ("failed", "input")
    assert "lab.yaml: qos: Slurm does not accept the job" in last["reason"]


def test_only_jobs_that_nobody_needs_are_left_over(fake: FakeSlurm, runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("time: 60\n")
    cluster = clusters.open_slurm(runs.path / "trials", str(tmp_path / "lab.yaml"))
    keys = ["open", "over", "unknown"]
    for key in keys:
        task = Task(str(runs.path), key, (), cluster.name, sweep="digits")
        cluster.submit(cluster.plan(runners.job(task)))
    fake.job("7", "RUNNING", comment="parapet sweep=digits key=over nonce=1")  # of another store
    fake.job("8", "RUNNING")  # somebody else's
    fake.job(
        "9", "RUNNING", place=fake.get("jobs")["100"]["place"], comment=fake.get("jobs")["100"]["comment"]
    )  # a second job of a trial
    file = runs.sweep("digits").ledger_file
    for number, key in enumerate(["open", "over"]):
        ledger.append(file, Row(number, key))
    ledger.close(file, 1, "pruned", "")
    over = recorded(runs.trial("over").path)
    assert over is not None
    note = runs.trial("over").path / f"slurm/{over.nonce}.ended"
    note.write_text("0\n")  # and yet it waits to be started again
    found = {one.job.id: one.why for one in remote.leftovers(runs, "digits", cluster)}
    assert found == {
        "9": "its trial has job 100",
        "101": "its trial is over: pruned",
        "102": "the sweep has no such trial",
    }
    remote.GRACE_S, before = 0.2, remote.GRACE_S
    try:
        remote.reap(runs, "digits", cluster)
    finally:
        remote.GRACE_S = before
    states = fake.states()
    assert [states[id] for id in ("100", "7", "8")] == ["PENDING", "RUNNING", "RUNNING"]
    assert [states[id] for id in ("9", "101", "102")] == ["CANCELLED"] * 3


def test_a_trial_with_a_job_is_not_set_aside(fake: FakeSlurm, runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("time: 60\n")
    cluster = clusters.open_slurm(runs.path / "trials", str(tmp_path / "lab.yaml"))
    cluster.submit(cluster.plan(runners.job(Task(str(runs.path), "k1", (), cluster.name, sweep="digits"))))
    with pytest.raises(UserError, match=r"^--fresh: trial k1 has job 100 on Slurm; stop it first"):
        remote.refuse_jobs(runs, ["k0", "k1"], "--fresh")
    fake.set(down=True)
    with pytest.raises(UserError, match="is not known"):
        remote.refuse_jobs(runs, ["k1"], "--fresh")
    remote.refuse_jobs(runs, ["k0"], "--fresh")
    fake.set(down=False)
    fake.job("100", "COMPLETED")
    remote.refuse_jobs(runs, ["k1"], "--fresh")

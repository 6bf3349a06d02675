"""Real trials as jobs of a real Slurm: preempted, cancelled, killed, stopped; none is lost, none comes out other."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_slurm import GPUS, NODES, RealSlurm
from small_trials import PGD, planned, spec_of, start, until, wanted

import clusters
from clusters.base import Job, State, recorded
from orchestrate.events import read, story
from orchestrate.runner import Runner, Task
from orchestrate.runs import Runs, TrialDir

pytestmark = pytest.mark.slow

EPOCHS = 100  # a few seconds of training


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    file = tmp_path / "site.yaml"
    file.write_text("partition: low\ntime: 30\npoll: 0.3\n")
    return file


class Brought(threading.Thread):
    """A trial being brought to its end through Slurm."""

    def __init__(self, runs: Runs, trial: TrialDir, profile: Path, **settings: Any) -> None:
        super().__init__(daemon=True)
        task = Task(
            str(runs.path), trial.key, tuple(wanted(trial)), f"slurm:{profile}", sweep="tiny", **settings
        )
        self.trial, self.runner = trial, Runner(task)
        self.reports: list[dict[str, Any]] = []
        self.start()

    def run(self) -> None:
        while not self.reports or not self.reports[-1]["done"]:
            self.reports.append(self.runner.step())
        self.runner.close()

    def until_it_trains(self) -> None:
        until(lambda: len(self.reports) > 5 or not self.is_alive(), 30)
        assert self.is_alive(), self.reports[-1]

    def last(self) -> dict[str, Any]:
        self.join(60)
        assert not self.is_alive(), (self.trial.logs / "1.txt").read_text()
        return self.reports[-1]


def numbers(trial: TrialDir) -> list[Any]:
    """All that a trial computed: epochs and outcome, but for how long they took."""
    told = story(trial.events)
    looks = [*told.epochs, *told.evaluated.values()]
    return [{k: v for k, v in look["metrics"].items() if "second" not in k} for look in looks]


def weights(trial: TrialDir) -> Any:
    import torch

    return torch.load(trial.checkpoints / "last.pt", weights_only=True)["networks"]


def same(one: Any, other: Any) -> bool:
    """Are two nested collections of tensors equal to the bit?"""
    import torch

    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(torch.equal(one, other)) if isinstance(one, torch.Tensor) else bool(one == other)


def test_preempted_it_goes_on_from_its_checkpoint_and_ends_as_if_undisturbed(
    slurm: RealSlurm, tmp_path: Path, profile: Path
) -> None:
    spec = spec_of(epochs=EPOCHS)
    alone = planned(Runs(tmp_path / "alone"), spec, PGD)
    undisturbed = start(alone)
    runs = Runs(tmp_path / "runs")
    one = Brought(runs, planned(runs, spec, PGD), profile)
    one.until_it_trains()
    handle = recorded(one.trial.path)
    assert handle is not None
    urgent = ["sbatch", "--parsable", "--partition=high", "--exclusive", f"--nodes={NODES}", "--wrap=sleep 1"]
    slurm.run(*urgent, f"--chdir={tmp_path}")
    assert one.last()["state"] == "finished"
    assert undisturbed.wait(60) == 0
    starts = [event for event in read(one.trial.events) if event["event"] == "started"]
    assert len(starts) == 2
    assert starts[1]["resumes_at"] > [5, 0]
    facts = slurm.run("scontrol", "show", "job", handle.id)
    assert "Restarts=1" in facts  # the same job: requeued, not submitted again
    assert recorded(one.trial.path) == handle
    assert numbers(one.trial) == numbers(alone)
    assert same(weights(one.trial), weights(alone))


def test_cancelled_killed_and_pruned_while_the_controller_restarts(
    slurm: RealSlurm, tmp_path: Path, profile: Path
) -> None:
    runs = Runs(tmp_path)
    cancelled = Brought(runs, planned(runs, spec_of(epochs=4000)), profile)
    killed = Brought(runs, planned(runs, spec_of(epochs=EPOCHS), PGD), profile)
    pruned = planned(runs, spec_of(epochs=4001))
    runner = Runner(Task(str(runs.path), pruned.key, (), f"slurm:{profile}", sweep="tiny"))
    runner.step()
    cancelled.until_it_trains()
    slurm.restart("slurmctld")
    began = time.monotonic()
    runner.close()
    assert time.monotonic() - began < 8  # the controller has to come up meanwhile
    assert story(pruned.events).stopped == "pruned"
    handle = recorded(cancelled.trial.path)
    assert handle is not None
    slurm.run("scancel", handle.id)
    until(lambda: killed.reports, 30)
    [first] = [event for event in read(killed.trial.events) if event["event"] == "started"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(first["pid"], signal.SIGKILL)
    assert (cancelled.last()["state"], cancelled.last()["kind"]) == ("failed", "cancelled")
    assert story(cancelled.trial.events).stopped == "signal"  # a checkpoint was written all the same
    assert killed.last()["state"] == "finished"
    assert [event["epoch"] for event in story(killed.trial.events).epochs] == list(range(EPOCHS))
    until(lambda: not slurm.run("squeue", "--noheader"), 5)
    names = slurm.run("squeue", "--noheader", "--states=all", "--format=%j").split()
    assert names.count(f"tiny.{cancelled.trial.key}") == 1  # not submitted again
    assert names.count(f"tiny.{pruned.key}") == 1


def wait_for(true: Callable[[], object]) -> None:
    until(true, 20)


def test_gpus_and_a_full_queue(slurm: RealSlurm, tmp_path: Path, profile: Path) -> None:
    """Each job gets a GPU of its own; one too many waits, and leaves the queue at once when it is stopped."""
    cluster = clusters.open_slurm(tmp_path / "trials", str(profile))
    handles = []
    for number in range(NODES * GPUS + 1):
        directory = cluster.folder / f"k{number}"
        directory.mkdir(parents=True)
        command = ("sh", "-c", "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES; exec sleep 60")
        job = Job(directory.name, directory, command, 1, 1, directory / "log.txt", sweep="tiny")
        handles.append(cluster.submit(cluster.plan(job)))
    logs = [cluster.folder / handle.key / "log.txt" for handle in handles]
    wait_for(lambda: sum(log.exists() and log.read_text().strip() != "" for log in logs) == NODES * GPUS)
    assert len({log.read_text() for log in logs if log.exists()}) == NODES * GPUS
    states = [cluster.state(handle) for handle in handles]
    assert states.count(State.WAITING) == 1
    began = time.monotonic()
    cluster.stop_all(handles, 5)
    assert time.monotonic() - began < 5
    wait_for(lambda: not slurm.run("squeue", "--noheader"))
    assert not any(cluster.state(handle).live for handle in handles)

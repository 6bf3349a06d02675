"""One attempt at a trial: what it writes, how it ends, and that whatever ended it costs nothing but time."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trials import PGD, planned, runs_in, spec_of, start, until, wanted

from evaluation.outcomes import read as read_outcome
from evaluation.spec import EvaluationSpec
from orchestrate import trial as trials
from orchestrate.events import read, story
from orchestrate.locks import Lock
from orchestrate.runner import ask_to_stop
from orchestrate.runs import Runs, TrialDir, write_whole
from orchestrate.trial import FAILED, FINISHED, HELD, ON_REQUEST, STOPPED, Settings
from training.checkpoint import load, load_network
from training.errors import Diverged, UserError

LONG = 90  # epochs: a few seconds


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(trial: TrialDir, **settings: Any) -> int:
    """One attempt in this process."""
    return trials.run(trial, Settings(**{"evaluations": tuple(wanted(trial)), "device": "cpu"} | settings))


def epochs(trial: TrialDir) -> list[int]:
    return [event["epoch"] for event in story(trial.events).epochs]


def weights(trial: TrialDir) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_network(trial.checkpoints / "last.pt")[0].state_dict()
    return state


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> TrialDir:
    """The long trial, run in one go."""
    trial = planned(Runs(tmp_path_factory.mktemp("runs")), spec_of(epochs=LONG), PGD)
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    }
    assert run(trial) == FINISHED
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return trial


def test_a_trial_trains_evaluates_and_says_so_once(tmp_path: Path) -> None:
    trial = planned(runs_in(tmp_path), spec_of(), PGD)
    assert run(trial) == FINISHED
    [digest] = wanted(trial)
    told = story(trial.events)
    assert told.state == "finished"
    assert epochs(trial) == [0, 1]
    outcome = read_outcome(trial.outcome_file(digest))
    assert outcome.facts["key"] == trial.key
    assert told.evaluated[digest]["metrics"] == outcome.metrics()
    checkpoints = {file.name: file.read_bytes() for file in trial.checkpoints.iterdir()}

    assert run(trial, threads=2) == FINISHED  # again: there is nothing to do
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    *_, before, started, after = read(trial.events)
    assert [event["event"] for event in (before, started, after)] == ["finished", "started", "finished"]
    assert (started["threads"], started["pid"]) == (2, os.getpid())
    assert {file.name: file.read_bytes() for file in trial.checkpoints.iterdir()} == checkpoints
    assert not trial.lock_file.exists()


def test_an_evaluation_asked_for_later_does_not_train_again(tmp_path: Path) -> None:
    trial = planned(runs_in(tmp_path), spec_of(), PGD)
    assert run(trial) == FINISHED
    stronger = PGD.model_copy(update={"pgd_steps": 9, "checkpoint": "last"})
    planned(runs_in(tmp_path), spec_of(), stronger)
    assert run(trial) == FINISHED
    told = story(trial.events)
    assert sorted(told.evaluated) == wanted(trial)
    assert len(wanted(trial)) == 2
    assert epochs(trial) == [0, 1]
    assert [e["event"] for e in read(trial.events)].count("trained") == 1


def test_a_second_process_on_the_same_directory_goes_at_once_and_writes_nothing(tmp_path: Path) -> None:
    trial = planned(runs_in(tmp_path), spec_of())
    with Lock(trial.lock_file):
        before = sorted(trial.path.rglob("*"))
        second = start(trial)
        _, said = second.communicate(timeout=20)
        assert sorted(trial.path.rglob("*")) == before
    assert second.returncode == HELD
    assert f"is held by process {os.getpid()}" in said


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_trial_comes_out_as_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: TrialDir, end: signal.Signals
) -> None:
    trial = planned(runs_in(tmp_path), spec_of(epochs=LONG), PGD)
    assert trial.key == uninterrupted.key
    child = start(trial, "--checkpoint-minutes", "0.003")
    until(lambda: len(epochs(trial)) > 20 and (trial.checkpoints / "last.pt").exists())
    child.send_signal(end)
    child.communicate(timeout=20)
    assert child.returncode == (-signal.SIGKILL if end == signal.SIGKILL else STOPPED)
    told = story(trial.events)
    assert told.stopped == ("" if end == signal.SIGKILL else "signal")
    done = len(told.epochs)
    assert done < LONG

    assert run(trial) == FINISHED
    resumed = [event for event in read(trial.events) if event["event"] == "started"][-1]["resumes_at"]
    assert resumed[0] >= (done if end != signal.SIGKILL else 1)
    assert epochs(trial) == list(range(LONG))
    expected = weights(uninterrupted)
    assert all(torch.equal(value, expected[name]) for name, value in weights(trial).items())
    [digest] = wanted(trial)
    assert (
        story(trial.events).evaluated[digest]["metrics"]
        == (story(uninterrupted.events).evaluated[digest]["metrics"])
    )


def test_a_stop_file_ends_a_trial_and_does_not_end_the_next_attempt(tmp_path: Path) -> None:
    trial = planned(runs_in(tmp_path), spec_of(epochs=LONG))
    child = start(trial)
    until(lambda: len(epochs(trial)) > 2)
    ask_to_stop(trial, "cancelled")
    child.communicate(timeout=20)
    assert child.returncode == ON_REQUEST
    assert story(trial.events).stopped == "cancelled"
    assert run(trial) == FINISHED


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    slow = EvaluationSpec(attacks=("pgd",), images=100, pgd_steps=1000, batch_size=10)
    trial = planned(runs_in(tmp_path), spec_of(), slow)
    child = start(trial)
    until(lambda: sum(e["event"] == "evaluating" for e in read(trial.events)) > 2)
    child.send_signal(signal.SIGUSR2)  # what Slurm sends before a job's end
    child.communicate(timeout=20)
    assert child.returncode == STOPPED
    kept = sum(file.is_file() for file in trial.outcomes.rglob("*"))
    assert kept >= 2
    assert not trial.outcome_file(wanted(trial)[0]).exists()
    assert story(trial.events).trained is not None
    assert run(trial) == FINISHED
    assert story(trial.events).complete(wanted(trial))
    assert epochs(trial) == [0, 1]


def test_a_time_limit_keeps_what_was_trained(tmp_path: Path) -> None:
    trial = planned(runs_in(tmp_path), spec_of(epochs=LONG))
    assert run(trial, hours=0.5 / 3600) == FAILED
    told = story(trial.events)
    assert told.failure is not None
    assert told.failure["kind"] == "time"
    assert 0 < len(told.epochs) < LONG
    assert load(trial.checkpoints / "last.pt")["epoch"] == len(told.epochs)
    assert run(trial) == FINISHED
    assert epochs(trial) == list(range(LONG))


def test_divergence_ends_the_trial_with_its_reason(tmp_path: Path) -> None:
    spec = spec_of()
    wild = spec.model_copy(update={"train": spec.train.model_copy(update={"lr": 1e30})})
    trial = planned(runs_in(tmp_path), wild)
    assert run(trial) == FAILED
    failure = story(trial.events).failure
    assert failure is not None
    assert failure["kind"] == "diverged"
    assert "finite" in failure["reason"]


def test_a_helper_for_other_images_is_the_users_mistake(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    other = {"name": "npz", "root": str(tmp_path / "other.npz"), "val": 0.25}
    import numpy as np

    images = np.random.default_rng(0).integers(0, 255, (80, 1, 6, 6), dtype=np.uint8)
    labels = np.arange(80) % 3
    np.savez(
        tmp_path / "other.npz",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )
    helper = planned(runs, spec_of(epochs=1, data=other, method={"name": "standard"}))
    train = helper.spec().train.model_copy(update={"batch_size": 20})
    helper = planned(runs, helper.spec().model_copy(update={"train": train}))
    assert run(helper) == FINISHED
    hat = spec_of(method={"name": "hat"}, helpers={"standard": {"key": helper.key}})
    trial = planned(runs, hat)
    assert run(trial) == FAILED
    failure = story(trial.events).failure
    assert failure is not None
    assert failure["kind"] == "input"
    assert "3 classes of 1x6x6" in failure["reason"]
    assert "10 classes of 1x8x8" in failure["reason"]


def test_a_missing_helper_is_named(tmp_path: Path) -> None:
    trial = planned(
        runs_in(tmp_path), spec_of(method={"name": "hat"}, helpers={"standard": {"key": "f" * 16}})
    )
    assert run(trial) == FAILED
    failure = story(trial.events).failure
    assert failure is not None
    assert failure["kind"] == "input"
    assert "f" * 16 in failure["reason"]


def test_data_that_changed_under_a_planned_trial_are_noticed(tmp_path: Path) -> None:
    trial = planned(runs_in(tmp_path), spec_of())
    moved = trial.path.rename(trial.path.with_name("0" * 16))
    assert run(TrialDir(moved)) == FAILED
    assert "are not those" in story(moved / "events").failure["reason"]  # type: ignore[index]


def limited(trial: TrialDir, size: int) -> "subprocess.CompletedProcess[str]":
    """One attempt in a process that may write no file above ``size`` bytes, as on a full disk."""
    command = [sys.executable, "-m", "orchestrate.trial", str(trial.path), "--device", "cpu"]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    trial = planned(runs_in(tmp_path), spec_of())
    done = limited(trial, 40_000)  # room for events, none for a checkpoint
    assert done.returncode == FAILED
    failure = story(trial.events).failure
    assert failure is not None
    assert failure["kind"] == "disk"
    assert "best.pt" in failure["reason"]
    assert list(trial.checkpoints.iterdir()) == []
    assert run(trial) == FINISHED


def test_when_not_even_an_event_can_be_written_one_line_says_so(tmp_path: Path) -> None:
    trial = planned(runs_in(tmp_path), spec_of())
    done = limited(trial, 0)
    assert done.returncode == FAILED
    [line] = done.stderr.splitlines()
    assert str(trial.path) in line
    assert os.strerror(errno.EFBIG) in line
    assert run(trial) == FINISHED


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Diverged("nan"), "diverged"),
        (UserError("x"), "input"),
        (OSError(errno.ENOSPC, "full", "f"), "disk"),
        (OSError(errno.EDQUOT, "quota", "f"), "disk"),
        (OSError(errno.EIO, "broken", "f"), "crash"),
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "memory"),
        (RuntimeError("shape\nmismatch"), "crash"),
    ],
)
def test_failures_are_told_apart(error: Exception, kind: str) -> None:
    found, reason = trials.failure(error)
    assert found == kind
    assert reason
    assert "\n" not in reason


def test_the_head_of_the_module_costs_no_torch() -> None:
    code = "import sys, orchestrate.trial; print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_an_unreadable_stop_file_still_stops(tmp_path: Path) -> None:
    trial = planned(runs_in(tmp_path), spec_of(epochs=LONG))
    write_whole(trial.stop_file, "")
    assert run(trial) == ON_REQUEST
    assert not trial.stop_file.exists()

"""A trial is brought to its end whatever happens to its processes, and at most one of them lives at a time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fake_trial import FakeCluster, write_script
from small_trials import until

from clusters.process import me, process
from orchestrate import runner as runners
from orchestrate.events import EventWriter, attempts, read, story
from orchestrate.locks import read as holder_of
from orchestrate.runner import Runner, Task, ask_to_stop
from orchestrate.runs import Runs, TrialDir

LONG = {"epochs": 400, "pause": 0.05}


@pytest.fixture
def trial(tmp_path: Path) -> TrialDir:
    return Runs(tmp_path).trial("abc")


def runner(trial: TrialDir, *evaluations: str, **settings: Any) -> Runner:
    root = trial.path.parents[1]
    task = Task(runs=str(root), key=trial.key, evaluations=evaluations, **settings)
    return Runner(task, FakeCluster(root / "trials"))


def to_the_end(one: Runner) -> list[dict[str, Any]]:
    reports = [one.step()]
    while not reports[-1]["done"]:
        reports.append(one.step())
    one.close()
    return reports


def test_every_epoch_and_evaluation_is_reported_once_and_the_end_last(trial: TrialDir) -> None:
    write_script(trial, {"epochs": 3})
    reports = to_the_end(runner(trial, "e1", "e2"))
    assert [r["epoch"] for r in reports] == [1, 2, 3, 3, 3, 3]
    assert [r.get("val/robust") for r in reports] == [0.5, 0.51, 0.52, None, None, None]
    assert [r.get("robust") for r in reports] == [None, None, None, 0.4, 0.4, None]
    assert [r["state"] for r in reports] == ["running"] * 5 + ["finished"]
    assert attempts(trial.events) == [1]
    assert not trial.lock_file.exists()


def test_a_replay_tells_what_was_and_starts_nothing(trial: TrialDir) -> None:
    write_script(trial, {"epochs": 2, "end": "diverged"})
    to_the_end(runner(trial))
    again = to_the_end(runner(trial, replay=True))
    assert [(report["epoch"], report["state"]) for report in again] == [
        (1, "running"),
        (2, "running"),
        (2, "replayed"),
    ]
    assert attempts(trial.events) == [1]


def test_nothing_is_started_for_a_sweep_that_ends(trial: TrialDir, tmp_path: Path) -> None:
    write_script(trial, LONG)
    one = runner(trial, stop_file=str(tmp_path / "stop"))
    one.step()
    (tmp_path / "stop").touch()
    assert to_the_end(one)[-1]["state"] == "stopped"
    assert story(trial.events).stopped == "signal"
    assert to_the_end(runner(trial, driver=replace(me(), started=0)))[-1]["state"] == "stopped"
    assert attempts(trial.events) == [1]


def test_a_complete_trial_is_reported_without_a_process(trial: TrialDir) -> None:
    write_script(trial, {"epochs": 2})
    first = to_the_end(runner(trial, "e1"))
    again = to_the_end(runner(trial, "e1"))
    assert again == [r | {"mine": False} for r in first]
    assert attempts(trial.events) == [1]
    to_the_end(runner(trial, "e1", "e2"))  # an evaluation that is missing is run, training is not
    assert attempts(trial.events) == [1, 2]
    assert sorted(story(trial.events).evaluated) == ["e1", "e2"]


@pytest.mark.parametrize("end", ["killed", "memory", "crash"])
def test_a_crash_is_tried_again_as_often_as_the_limit_says(trial: TrialDir, end: str) -> None:
    write_script(trial, {"epochs": 1, "end": end}, {"epochs": 2, "end": end}, {"epochs": 3})
    assert to_the_end(runner(trial, retries=2))[-1]["state"] == "finished"
    assert [e["epoch"] for e in story(trial.events).epochs] == [0, 1, 2]


def test_a_crash_too_many_fails_with_the_last_words_of_its_log(trial: TrialDir) -> None:
    write_script(trial, {"epochs": 1, "end": "silent"})
    last = to_the_end(runner(trial, retries=1))[-1]
    assert last["state"] == "failed"
    assert last["kind"] == "crash"
    assert "Segmentation fault" in last["reason"]
    assert attempts(trial.events) == [1, 2]


@pytest.mark.parametrize("kind", ["diverged", "disk", "time", "input"])
def test_what_would_fail_again_is_not_tried_again(trial: TrialDir, kind: str) -> None:
    write_script(trial, {"epochs": 1, "end": kind}, {"epochs": 3})
    last = to_the_end(runner(trial, retries=5))[-1]
    assert (last["state"], last["kind"], last["reason"]) == ("failed", kind, f"it was {kind}")
    assert to_the_end(runner(trial))[-1]["state"] == "finished"  # unless it is asked for again


def test_a_job_that_never_gets_to_work_is_given_up_after_some_times(
    trial: TrialDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(trial, {})
    monkeypatch.setattr(runners.sys, "executable", "/bin/false")
    cluster = FakeCluster(trial.path.parent)
    broken = Runner(Task(runs=str(trial.path.parents[1]), key=trial.key, evaluations=()), cluster)
    monkeypatch.setattr(cluster, "plan", lambda job: super(FakeCluster, cluster).plan(job))
    last = to_the_end(broken)[-1]
    assert last["state"] == "failed"
    assert "before it began, 4 times in a row" in last["reason"]


def test_a_trial_stopped_by_its_user_is_not_started_again(trial: TrialDir) -> None:
    write_script(trial, LONG)
    one = runner(trial)
    one.step()
    ask_to_stop(trial, "cancelled")
    last = to_the_end(one)[-1]
    assert (last["state"], last["kind"]) == ("failed", "cancelled")


def test_a_trial_stopped_from_outside_goes_on(trial: TrialDir) -> None:
    write_script(trial, {"epochs": 30, "pause": 0.02})
    one = runner(trial, retries=0)
    one.step()
    holder = holder_of(trial.lock_file)
    assert holder is not None
    os.kill(holder.process.pid, signal.SIGTERM)
    assert to_the_end(one)[-1]["state"] == "finished"
    assert attempts(trial.events) == [1, 2]


def test_a_request_to_stop_an_earlier_attempt_does_not_stop_the_next(trial: TrialDir) -> None:
    write_script(trial, {"epochs": 2})
    ask_to_stop(trial, "pruned")
    assert to_the_end(runner(trial))[-1]["state"] == "finished"


def test_closing_stops_the_job_within_seconds_and_says_why(trial: TrialDir) -> None:
    write_script(trial, LONG)
    one = runner(trial)
    one.step()
    holder = holder_of(trial.lock_file)
    assert holder is not None
    began = time.monotonic()
    one.close()
    assert time.monotonic() - began < 3
    assert not holder.process.alive()
    assert story(trial.events).stopped == "pruned"


def test_a_job_that_does_not_listen_is_killed(trial: TrialDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "STOP_GRACE_S", 0.3)
    write_script(trial, {"epochs": 1, "end": "hang"})
    one = runner(trial)
    one.step()
    holder = holder_of(trial.lock_file)
    assert holder is not None
    until(lambda: "deaf" in (trial.logs / "1.txt").read_text())
    one.close()
    assert not holder.process.alive()


def test_two_runners_share_one_job_and_the_second_takes_over_when_the_first_stops(trial: TrialDir) -> None:
    write_script(trial, {"epochs": 40, "pause": 0.03})
    first, second = runner(trial), runner(trial)
    first.step()
    seen = [second.step() for _ in range(3)]
    assert not any(report["mine"] for report in seen)
    assert attempts(trial.events) == [1]
    first.close()
    rest = to_the_end(second)
    assert rest[-1]["state"] == "finished"
    assert rest[-1]["mine"]
    assert [r["epoch"] for r in seen + rest[:-1]] == list(range(1, 41))
    assert attempts(trial.events) == [1, 2]


def test_many_runners_at_once_start_one_job(trial: TrialDir) -> None:
    write_script(trial, {"epochs": 20, "pause": 0.02})
    ends: list[str] = []
    crowd = [
        threading.Thread(target=lambda: ends.append(to_the_end(runner(trial, "e1"))[-1]["state"]))
        for _ in range(5)
    ]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(30)
    assert ends == ["finished"] * 5
    assert attempts(trial.events) == [1]


def test_a_trial_that_somebody_else_fails_for_good_is_failed_here_too(trial: TrialDir) -> None:
    write_script(trial, {"epochs": 20, "pause": 0.03, "end": "diverged"})
    first, second = runner(trial), runner(trial)
    first.step()
    second.step()
    assert to_the_end(first)[-1]["kind"] == "diverged"
    assert to_the_end(second)[-1]["kind"] == "diverged"
    assert attempts(trial.events) == [1]


def test_a_holder_on_another_machine_is_followed_until_its_counter_stands_still(
    trial: TrialDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(trial, {"epochs": 2})
    facts = {"process": asdict(replace(me(), host="elsewhere")), "token": "f00"}
    trial.lock_file.write_text(f"{json.dumps(facts)}\n{0:012d}\n")
    elsewhere = EventWriter(trial.events)
    elsewhere.started()
    elsewhere.write("epoch", epoch=0, step=0, metrics={"val/robust": 0.3}, best=True)
    one = runner(trial)
    monkeypatch.setattr(one._live_lock, "still_s", 0.5)
    assert one.step()["val/robust"] == 0.3
    began = time.monotonic()
    # The process that is then started must wait as long itself: its own observation begins with it.
    threading.Timer(0.4, lambda: trial.lock_file.unlink()).start()
    last = to_the_end(one)[-1]
    assert time.monotonic() - began > 0.3
    assert last["state"] == "finished"
    assert last["epoch"] == 2


KILLED_WHILE_SUBMITTING = """
import os, signal, sys
from pathlib import Path
from fake_trial import FakeCluster
from clusters import base, local
from orchestrate.runner import Runner, Task
moment, root = sys.argv[1], Path(sys.argv[2])
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if moment == "before": local.LocalCluster.submit = die
if moment == "between": local.intend = lambda d, real=local.intend: (real(d), die())
if moment == "after": local.record = die
Runner(Task(runs=str(root), key="abc", evaluations=()), FakeCluster(root / "trials")).step()
"""


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_submitter_killed_at_any_moment_leaves_a_trial_that_can_be_run(
    trial: TrialDir, moment: str
) -> None:
    write_script(trial, {"epochs": 40, "pause": 0.03})
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", KILLED_WHILE_SUBMITTING, moment, str(trial.path.parents[1])]
    assert subprocess.run(command, env=env).returncode == -signal.SIGKILL
    assert to_the_end(runner(trial, retries=0))[-1]["state"] == "finished"
    starts = [event for event in read(trial.events) if event["event"] == "started"]
    assert all(process(event["pid"]) is None for event in starts)
    assert [e["epoch"] for e in story(trial.events).epochs] == list(range(40))


def test_a_full_disk_at_submission_is_a_failure_and_no_crash(
    trial: TrialDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(trial, {})
    one = runner(trial)

    def full(request: object) -> None:
        raise OSError(28, "No space left on device", "job.json")

    monkeypatch.setattr(one.cluster, "submit", full)
    last = to_the_end(one)[-1]
    assert (last["state"], last["kind"]) == ("failed", "disk")
    assert "No space left" in last["reason"]

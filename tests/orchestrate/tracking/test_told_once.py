"""However often, by whomever and from wherever a trial is told: one run, each point once."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from telling import new_key, pump, relay_of
from written_trials import Tracked, WrittenTrial, expected_points, make_sweep

from orchestrate.relay import Relay, finish
from orchestrate.runs import Runs, SweepDir
from orchestrate.tracking import cursor, trial_relay
from orchestrate.tracking.tracker import Tracker


def test_numbers_that_are_none_or_infinite_arrive_once(runs: Runs, sweep: SweepDir, tracked: Tracked) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).start()
    trial.epoch(0, loss=math.nan, grown=math.inf)
    pump(relay_of(runs, sweep))
    lose_cursor(trial)
    pump(relay_of(runs, sweep))
    query = "SELECT key, is_nan FROM metrics WHERE run_uuid = ? AND key IN ('loss', 'grown') ORDER BY key"
    assert tracked.ask(query, tracked.run_of(trial.dir.key)) == [("grown", 0), ("loss", 1)]
    trial.vanish()


def lose_cursor(trial: WrittenTrial) -> None:
    (trial.dir.path / "tracked.json").unlink()


@pytest.mark.parametrize("lost", [False, True])
def test_telling_all_again_changes_nothing(runs: Runs, sweep: SweepDir, tracked: Tracked, lost: bool) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).whole()
    pump(relay_of(runs, sweep))
    once = (tracked.points(trial.dir.key), tracked.tags(tracked.run_of(trial.dir.key)))
    if lost:
        lose_cursor(trial)
    pump(relay_of(runs, sweep))
    assert (tracked.points(trial.dir.key), tracked.tags(tracked.run_of(trial.dir.key))) == once


class Killed(BaseException):
    """The relay is dead: nothing catches this."""


STEPS = ("trial", "log", "remove_tag", "set_status", "upload")


def mortal(monkeypatch: pytest.MonkeyPatch, dies_at: int) -> None:
    """The relay dies before its ``dies_at``-th step; noting how far it came is a step like telling."""
    steps = itertools.count()

    def wrap(step: Callable[..., Any]) -> Callable[..., Any]:
        def taken(*given: Any, **named: Any) -> Any:
            if next(steps) == dies_at:
                raise Killed
            return step(*given, **named)

        return taken

    for name in STEPS:
        monkeypatch.setattr(Tracker, name, wrap(getattr(Tracker, name)))
    monkeypatch.setattr(cursor, "write", wrap(cursor.write))


def test_a_relay_killed_anywhere_and_begun_again_leaves_each_point_once(
    runs: Runs, sweep: SweepDir, tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_relay, "AT_ONCE", 2)
    monkeypatch.setattr("evaluation.figures.curves", lambda epochs, file: file.write_bytes(b"curves"))
    tracker = Tracker.open(runs, sweep, "parapet", {})
    for at in itertools.count():
        trial = WrittenTrial(runs, sweep, new_key(), row=at).whole(epochs=2)
        with monkeypatch.context() as patch:
            mortal(patch, at)
            try:
                tell_one(Relay(runs, sweep, tracker), trial)
                survived = True
            except Killed:
                survived = False
        tell_one(Relay(runs, sweep, tracker), trial)
        assert tracked.points(trial.dir.key) == expected_points(trial.dir), at
        assert tracked.status(trial.dir.key) == "FINISHED", at
        assert tracked.parameters(tracked.run_of(trial.dir.key))["method.beta"] == "3.0", at
        assert len(tracked.artifacts(trial.dir.key)) == 6, at
        if survived:
            break
    assert at > 20, "it was killed at every step"


def tell_one(relay: Relay, trial: WrittenTrial) -> None:
    relay.look()
    relay.trials = {trial.dir.key: relay.trials[trial.dir.key]}
    relay.tell()


def test_two_sweeps_share_a_trial_and_its_run(runs: Runs, sweep: SweepDir, tracked: Tracked) -> None:
    other = make_sweep(runs, f"{sweep.name}b")
    key = new_key()
    trial = WrittenTrial(runs, sweep, key).start()
    WrittenTrial(runs, other, key, label="the same")
    first, second = relay_of(runs, sweep), relay_of(runs, other)
    for n in range(3):
        trial.epoch(n)
        pump(first if n % 2 else second)
        pump(second if n % 2 else first)
    trial.trained()
    trial.evaluated()
    trial.end()
    pump(first)
    pump(second)
    tags = tracked.tags(tracked.run_of(key))
    assert tags[f"parapet.sweep.{sweep.name}"] == "trades beta=3"
    assert tags[f"parapet.sweep.{other.name}"] == "the same"
    assert tags["mlflow.parentRunId"] == second.tracker.parent, "of the sweep that told first"
    assert tracked.points(key) == expected_points(trial.dir)


def test_two_relays_that_want_a_run_at_once_make_one(runs: Runs, sweep: SweepDir, tracked: Tracked) -> None:
    trackers = [Tracker.open(runs, sweep, "parapet", {}) for _ in range(4)]
    key, together = new_key(), threading.Barrier(4)

    def want(tracker: Tracker) -> str:
        together.wait()
        return tracker.trial(key, 1, "label")

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(want, trackers))
    assert found == {tracked.run_of(key)}


def test_a_resumed_trial_goes_on_in_its_own_run(runs: Runs, sweep: SweepDir, tracked: Tracked) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).start()
    relay = relay_of(runs, sweep)
    trial.epoch(0)
    trial.end("failed", kind="memory", reason="CUDA out of memory")
    pump(relay)
    key = trial.dir.key
    assert tracked.status(key) == "FAILED"
    assert tracked.tags(tracked.run_of(key))["parapet.reason"] == "memory: CUDA out of memory"
    assert tracked.artifacts(key)["log.txt"] == b"attempt 1 printed\n"
    trial.start()
    pump(relay)
    assert tracked.status(key) == "RUNNING"
    assert "parapet.reason" not in tracked.tags(tracked.run_of(key))
    trial.epoch(0)  # replayed after the resume: counts once, the first time
    trial.epoch(1)
    trial.trained(2)
    trial.evaluated()
    trial.end()
    pump(relay)
    assert tracked.status(key) == "FINISHED"
    assert tracked.tags(tracked.run_of(key))["parapet.attempts"] == "2"
    steps = [(name, step) for name, step, *_ in tracked.points(key)]
    assert len(steps) == len(set(steps))
    assert ("loss", 1) in steps
    assert tracked.artifacts(key)["log.txt"] == b"attempt 2 printed\n"


def test_a_large_file_is_copied_again_only_when_it_changed(
    runs: Runs, sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    upload = Tracker.upload

    def counted(self: Tracker, run: str, artifact: Any) -> None:
        copied.append(artifact.path)
        upload(self, run, artifact)

    monkeypatch.setattr(Tracker, "upload", counted)
    trial = WrittenTrial(runs, sweep, new_key()).whole()
    pump(relay_of(runs, sweep))
    assert copied.count("checkpoints/best.pt") == 1
    copied.clear()
    (trial.dir.checkpoints / "last.pt").write_bytes(b"trained on")
    pump(relay_of(runs, sweep))
    assert copied == ["checkpoints/last.pt"]


def test_a_trial_trained_afresh_gets_a_new_run_and_the_old_one_stays(
    runs: Runs, sweep: SweepDir, tracked: Tracked
) -> None:
    key = new_key()
    first = WrittenTrial(runs, sweep, key).whole()
    pump(relay_of(runs, sweep))
    old = tracked.run_of(key)
    first.dir.path.rename(first.dir.path.with_name(f"{key}-old"))
    second = WrittenTrial(runs, sweep, key, row=1).whole()
    pump(relay_of(runs, sweep))
    assert tracked.run_of(key) != old
    assert tracked.points(key) == expected_points(second.dir)
    assert tracked.tags(old)["parapet.superseded"] == key


def test_a_run_that_somebody_deleted_is_made_again(runs: Runs, sweep: SweepDir, tracked: Tracked) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).start()
    relay = relay_of(runs, sweep)
    trial.epoch(0)
    pump(relay)
    deleted = tracked.run_of(trial.dir.key)
    relay.tracker.client.delete_run(deleted)
    trial.epoch(1)
    pump(relay)
    [other] = set(tracked.runs_of(trial.dir.key)) - {deleted}
    assert len(tracked.ask("SELECT 1 FROM metrics WHERE run_uuid = ? AND key = 'loss'", other)) == 2
    trial.vanish()


def test_a_run_that_a_slow_server_made_twice_is_told_once(
    runs: Runs, sweep: SweepDir, tracked: Tracked
) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).start()
    relay = relay_of(runs, sweep)
    pump(relay)
    told = tracked.run_of(trial.dir.key)
    late = relay.tracker.client.create_run(relay.tracker.experiment, tags=tracked.tags(told)).info.run_id
    trial.epoch(0)
    trial.end("failed", kind="crash", reason="")
    trial.close("failed")
    assert finish(relay, "FAILED") == 0
    query = "SELECT lifecycle_stage FROM runs WHERE run_uuid = ?"
    assert tracked.ask(query, told) == [("active",)]
    assert tracked.ask(query, late) == [("deleted",)]

"""Trials arrive in MLflow's real database once, however often and from wherever they are told."""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from written_trials import Tracked, WrittenTrial, expected_points, make_sweep

from orchestrate.relay import Driver, Relay, finish, follow
from orchestrate.runs import Runs, SweepDir
from orchestrate.tracking import cursor, trial_relay
from orchestrate.tracking.tracker import Tracker, Unreachable

numbers = itertools.count()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def sweep(runs: Runs) -> SweepDir:
    return make_sweep(runs, f"sweep{next(numbers)}")


@pytest.fixture
def tracked(runs: Runs) -> Tracked:
    return Tracked(runs)


def relay_of(runs: Runs, sweep: SweepDir) -> Relay:
    return Relay(runs, sweep, Tracker.open(runs, sweep, "parapet", {}))


def pump(relay: Relay) -> None:
    relay.look()
    relay.tell()


def new_key() -> str:
    return f"{next(numbers):016x}"


def test_a_finished_trial_is_one_run_under_its_sweep_with_everything_in_it(
    runs: Runs, sweep: SweepDir, tracked: Tracked
) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).whole()
    relay = relay_of(runs, sweep)
    pump(relay)
    key = trial.dir.key
    run = tracked.run_of(key)
    assert tracked.status(key) == "FINISHED"
    assert tracked.points(key) == expected_points(trial.dir)
    assert ("robust", 0, 0.4) in [point[:3] for point in tracked.points(key)]
    assert tracked.parameters(run)["method.beta"] == "3.0"
    tags = tracked.tags(run)
    wanted = {
        "mlflow.runName": "trades beta=3",
        "mlflow.parentRunId": relay.tracker.parent,
        "formula": "CE(clean) + 3*KL(adv to clean)",
        f"parapet.sweep.{sweep.name}": "trades beta=3",
        "parapet.state": "finished",
        "parapet.attempts": "1",
        "parapet.host": "node1",
        "parapet.device": "cpu",
        "parapet.versions": "python 3.11.7, torch 2.13.0",
    }
    assert wanted.items() <= tags.items()
    files = tracked.artifacts(key)
    assert files["spec.yaml"] == trial.dir.spec_file.read_bytes()
    assert files["checkpoints/best.pt"] == (trial.dir.checkpoints / "best.pt").read_bytes()
    assert {"checkpoints/last.pt", "outcomes/e1.parquet", "curves.png"} <= set(files)
    assert files["log.txt"] == b"attempt 1 printed\n"
    assert files["curves.png"].startswith(b"\x89PNG")


def test_the_run_begins_and_ends_when_the_trial_did(runs: Runs, sweep: SweepDir, tracked: Tracked) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).whole()
    relay = relay_of(runs, sweep)
    pump(relay)
    [times] = tracked.ask(
        "SELECT start_time, end_time FROM runs WHERE run_uuid = ?", tracked.run_of(trial.dir.key)
    )
    story = relay.trials[trial.dir.key].story
    assert times == (story.first_t, story.last_t)


def test_metrics_come_while_the_trial_runs(runs: Runs, sweep: SweepDir, tracked: Tracked) -> None:
    trial = WrittenTrial(runs, sweep, new_key())
    relay = relay_of(runs, sweep)
    pump(relay)
    assert tracked.runs_of(trial.dir.key) == [], "a trial that only waits has no run"
    trial.start()
    pump(relay)
    assert tracked.status(trial.dir.key) == "RUNNING"
    for n in range(2):
        trial.epoch(n)
        pump(relay)
        assert tracked.points(trial.dir.key) == expected_points(trial.dir)
    trial.vanish()


def test_more_metrics_than_mlflow_takes_at_once(runs: Runs, sweep: SweepDir, tracked: Tracked) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).start()
    for n in range(30):
        trial.epoch(n, **{f"extra/{i}": float(i) for i in range(70)})
    pump(relay_of(runs, sweep))
    points = tracked.points(trial.dir.key)
    assert len(points) == 30 * 74
    assert points == expected_points(trial.dir)
    trial.vanish()


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


def test_a_trial_that_failed_before_it_began_has_a_run_that_says_why_and_goes_on(
    runs: Runs, sweep: SweepDir, tracked: Tracked
) -> None:
    trial = WrittenTrial(runs, sweep, new_key())
    trial.close("failed", "helper standard failed: diverged")
    relay = relay_of(runs, sweep)
    pump(relay)
    run = tracked.run_of(trial.dir.key)
    assert tracked.status(trial.dir.key) == "FAILED"
    assert tracked.tags(run)["parapet.reason"] == "helper standard failed: diverged"
    trial.close("open")
    trial.whole()
    pump(relay)
    assert tracked.run_of(trial.dir.key) == run
    assert tracked.status(trial.dir.key) == "FINISHED"


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


def test_the_parent_run_is_found_again_and_holds_the_report(
    runs: Runs, sweep: SweepDir, tracked: Tracked
) -> None:
    WrittenTrial(runs, sweep, new_key()).whole()
    first = relay_of(runs, sweep)
    sweep.report.mkdir()
    (sweep.report / "front.png").write_bytes(b"a picture")
    first.look()
    assert finish(first, "FINISHED") == 0
    parent = first.tracker.parent
    [row] = tracked.ask("SELECT status, artifact_uri FROM runs WHERE run_uuid = ?", parent)
    assert row[0] == "FINISHED"
    root = Path(row[1].removeprefix("file://"))
    assert (root / "report" / "front.png").read_bytes() == b"a picture"
    assert (root / "sweep.yaml").read_bytes() == sweep.sweep_file.read_bytes()
    assert tracked.tags(parent)["parapet.finished"] == "1"
    second = relay_of(runs, sweep)
    assert second.tracker.parent == parent
    assert tracked.ask("SELECT status FROM runs WHERE run_uuid = ?", parent) == [("RUNNING",)]


def test_after_the_end_only_a_run_with_a_live_job_is_running(
    runs: Runs, sweep: SweepDir, tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrate.relay.DYING_S", 0.2)
    gone = WrittenTrial(runs, sweep, new_key(), row=0).start()
    lives = WrittenTrial(runs, sweep, new_key(), row=1).start()
    stopping = WrittenTrial(runs, sweep, new_key(), row=2).start()
    gone.vanish()
    stopping.dir.stop_file.write_text('{"why": "cancelled"}')
    relay = relay_of(runs, sweep)
    assert finish(relay, "KILLED") == 0
    assert tracked.status(gone.dir.key) == "KILLED"
    assert tracked.status(lives.dir.key) == "RUNNING"
    assert tracked.status(stopping.dir.key) == "KILLED"
    for trial in (lives, stopping):
        trial.vanish()
    assert finish(relay_of(runs, sweep), "KILLED") == 0
    assert tracked.status(lives.dir.key) == "KILLED"


def test_at_the_end_it_says_how_far_it_is_to_whoever_listens(
    runs: Runs, sweep: SweepDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrate.relay.SAY_EVERY_S", 0.0)
    for row in range(2):
        WrittenTrial(runs, sweep, new_key(), row).whole()
    relay = relay_of(runs, sweep)
    pump(relay)
    assert capsys.readouterr().out == ""
    relay.tell(ending=True, enough=lambda: True)
    assert capsys.readouterr().out == ""
    relay.tell(ending=True)
    assert capsys.readouterr().out == "0 of 2 trials are told\n1 of 2 trials are told\n"

    reader, writer = os.pipe()
    os.close(reader)  # the driver has died
    with os.fdopen(writer, "w") as nobody_listens:
        monkeypatch.setattr(sys, "stdout", nobody_listens)
        relay.tell(ending=True)
        assert sys.stdout is not nobody_listens
        sys.stdout.close()
        os.dup2(2, writer)  # what it did not get rid of goes somewhere when it is closed


class AskedAtOnce:
    """A driver that asks for the end while its relay is busy telling."""

    order = ""

    def has_ordered(self) -> bool:
        self.order = "end FINISHED"
        return True

    def wait(self, seconds: float) -> None:
        assert self.order, "not asked while it told"


def test_it_hears_its_driver_between_two_trials(runs: Runs, sweep: SweepDir, tracked: Tracked) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).whole()
    assert follow(relay_of(runs, sweep), cast(Driver, AskedAtOnce())) == 0
    assert tracked.points(trial.dir.key) == expected_points(trial.dir), "told at the end"


def test_a_store_that_does_not_answer_loses_nothing(
    runs: Runs, sweep: SweepDir, tracked: Tracked, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = WrittenTrial(runs, sweep, new_key()).whole()
    relay = relay_of(runs, sweep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay.tracker.client, "log_batch", refuse_connection)
        relay.look()
        with pytest.raises(Unreachable, match="nobody answers"):
            relay.tell()
        assert finish(relay, "FINISHED", patience_s=0.1) == 1
    assert f"orchestrate.relay {runs.path} {sweep.name} --once" in capsys.readouterr().err
    assert finish(relay, "FINISHED") == 0
    assert tracked.points(trial.dir.key) == expected_points(trial.dir)
    assert tracked.status(trial.dir.key) == "FINISHED"


def refuse_connection(*_given: Any, **_named: Any) -> None:
    raise ConnectionError("nobody answers")


def test_what_a_trial_ran_from_is_told_with_it(
    runs: Runs, sweep: SweepDir, tracked: Tracked, tmp_path: Path
) -> None:
    from orchestrate.tracking import origin

    (tmp_path / "train.py").write_text("print(1)\n")
    before = origin.note(sweep, tmp_path, runs.path)
    trial = WrittenTrial(runs, sweep, new_key()).whole()
    (tmp_path / "train.py").write_text(
        "print(2)\n"
    )  # a later driver of the same sweep runs from another source
    after = origin.note(sweep, tmp_path, runs.path)
    assert before.facts["source"] != after.facts["source"]
    assert origin.note(sweep, tmp_path, runs.path) == after, "nothing changed"
    finish(relay_of(runs, sweep), "FINISHED")
    tags = tracked.tags(tracked.run_of(trial.dir.key))
    assert tags["parapet.source"] == before.facts["source"][:16]
    assert tags["parapet.git"] == "no repository"
    assert "environment.txt" in tracked.artifacts(trial.dir.key)

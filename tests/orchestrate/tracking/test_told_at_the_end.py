"""What a relay tells at the end of a sweep, and when the store does not answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from telling import new_key, pump, relay_of
from written_trials import Tracked, WrittenTrial, expected_points

from orchestrate.relay import Driver, finish, follow
from orchestrate.runs import Runs, SweepDir
from orchestrate.tracking.tracker import Unreachable


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

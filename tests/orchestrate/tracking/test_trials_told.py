"""Trials arrive in MLflow's real database, with everything in them."""

from __future__ import annotations

from pathlib import Path

from telling import new_key, pump, relay_of
from written_trials import Tracked, WrittenTrial, expected_points

from orchestrate.relay import finish
from orchestrate.runs import Runs, SweepDir


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

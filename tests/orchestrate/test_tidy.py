"""What may be removed, and what a sweep, a live process or another trial still needs."""

import os
import time

import pytest

from clusters.base import Handle, record
from orchestrate import ledger
from orchestrate.events import EventWriter
from orchestrate.locks import Lock
from orchestrate.runs import Runs
from orchestrate.tidy import remove, waste
from training.errors import UserError
from training.spec import TrialSpec


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


def trial_of(runs, key, **helpers):
    facts = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "attack": {"eps": 0.1}}
    trial = runs.trial(key)
    trial.create(TrialSpec.model_validate(facts | {"method": {"name": "hat"}, "helpers": helpers}))
    return trial


def sweep_of(runs, name, *keys):
    sweep = runs.sweep(name)
    sweep.path.mkdir(parents=True)
    sweep.sweep_file.write_text(f"name: {name}\n")
    for row, key in enumerate(keys):
        ledger.append(sweep.ledger_file, ledger.Row(row, key))
    return sweep


def found(runs, *given_up):
    return {str(w.path.relative_to(runs.path)): w.why for w in waste(runs, given_up)}


def trained(trial):
    events = EventWriter(trial.events)
    events.started()
    events.write("trained", epochs=1, best_epoch=0, metrics={})


def test_trials_of_no_sweep_can_go_and_helpers_of_helpers_stay(runs):
    trial_of(runs, "hat", standard={"key": "helper"})
    trial_of(runs, "helper", start={"key": "deeper"})
    for key in ("deeper", "alone"):
        trial_of(runs, key)
    sweep_of(runs, "one", "hat")
    assert found(runs) == {"trials/alone": "trial of no sweep"}


def test_a_sweep_given_up_takes_only_what_it_alone_needs(runs):
    for key in ("mine", "shared"):
        trial_of(runs, key)
    sweep = sweep_of(runs, "one", "mine", "shared")
    sweep_of(runs, "two", "shared")
    assert found(runs) == {}
    assert set(found(runs, "one")) == {"sweeps/one", "trials/mine"}
    with Lock(sweep.lock_file), pytest.raises(UserError, match="one: is running"):
        waste(runs, ["one"])


def test_what_lives_stays(runs):
    trial = trial_of(runs, "alone")
    trial_of(runs, "needed")
    with Lock(trial.lock_file):
        assert set(found(runs)) == {"trials/needed"}
    sweep = sweep_of(runs, "one")
    with Lock(sweep.lock_file):
        assert found(runs) == {}, "its driver may be about to mention them"
    assert set(found(runs)) == {"trials/alone", "trials/needed"}


def test_the_helper_of_a_live_trial_of_no_sweep_stays(runs):
    trial = trial_of(runs, "live", standard={"key": "helper"})
    trial_of(runs, "helper")
    with Lock(trial.lock_file):
        assert found(runs) == {}


def test_leftovers_of_a_trained_trial_go_and_what_resuming_needs_stays(runs):
    sweep_of(runs, "one", "done", "half")
    for key in ("done", "half"):
        trial = trial_of(runs, key)
        for file in (
            "checkpoints/last.pt",
            "checkpoints/previous.pt",
            "log/1.txt",
            "log/2.txt",
            "log/10.txt",
        ):
            (trial.path / file).parent.mkdir(exist_ok=True)
            (trial.path / file).touch()
        for digest in ("e1", "e2"):
            (trial.outcomes / f"{digest}.partial").mkdir(parents=True)
        (trial.outcomes / "e1.parquet").touch()
    trained(runs.trial("done"))
    assert found(runs) == {
        "trials/done/outcomes/e1.partial": "progress of a finished evaluation",
        "trials/half/outcomes/e1.partial": "progress of a finished evaluation",
        "trials/done/checkpoints/previous.pt": "checkpoint before the last",
        "trials/done/log/1.txt": "log of an earlier attempt",
        "trials/done/log/2.txt": "log of an earlier attempt",
    }


def test_old_drafts_go_and_young_ones_stay(runs):
    sweep = sweep_of(runs, "one", "done")
    trial = trial_of(runs, "done")
    trial.checkpoints.mkdir()
    old, young, other = trial.checkpoints / ".last.pt.tmp", sweep.path / ".x.1.tmp", sweep.path / ".y.2.tmp"
    for file in (old, young, other):
        file.touch()
    for file in (old, other):
        os.utime(file, (time.time() - 3600,) * 2)
    drafts = {
        "trials/done/checkpoints/.last.pt.tmp": "temporary file",
        "sweeps/one/.y.2.tmp": "temporary file",
    }
    assert found(runs) == drafts
    with Lock(trial.lock_file):
        assert found(runs) == {"sweeps/one/.y.2.tmp": "temporary file"}


def test_what_fresh_replaced_and_unused_downloads_go(runs):
    used = runs.path / "helpers" / "run1"
    sweep_of(runs, "one", "done")
    trial_of(runs, "done", standard={"path": str(used / "last.pt"), "digest": "0"})
    for folder in (used, runs.path / "helpers" / "run2", runs.path / "old" / "done.1"):
        folder.mkdir(parents=True)
    assert found(runs) == {"old/done.1": "replaced by --fresh", "helpers/run2": "helper that no trial uses"}


def test_a_job_array_can_go_when_its_trials_have_ended(runs):
    old = time.time() - 100
    for nonce, key, ended in (("a1", "k1", True), ("a2", "k2", False)):
        trial = runs.trial(key)
        (runs.path / "arrays" / nonce).mkdir(parents=True)
        os.utime(runs.path / "arrays" / nonce, (old, old))
        ledger.append(runs.sweep("s").ledger_file, ledger.Row(0 if ended else 1, key))
        record(trial.path, nonce, Handle("slurm:lab", "1_0", key=key, nonce=nonce))
        events = EventWriter(trial.events)
        events.started()
        events.write("finished" if ended else "epoch", evaluations=[], epoch=0)
    runs.sweep("s").sweep_file.write_text("name: s\n")
    assert [w.path.name for w in waste(runs) if w.path.parent.name == "arrays"] == ["a1"]


def test_removing_removes_just_that(runs):
    trial_of(runs, "alone")
    trial_of(runs, "kept")
    sweep_of(runs, "one", "kept")
    for one in waste(runs):
        remove(one, runs)
    assert [t.key for t in runs.trials()] == ["kept"]
    assert list((runs.path / "old").iterdir()) == []
    assert found(runs) == {}

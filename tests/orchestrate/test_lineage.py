"""Trials of another commit are noticed; which commit is at hand is git's own answer."""

import subprocess
import time

import pytest
from written_trials import WrittenTrial, make_sweep

from orchestrate import provenance
from orchestrate.lineage import from_other_commits
from orchestrate.runs import Runs
from orchestrate.tracking import origin


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A repository that stands for the source that runs; call it to commit something new."""
    folder = tmp_path / "source"
    folder.mkdir()
    monkeypatch.setattr(provenance, "running_from", lambda: folder)

    def git(*arguments):
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        done = subprocess.run(
            ("git", *who, *arguments), cwd=folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit():
        git("commit", "--allow-empty", "-m", "another")
        return git("rev-parse", "HEAD")

    git("init")
    commit.folder = folder
    return commit


def test_only_trained_trials_of_another_commit_are_mentioned(tmp_path, source):
    runs = Runs(tmp_path / "runs")
    first = source()
    sweep = make_sweep(runs)
    origin.note(sweep, source.folder, runs.path)
    time.sleep(0.01)  # the trial begins later than its origin is noted, in milliseconds
    trained = WrittenTrial(runs, sweep, "a" * 16).start()
    trained.trained()
    WrittenTrial(runs, sweep, "b" * 16, row=1).start()
    keys = ["a" * 16, "b" * 16]
    assert from_other_commits(runs, keys) == []
    second = source()
    (sentence,) = from_other_commits(runs, keys)
    assert sentence.startswith(f"commit {first[:8]} trained 1 of these trials")
    assert second[:8] in sentence
    assert from_other_commits(runs, keys[1:]) == []

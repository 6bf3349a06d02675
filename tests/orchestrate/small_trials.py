"""Small real trials for tests: digits, a tiny network, an evaluation by PGD."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from evaluation.spec import EvaluationSpec
from orchestrate.runs import Runs, TrialDir, write_whole
from training.spec import TrialSpec

PGD = EvaluationSpec(attacks=("pgd",), images=50, pgd_steps=3, batch_size=25)
QUIET = os.environ | {"OMP_NUM_THREADS": "1"}


def spec_of(**changes: Any) -> TrialSpec:
    """A resolved spec; ``epochs`` and other sections by name."""
    from training.resolve import resolve

    facts: dict[str, Any] = {
        "method": {"name": "pgd-at"},
        "data": {"name": "digits", "train_size": 400, "test_size": 100},
        "model": {"name": "mlp"},
        "train": {"epochs": changes.pop("epochs", 2), "batch_size": 64},
        "attack": {"eps": 0.1, "steps": 2},
    }
    return resolve(TrialSpec.model_validate(facts | changes))


def planned(runs: Runs, spec: TrialSpec, *evaluations: EvaluationSpec) -> TrialDir:
    """The trial's directory as a driver leaves it."""
    from training.data import digest

    trial = runs.trial(spec.key(digest(spec.data)))
    trial.create(spec)
    for evaluation in evaluations:
        file = trial.evaluation_file(evaluation.digest(spec.attack))
        write_whole(file, yaml.safe_dump(evaluation.model_dump(mode="json")))
    return trial


def wanted(trial: TrialDir) -> list[str]:
    """Digests of the evaluations in a trial's directory."""
    return sorted(file.stem for file in (trial.path / "evaluations").glob("*.yaml"))


def start(trial: TrialDir, *options: str) -> "subprocess.Popen[str]":
    """The process that trains, as the local cluster would start it."""
    command = [sys.executable, "-m", "orchestrate.trial", str(trial.path), "--device", "cpu", *options]
    if wanted(trial):
        command += ["--eval", *wanted(trial)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=QUIET)


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for something; AssertionError when it takes too long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def runs_in(folder: Path) -> Runs:
    return Runs(folder / "runs")

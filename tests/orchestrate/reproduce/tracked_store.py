"""A tracking store with one real sweep in it: a standard network, and HAT that needs it; and nothing else of RUNS."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from orchestrate import ledger, provenance, relay, sweep_file, trial
from orchestrate.estimate import unique
from orchestrate.plan import Planner, all_of
from orchestrate.runs import Runs, write_whole
from orchestrate.tracking import origin
from training.data import load
from training.spec import DataSpec

KEPT = ("mlflow.db", "mlartifacts", "identity")


def write_images(file: Path, changed: bool = False) -> None:
    """300 digits to train on and 60 for testing; ``changed``: one pixel is another."""
    digits = load(DataSpec(name="digits", train_size=300, test_size=60))
    arrays = {
        f"{part}_{name}": getattr(getattr(digits, part), name).numpy().copy()
        for part in ("train", "test")
        for name in ("images", "labels")
    }
    arrays["train_images"][7, 0, 3, 3] ^= changed
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)


def sweep_of(images: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "base": {
            "data": {"name": "npz", "root": str(images)},
            "model": {"name": "mlp"},
            "train": {"epochs": 3, "batch_size": 64},
            "attack": {"eps": 0.1, "steps": 2},
        },
        "trials": [{"method": {"name": "hat", "beta": 2.5, "gamma": 0.5}}],
        "evaluate": {
            "attacks": ["pgd"],
            "images": 50,
            "pgd_steps": 3,
            "also": [{"attacks": ["apgd-ce"], "images": 20}],
        },
        "resources": {"cpus": 1, "gpus": 0},
    }


def make(runs: Runs, images: Path) -> None:
    """Run the sweep as its driver would, but for Ray; track it; and throw away all but the store."""
    sweep = sweep_file.build(sweep_of(images), "a test", [])
    planner = Planner(sweep, runs)
    folder = runs.sweep("tiny")
    write_whole(folder.sweep_file, yaml.safe_dump(sweep.dump() | {"import": {}}))
    origin.note(folder, provenance.running_from(), runs.path)
    for number, wanted in enumerate(unique(all_of(sweep, planner))):
        place = runs.trial(wanted.key)
        place.create(wanted.spec)
        for digest, evaluation in wanted.evaluations.items():
            write_whole(place.evaluation_file(digest), yaml.safe_dump(evaluation.model_dump(mode="json")))
        evaluations = tuple(wanted.evaluations)
        row = ledger.Row(
            number,
            wanted.key,
            wanted.config,
            role="trial" if evaluations else "helper",
            evaluations=list(evaluations),
            label=wanted.label,
        )
        ledger.append(folder.ledger_file, row)
        with _signals_kept():
            assert trial.run(place, trial.Settings(evaluations, "cpu")) == trial.FINISHED
        ledger.close(folder.ledger_file, number, "finished")
    assert relay.main([str(runs.path), "tiny", "--once"]) == 0
    for path in runs.path.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """A trial is made for a process of its own, and takes its signals."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Database:
    """MLflow's own database, read and altered beside MLflow."""

    def __init__(self, runs: Runs) -> None:
        self.file = runs.path / "mlflow.db"

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.file, timeout=30)) as connection, connection:
            return connection.execute(query, values).fetchall()

    def run(self, role: str) -> str:
        [(run,)] = self.ask("SELECT run_uuid FROM tags WHERE key = 'parapet.role' AND value = ?", role)
        return str(run)

    def parent(self) -> str:
        [(run,)] = self.ask("SELECT run_uuid FROM tags WHERE key = 'parapet.sweep'")
        return str(run)

    def tags(self, run: str) -> dict[str, str]:
        return dict(self.ask("SELECT key, value FROM tags WHERE run_uuid = ?", run))

    def reproductions(self) -> int:
        return len(self.ask("SELECT run_uuid FROM tags WHERE key = 'parapet.reproduces'"))

    def points(self, run: str) -> list[tuple[str, int, float]]:
        query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step"
        return self.ask(query, run)

    def artifacts(self, run: str) -> Path:
        [(uri,)] = self.ask("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run)
        return Path(str(uri).removeprefix("file://"))

    @contextlib.contextmanager
    def altered(self, run: str, metric: str, step: int, factor: float) -> Iterator[None]:
        """One point is another one meanwhile."""
        where = "WHERE run_uuid = ? AND key = ? AND step = ?"
        [(value,)] = self.ask(f"SELECT value FROM metrics {where}", run, metric, step)
        self.ask(f"UPDATE metrics SET value = ? {where}", value * factor, run, metric, step)
        try:
            yield
        finally:
            self.ask(f"UPDATE metrics SET value = ? {where}", value, run, metric, step)


@contextlib.contextmanager
def instead(file: Path, content: bytes | None) -> Iterator[None]:
    """A file has other contents meanwhile; None: it is not there."""
    before = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)

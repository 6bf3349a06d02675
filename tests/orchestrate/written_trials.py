"""Trials that never trained: what a real one would have written, for tests of those who read it."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import yaml

from orchestrate import ledger
from orchestrate.events import EventWriter
from orchestrate.locks import Lock
from orchestrate.runs import Runs, SweepDir, TrialDir
from training.spec import TrialSpec

SPEC: dict[str, Any] = {
    "method": {"name": "trades", "beta": 3.0, "with": {"awp": {"radius": 0.005}}},
    "data": {"name": "digits", "root": "/somewhere"},
    "model": {"name": "small-cnn", "width": 16},
    "train": {"epochs": 3},
    "attack": {"eps": "8/255"},
    "seed": 1,
    "helpers": {"standard": {"key": "feedbeeffeedbeef"}},
}


def make_sweep(runs: Runs, name: str = "digits", project: str = "parapet") -> SweepDir:
    sweep = runs.sweep(name)
    sweep.path.mkdir(parents=True)
    base = {name: SPEC[name] for name in ("data", "model", "attack")}
    trials = [{"method": {"name": "trades", "beta": {"grid": [1, 3]}}}]
    sweep.sweep_file.write_text(
        yaml.safe_dump({"name": name, "project": project, "base": base, "trials": trials})
    )
    return sweep


class WrittenTrial:
    """A trial whose process is this one: ``start``, ``epoch``, ... write what a real one writes."""

    def __init__(self, runs: Runs, sweep: SweepDir, key: str, row: int = 0, **facts: Any) -> None:
        self.dir: TrialDir = runs.trial(key)
        self.dir.create(TrialSpec.model_validate(SPEC))
        self.sweep, self.row = sweep, row
        facts = {"label": "trades beta=3", "formula": "CE(clean) + 3*KL(adv to clean)"} | facts
        ledger.append(sweep.ledger_file, ledger.Row(row, key, evaluations=["e1"], **facts))
        self.lock: Lock | None = None

    def start(self, **facts: Any) -> WrittenTrial:
        self.lock = Lock(self.dir.lock_file)
        self.lock.acquire()
        self.events = EventWriter(self.dir.events)
        versions = {"torch": "2.13.0", "python": "3.11.7"}
        self.events.started(pid=os.getpid(), host="node1", device="cpu", resumes_at=[0, 0], versions=versions)
        self.dir.logs.mkdir(exist_ok=True)
        (self.dir.logs / f"{self.events.attempt}.txt").write_text(f"attempt {self.events.attempt} printed\n")
        return self

    def epoch(self, n: int, **metrics: float) -> None:
        facts = {"loss": 1.0 / (n + 1), "loss/KL.adv.clean": 0.5, "val/clean": 0.8, "val/robust": 0.1 * n}
        self.events.write("epoch", epoch=n, step=10 * n, metrics=facts | metrics, best=True)

    def trained(self, epochs: int = 3) -> None:
        for name in ("best.pt", "last.pt"):
            self.dir.checkpoints.mkdir(exist_ok=True)
            (self.dir.checkpoints / name).write_bytes(name.encode() * 50)
        metrics = {"val/clean": 0.8, "val/robust": 0.2}
        self.events.write("trained", epochs=epochs, best_epoch=epochs - 1, metrics=metrics, seconds=1.0)

    def evaluated(self, evaluation: str = "e1", checkpoint: str = "best", **metrics: float) -> None:
        self.dir.outcomes.mkdir(exist_ok=True)
        self.dir.outcome_file(evaluation).write_bytes(b"PAR1")
        facts = {"clean": 0.9, "robust": 0.4, "apgd-ce": 0.45} | metrics
        self.events.write(
            "evaluated", evaluation=evaluation, checkpoint=checkpoint, metrics=facts, seconds=2.0
        )

    def end(self, event: str = "finished", **facts: Any) -> None:
        self.events.write(event, **({"evaluations": ["e1"]} if event == "finished" else facts))
        self.vanish()

    def vanish(self) -> None:
        """The process is gone, without a word."""
        assert self.lock is not None
        self.lock.release()
        self.lock = None

    def close(self, state: str, reason: str = "") -> None:
        ledger.close(self.sweep.ledger_file, self.row, state, reason)

    def whole(self, epochs: int = 3) -> WrittenTrial:
        """All of a trial that goes well."""
        self.start()
        for n in range(epochs):
            self.epoch(n)
        self.trained(epochs)
        self.evaluated()
        self.end()
        self.close("finished")
        return self


class Tracked:
    """What MLflow's own database holds, read beside MLflow."""

    def __init__(self, runs: Runs) -> None:
        self.file = runs.path / "mlflow.db"

    def ask(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.file, timeout=30)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def runs_of(self, key: str) -> list[str]:
        query = "SELECT run_uuid FROM tags WHERE key = 'parapet.key' AND value = ?"
        return [run for (run,) in self.ask(query, key)]

    def run_of(self, key: str) -> str:
        [run] = self.runs_of(key)
        return run

    def status(self, key: str) -> str:
        [(status,)] = self.ask("SELECT status FROM runs WHERE run_uuid = ?", self.run_of(key))
        return str(status)

    def tags(self, run: str) -> dict[str, str]:
        return dict(self.ask("SELECT key, value FROM tags WHERE run_uuid = ?", run))

    def parameters(self, run: str) -> dict[str, str]:
        return dict(self.ask("SELECT key, value FROM params WHERE run_uuid = ?", run))

    def points(self, key: str) -> list[tuple[str, int, float, int]]:
        query = "SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = ? ORDER BY key, step"
        return self.ask(query, self.run_of(key))

    def artifacts(self, key: str) -> dict[str, bytes]:
        [(uri,)] = self.ask("SELECT artifact_uri FROM runs WHERE run_uuid = ?", self.run_of(key))
        root = Path(uri.removeprefix("file://"))
        return {
            file.relative_to(root).as_posix(): file.read_bytes()
            for file in sorted(root.rglob("*"))
            if file.is_file()
        }


def expected_points(trial: TrialDir) -> list[tuple[str, int, float, int]]:
    """Every metric of a trial with one attempt per event, read from its files as plainly as possible."""
    points, ran = [], 0.0
    files = sorted(trial.events.glob("*.jsonl"))
    for number, file in enumerate(files, start=1):
        events = [json.loads(line) for line in file.read_text().splitlines()]
        ran += (events[-1]["t"] - events[0]["t"]) / 1000
        if number < len(files) or events[-1]["event"] in ("finished", "stopped", "failed"):
            cost = {"queue_seconds": 0.0, "run_seconds": ran, "gpu_hours": 0.0}
            points += [(f"time/{name}", number, value, events[-1]["t"]) for name, value in cost.items()]
        for event in events:
            step = event.get("epoch", event.get("best_epoch", 0))
            prefix = "best/" if event["event"] == "trained" else ""
            if event["event"] in ("epoch", "trained", "evaluated"):
                points += [(prefix + n, step, v, event["t"]) for n, v in event["metrics"].items()]
    return sorted(points)

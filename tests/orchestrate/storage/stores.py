"""A store in memory, which can be made to fail; a trial that is written by hand; nodes, which are folders."""

import hashlib
import json
import secrets
from pathlib import Path

import fsspec

from orchestrate.events import story
from orchestrate.runs import Runs, TrialDir
from orchestrate.storage.place import Place, Unreachable

KEY = "0123456789abcdef"
BASE = f"trials/{KEY}"


class Store(Place):
    """Fails with every call once ``left`` writes were made (None: never)."""

    def __init__(self, left: int | None = None, prefix: str = "") -> None:
        super().__init__(fsspec.filesystem("memory"), prefix or f"/{secrets.token_hex(6)}")
        self.left = left
        self.written: list[str] = []

    def again(self, left: int | None = None) -> "Store":
        """The same objects, from another node."""
        return Store(left, self.prefix)

    def write(self, path: str, content: bytes, create: bool = False) -> None:
        self._count(path)
        super().write(path, content, create)

    def send(self, file: Path, path: str) -> None:
        self._count(path)
        super().send(file, path)

    def remove(self, paths: list[str]) -> None:
        for path in paths:
            self._count(f"-{path}")
            super().remove([path])

    def listed(self, below: str = "") -> dict[str, str]:
        if self.left == 0:
            raise Unreachable("gone")
        return super().listed(below)

    def _count(self, path: str) -> None:
        if self.left == 0:
            raise Unreachable("gone")
        self.left = None if self.left is None else self.left - 1
        self.written.append(path)


def planned(store: Place) -> None:
    """A trial as its driver leaves it in the store."""
    store.write(f"{BASE}/spec.yaml", b"spec")
    store.write(f"{BASE}/born", secrets.token_hex(4).encode())


def node(folder: Path, name: str = "node") -> TrialDir:
    """The trial's directory on a node."""
    trial = Runs(folder / name).trial(KEY)
    trial.path.mkdir(parents=True, exist_ok=True)
    return trial


class Training:
    """What a training leaves in its directory, step by step: ``checkpoint`` holds the epochs that are done."""

    def __init__(self, trial: TrialDir) -> None:
        told = story(trial.events)
        self.trial, self.told = trial, told
        trial.events.mkdir(exist_ok=True)
        trial.checkpoints.mkdir(exist_ok=True)
        trial.outcomes.mkdir(exist_ok=True)
        last = trial.checkpoints / "last.pt"
        self.epoch = json.loads(last.read_text())["epoch"] if last.exists() else 0
        self.attempt = told.attempt + 1
        before = trial.events / f"{told.attempt}.jsonl"
        lines = before.read_bytes().count(b"\n") if told.attempt else 0
        self.say("started", attempt=self.attempt, previous_lines=lines)

    def say(self, event: str, **facts: object) -> None:
        with (self.trial.events / f"{self.attempt}.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "t": 1} | facts) + "\n")

    def train(self, save: bool = True) -> None:
        """One epoch."""
        self.say("epoch", epoch=self.epoch, metrics={})
        self.epoch += 1
        if save:
            self.save()

    def save(self) -> None:
        last = self.trial.checkpoints / "last.pt"
        if last.exists():
            last.replace(self.trial.checkpoints / "previous.pt")
        draft = self.trial.checkpoints / ".draft"
        draft.write_text(json.dumps({"epoch": self.epoch}))
        draft.replace(last)

    def end(self) -> None:
        """The training is over; then an evaluation."""
        if self.told.trained is None:
            self.save()
            self.say("trained", epochs=self.epoch, metrics={})

    def evaluate(self) -> None:
        (self.trial.outcomes / "e.parquet").write_text("verdicts")
        self.say("evaluated", evaluation="e", metrics={})


def assert_sound(trial: TrialDir, epochs: int) -> None:
    """Nothing that a node finds says more than is there."""
    told = story(trial.events)
    file = trial.checkpoints / "last.pt"
    done = json.loads(file.read_text())["epoch"] if file.exists() else 0
    said = [event["epoch"] for event in told.epochs]
    assert said[:done] == list(range(done)), "an epoch before the checkpoint would never be told"
    if told.trained is not None:
        assert done == epochs, "it would not be trained any further"
    if "e" in told.evaluated:
        assert (trial.outcomes / "e.parquet").exists(), "it would not be evaluated again"


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

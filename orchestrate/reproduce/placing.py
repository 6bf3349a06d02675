"""The trial in a RUNS of its own: spec, imported files, evaluations, and the networks that it began from.

Specs are plain data here: what they mean is the business of the source that was logged, not of the parapet that
reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrate.reproduce.fetch import Original, Store
from orchestrate.runs import Runs, TrialDir, parse_yaml, write_whole
from training.data.raw import ROOT_VARIABLE
from training.errors import UserError

KEY_LENGTH = 16


@dataclass
class Placed:
    """What was put in place.

    Args:
        spec: of the trial, as it will be trained.
        evaluations: their digests, the one that its sweep went by first.
        helpers: keys of networks that have to be trained first, in their order.
        told: a sentence per network and file, by what it is about.
    """

    spec: dict[str, Any]
    evaluations: list[str] = field(default_factory=list)
    helpers: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)


class Placing:
    """Puts a trial of ``store`` into ``runs``.

    Args:
        scratch: for downloads.
        data_root: where the images lie on this machine; None: where they lay then, or PARAPET_DATA.
        train_helpers: train the networks that it needs, also where the store has them.
    """

    def __init__(
        self, store: Store, runs: Runs, scratch: Path, data_root: Path | None, train_helpers: bool
    ) -> None:
        self.store, self.runs, self.scratch = store, runs, scratch
        self.data_root, self.train_helpers = data_root, train_helpers
        self.told: dict[str, str] = {}
        self.helpers: list[str] = []

    def place(self, original: Original) -> Placed:
        """Do so. Raises UserError naming what the store lacks and cannot be done without."""
        spec = self._spec(original.run, original.key, original.experiment)
        evaluations = self._evaluations(original, self.runs.trial(original.key))
        return Placed(spec, evaluations, self.helpers, self.told)

    def _spec(self, run: str, key: str, experiment: str, trained: bool = False) -> dict[str, Any]:
        """Write the spec of a run's trial, and see to everything that it names (``trained``: but for networks)."""
        text = self.store.text(run, "spec.yaml", self.scratch / run)
        spec = parse_yaml(text, f"spec.yaml of run {run}") if text else None
        if not isinstance(spec, dict) or not isinstance(spec.get("data"), dict):
            raise UserError(f"run {run}: has no spec.yaml in the store, so there is nothing to train by")
        self._find_data(spec["data"])
        for name, digest in (spec.get("imports") or {}).items():
            self._import(run, name, digest)
        for name, place in ({} if trained else spec.get("helpers") or {}).items():
            if "key" in place:
                self._helper(name, place["key"], experiment)
            else:
                spec["helpers"][name] = self._file(run, name, place)
        write_whole(self.runs.trial(_name(key)).spec_file, yaml.safe_dump(spec, sort_keys=False))
        return spec

    def _find_data(self, data: dict[str, Any]) -> None:
        """Say where the images lie here; whether they are the same ones is seen later, by their digest."""
        here = os.environ.get(ROOT_VARIABLE)
        if self.data_root is not None:
            data["root"] = str(self.data_root)
        elif here and not (data.get("root") and Path(data["root"]).exists()):
            data["root"] = str(Path(here).expanduser().absolute())
        extra = data.get("extra")
        if extra and data.get("root") and not Path(extra["path"]).exists():
            extra["path"] = str(Path(data["root"]) / Path(extra["path"]).name)

    def _import(self, run: str, name: str, digest: str) -> None:
        """A user's own file, as it was."""
        file = self.store.fetch(run, f"imports/{_name(name)}", self.scratch / run / "imports")
        if file is None or _digest(file) != digest:
            wrong = "is not in the store" if file is None else "is not in the store as it was"
            raise UserError(f"run {run}: {name}, a file of its user's own (SHA-256 {digest}), {wrong}")
        write_whole(self.runs.imports / digest / name, file.read_bytes())

    def _helper(self, name: str, key: str, experiment: str) -> None:
        """A trained network that is a trial of its own: its last checkpoint, or the spec to train it by."""
        run = self.store.trained(key, experiment)
        if run is None:
            raise UserError(f"helpers.{name}: the store has no run of trial {key}, which trained it")
        trial = self.runs.trial(_name(key))
        if not self.train_helpers:
            file = self.store.fetch(run, "checkpoints/last.pt", self.scratch / run)
            if file is not None:
                self._put(file, trial.checkpoints / "last.pt")
                self._spec(run, key, experiment, trained=True)
                self.told[f"helper {name}"] = f"the last checkpoint of run {run}"
                return
        self._spec(run, key, experiment)
        if key not in self.helpers:
            self.helpers.append(key)
        self.told[f"helper {name}"] = f"is trained first, as run {run} was"

    def _file(self, run: str, name: str, place: Mapping[str, str]) -> dict[str, str]:
        """A trained network that was given as a file: there, with the run, or with the run that it came from."""
        digest = place["digest"]
        there = Path(place["path"])
        if there.exists() and _digest(there) == digest:
            self.told[f"helper {name}"] = str(there)
            return dict(place)
        others = [(run, f"helpers/{_name(name)}.pt"), (there.parent.name, "checkpoints/last.pt")]
        for other, path in others:
            try:
                file = self.store.fetch(other, path, self.scratch / other / "helpers")
            except UserError:  # no such run: the folder is not named by one
                continue
            if file is not None and _digest(file) == digest:
                copy = self.runs.path / "helpers" / digest[:KEY_LENGTH] / "last.pt"
                self._put(file, copy)
                self.told[f"helper {name}"] = f"{path} of run {other}"
                return dict(place) | {"path": str(copy)}
        raise UserError(f"helpers.{name}: {there} (SHA-256 {digest}) is neither here nor in the store")

    def _evaluations(self, original: Original, trial: TrialDir) -> list[str]:
        """Write the evaluations that the trial's outcomes are of."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found: dict[str, Any] = {}
        for path in self.store.files(original.run, "outcomes"):
            file = self.store.fetch(original.run, path, self.scratch / "outcomes")
            try:
                facts = pq.read_schema(file).metadata or {}
                spec = json.loads(facts[b"spec"])
            except (pa.ArrowException, OSError, ValueError, KeyError):
                self.told[Path(path).name] = "is damaged, so it is left out"
                continue
            found[Path(path).stem] = spec
        for digest, spec in found.items():
            write_whole(trial.evaluation_file(_name(digest)), yaml.safe_dump(spec, sort_keys=False))
        first = [digest for digest in self._wanted(original) if digest in found]
        return [*first, *sorted(found.keys() - set(first))]

    def _wanted(self, original: Original) -> list[str]:
        """The evaluations that its sweep asked for, in their order."""
        text = self.store.text(original.parent, "ledger.jsonl", self.scratch) if original.parent else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row.get("key") == original.key and row.get("evaluations"):
                return [str(digest) for digest in row["evaluations"]]
        return []

    def _put(self, file: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _name(text: str) -> str:
    """A name that the store gives, which is to be a name of ours: never a path that leads elsewhere."""
    if not text or text.startswith(".") or "/" in text or "\\" in text or "\0" in text:
        raise UserError(f"the store names a file '{text}', which is no plain name")
    return text


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

"""One trial's directory on a node, and its objects: brought here before its job begins, carried up while it runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrate.events import attempts
from orchestrate.runs import TrialDir
from orchestrate.storage.place import Place

NAMES = ("last.pt", "previous.pt", "best.pt")
PROMISES = (b'"trained"', b'"evaluated"', b'"finished"')  # events that say that something is there now
SHARE = 10  # carrying up checkpoints takes one part of the time in so many

Manifest = dict[str, dict[str, str]]  # file -> {"object": its name, "sha256": its digest}


class Overtaken(RuntimeError):
    """Somebody else has begun the attempt that this process is at: it must end, and write no more."""


@dataclass(frozen=True)
class _Snapshot:
    """A checkpoint as it is now, under a name that nobody changes."""

    name: str
    file: Path
    version: tuple[int, ...]


class TrialMirror:
    """See the module. Its methods raise Unreachable; ``push`` Overtaken.

    Args:
        mine: is the trial's lease still this process's? Asked before anything is removed.
    """

    def __init__(self, place: Place, trial: TrialDir, mine: Callable[[], bool] = lambda: True) -> None:
        self.place, self.trial, self.mine = place, trial, mine
        self.base = f"trials/{trial.key}"
        self.attempt = 0  # the one whose objects this process writes
        self._manifest: Manifest = {}
        self._versions: dict[str, tuple[int, ...]] = {}  # of files as they were carried up
        self._pushed = 0  # bytes of the attempt's events that are there, and all that they promise
        self._sent = b""  # the events as they were carried up last
        self._not_before = 0.0

    def refresh(self) -> dict[str, str]:
        """Bring here what is small, unless what lies here is further on; returns what there is in the store."""
        there = self.place.listed(self.base)
        wanted: tuple[str, ...] = ("spec.yaml", "evaluations/")
        if not self._ahead(there):
            for folder in (self.trial.events, self.trial.outcomes):
                shutil.rmtree(folder, ignore_errors=True)
            self._ran_here.unlink(missing_ok=True)
            wanted = (*wanted, "events/", "outcomes/", "born")
        for path in there:
            if path.removeprefix(f"{self.base}/").startswith(wanted):
                self.place.fetch(path, self._local(path))
        return there

    def adopt(self) -> None:
        """Make the directory what the store says; but one that is only further on goes up first."""
        there = self.place.listed(self.base)
        if self._ahead(there):
            self.refresh()
            self._manifest = read_manifest(self.place, self.base, there)
            self._catch_up(there)
        else:
            there = self.refresh()
            self._manifest = fetch_checkpoints(self.place, self.trial, there)
            self._versions = {n: _version(f) for n in NAMES if (f := self.trial.checkpoints / n).exists()}
        self.attempt = max(attempts(self.trial.events), default=0) + 1
        self._ran_here.write_text(str(self.attempt))
        self._send_checkpoints(self._snapshots())
        self._write_manifest()  # from now on what an earlier attempt may still write counts no more

    def push(self, final: bool = False) -> None:
        """Carry up what is new; with ``final`` all of it, and remove what no attempt needs any more."""
        due = final or time.monotonic() >= self._not_before
        backed = len(self._events())
        shots = self._snapshots() if due else []
        outcomes = self._changed(self.trial.outcomes)
        self._send_events(self._events(), self._pushed)  # a checkpoint needs the events before it
        self._send_files(outcomes)
        self._send_checkpoints(shots)
        if due:
            self._send_events(self._events(), backed)
            self._pushed = max(self._pushed, backed)
        self._send_files(self._changed(self.trial.logs))
        if final and self.mine():
            kept = {f"{self.base}/checkpoints/{self.attempt}.json"} | self._objects()
            self.place.remove([p for p in self.place.listed(f"{self.base}/checkpoints") if p not in kept])

    def _ahead(self, there: dict[str, str]) -> bool:
        """Is what lies here what the store has, and perhaps more, which was written here and not carried up?"""
        here = attempts(self.trial.events)
        known = _attempts_in(there, self.base)
        ran = self._ran_here.read_text() if self._ran_here.exists() else ""
        if not here or ran != str(here[-1]) or (known and known[-1] > here[-1]) or not self._same_birth():
            return False
        files = {n: self.trial.events / f"{n}.jsonl" for n in known}
        return all(
            file.exists() and file.read_bytes().startswith(self.place.read(f"{self.base}/events/{file.name}"))
            for file in files.values()
        )

    @property
    def _ran_here(self) -> Path:
        """Names the last attempt that ran on this node: events alone may have been brought here."""
        return self.trial.path / "ran-here"

    def _same_birth(self) -> bool:
        """Is it the same trial still, not one that was thrown away and planned anew?"""
        try:
            return (self.trial.path / "born").read_bytes() == self.place.read(f"{self.base}/born")
        except FileNotFoundError:
            return False

    def _catch_up(self, there: dict[str, str]) -> None:
        """Carry up what attempts that ended here have left: the store did not answer, or there was no time."""
        known = _attempts_in(there, self.base)
        for n in attempts(self.trial.events):
            self.attempt, self._sent, self._pushed = n, b"", 0
            if n in known:
                self._sent = self.place.read(f"{self.base}/events/{n}.jsonl")
            if len(self._sent) < len(self._events()):
                self.push(final=True)
        self._sent, self._pushed = b"", 0

    def _events(self) -> bytes:
        """The complete lines of this attempt so far."""
        try:
            content = (self.trial.events / f"{self.attempt}.jsonl").read_bytes()
        except FileNotFoundError:
            return b""
        return content[: content.rfind(b"\n") + 1]

    def _send_events(self, events: bytes, backed: int) -> None:
        """Carry up events; of those after the first ``backed`` bytes only what promises nothing."""
        end = backed
        for line in events[backed:].splitlines(keepends=True):
            if any(word in line[:40] for word in PROMISES):
                break
            end += len(line)
        content = events[:end]
        if len(content) <= len(self._sent):
            return
        path = f"{self.base}/events/{self.attempt}.jsonl"
        try:
            self.place.write(path, content, create=not self._sent)
        except FileExistsError:
            if not content.startswith(self.place.read(path)):  # else it was us, and the answer was lost
                raise Overtaken(f"attempt {self.attempt} of {self.trial.key} was begun elsewhere") from None
            self.place.write(path, content)
        self._sent = content

    def _snapshots(self) -> list[_Snapshot]:
        """The checkpoints that changed, held fast."""
        found = []
        drafts = self.trial.path / ".carried"
        drafts.mkdir(exist_ok=True)
        for name in NAMES:
            draft = drafts / name
            draft.unlink(missing_ok=True)
            try:
                os.link(self.trial.checkpoints / name, draft)
            except FileNotFoundError:
                continue
            if _version(draft) != self._versions.get(name):
                found.append(_Snapshot(name, draft, _version(draft)))
            else:
                draft.unlink()
        return found

    def _send_checkpoints(self, shots: list[_Snapshot]) -> None:
        """Checkpoints first, then the word that they are there."""
        if not shots:
            return
        began = time.monotonic()
        known = {entry["sha256"]: entry for entry in self._manifest.values()}
        manifest = dict(self._manifest)
        for shot in shots:
            digest = digest_of(shot.file)
            if digest not in known:
                known[digest] = {"object": f"{self.attempt}-{digest[:24]}.pt", "sha256": digest}
                self.place.send(shot.file, f"{self.base}/checkpoints/{known[digest]['object']}")
            manifest[shot.name] = known[digest]
        old, self._manifest = self._objects(), manifest
        self._write_manifest()
        self._versions |= {shot.name: shot.version for shot in shots}
        for shot in shots:
            shot.file.unlink(missing_ok=True)
        own = f"{self.base}/checkpoints/{self.attempt}-"
        gone = [path for path in old - self._objects() if path.startswith(own)]
        if gone and self.mine():
            self.place.remove(gone)
        self._not_before = time.monotonic() + SHARE * (time.monotonic() - began)

    def _write_manifest(self) -> None:
        if self._manifest:
            content = json.dumps(self._manifest).encode()
            self.place.write(f"{self.base}/checkpoints/{self.attempt}.json", content)

    def _objects(self) -> set[str]:
        return {f"{self.base}/checkpoints/{entry['object']}" for entry in self._manifest.values()}

    def _changed(self, folder: Path) -> list[Path]:
        files = [f for f in sorted(folder.glob("*")) if f.is_file() and not f.name.startswith(".")]
        return [f for f in files if self._versions.get(f"{folder.name}/{f.name}") != _version(f)]

    def _send_files(self, files: list[Path]) -> None:
        for file in files:
            try:
                version = _version(file)
                self.place.write(f"{self.base}/{file.parent.name}/{file.name}", file.read_bytes())
            except FileNotFoundError:  # a finished evaluation has removed its progress
                continue
            self._versions[f"{file.parent.name}/{file.name}"] = version

    def _local(self, path: str) -> Path:
        return self.trial.path / path.removeprefix(f"{self.base}/")


def _attempts_in(there: dict[str, str], base: str) -> list[int]:
    names = [path.removeprefix(f"{base}/events/") for path in there if path.startswith(f"{base}/events/")]
    return sorted(int(name.removesuffix(".jsonl")) for name in names if name[:-6].isdigit())


def read_manifest(place: Place, base: str, there: dict[str, str]) -> Manifest:
    """Which objects are a trial's checkpoints: what its last attempt says that can be read."""
    names = [path.removeprefix(f"{base}/checkpoints/") for path in there]
    for n in sorted((int(n[:-5]) for n in names if n.endswith(".json") and n[:-5].isdigit()), reverse=True):
        try:
            manifest: Manifest = json.loads(place.read(f"{base}/checkpoints/{n}.json"))
            return manifest
        except (ValueError, FileNotFoundError):  # half of it is there, or it was replaced this moment
            continue
    return {}


def fetch_checkpoints(
    place: Place, trial: TrialDir, there: dict[str, str], names: tuple[str, ...] = NAMES
) -> Manifest:
    """Bring a trial's checkpoints here; returns those that are whole. Others that lie here are removed."""
    base = f"trials/{trial.key}"
    whole: Manifest = {}
    for name in names:
        file = trial.checkpoints / name
        entry = read_manifest(place, base, there).get(name) if name not in whole else None
        if entry and file.exists() and digest_of(file) == entry["sha256"]:
            whole[name] = entry
            continue
        try:
            if entry is None:
                raise FileNotFoundError
            place.fetch(f"{base}/checkpoints/{entry['object']}", file)
        except FileNotFoundError:
            file.unlink(missing_ok=True)
            continue
        if digest_of(file) == entry["sha256"]:
            whole[name] = entry
        else:  # the trial goes on from the one before
            file.unlink()
    return whole


def digest_of(file: Path) -> str:
    """SHA-256 of a file's contents."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _version(file: Path) -> tuple[int, ...]:
    now = file.stat()
    return now.st_ino, now.st_mtime_ns, now.st_size

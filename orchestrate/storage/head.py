"""The head's side of RUNS on an object store: a local copy of what is small, for commands, the driver and its relay."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from orchestrate import ledger
from orchestrate.events import story
from orchestrate.locks import Watch
from orchestrate.runs import Runs, TrialDir, write_whole
from orchestrate.storage import MARK, local_folder
from orchestrate.storage.lease import STILL_S, Lease
from orchestrate.storage.place import Denied, Place, Unreachable
from orchestrate.storage.trial_mirror import fetch_checkpoints
from training.errors import UserError

EVERY_S = 3.0
LONGEST_S = 30.0
INDEX = "object-store.json"  # what of it is here already, and in which version
SMALL = ("spec.yaml", "born", "evaluations", "events", "outcomes", "log")  # of a trial
STOPPING_S = 90.0  # for what was asked to end
SAVING_S = 120.0  # for a sweep's last files to go up


_PULLING = threading.Lock()  # a driver's threads, and a relay's, share their drafts' names


class Head:
    """The local copy. Methods raise Unreachable where they do not try again by themselves."""

    def __init__(self, runs: Runs, place: Place | None = None) -> None:
        assert runs.url
        self.runs, self.place = runs, place or Place.open(runs.url)
        self._sent: dict[Path, tuple[int, int]] = {}

    @classmethod
    def open(cls, url: str) -> Head:
        """Check the store and make the local copy. Raises UserError."""
        if url.partition("://")[0] in ("file", "local", "memory"):
            raise UserError(f"--runs: {url} is no object store; a shared folder is given by its path")
        if not url.partition("://")[2].strip("/"):
            raise UserError(f"--runs: {url} names no bucket, like s3://BUCKET/PREFIX")
        place = Place.open(url)
        runs = Runs(local_folder(url, "runs"))
        runs.path.mkdir(parents=True, exist_ok=True)
        write_whole(runs.path / MARK, url.rstrip("/"))
        head = cls(runs, place)
        try:
            with place_in_words(url):
                place.check()
                head.pull()
                head._same_identity()
        except Unreachable as error:
            raise UserError(f"--runs: {url} cannot be used: {error}") from None
        return head

    def pull(self, keys: Iterable[str] | None = None) -> None:
        """Bring here what is small of everything; or of these trials, and their best networks when they are trained."""
        with _PULLING:
            self._pull(keys)

    def _pull(self, keys: Iterable[str] | None) -> None:
        index = self._index()
        before = dict(index)
        for below in ("",) if keys is None else [f"trials/{key}" for key in keys]:
            there = self.place.listed(below)
            news = [path for path in there if self._wanted(path) and index.get(path) != there[path]]
            for path in sorted(news, key=lambda path: "/events/" in path):  # they speak of the others
                with contextlib.suppress(FileNotFoundError):  # removed this moment
                    self._bring(path, keys is not None)
                    index[path] = there[path]
        if index != before:
            write_whole(self.runs.path / INDEX, json.dumps(self._index() | index))

    def bring_best(self, keys: Iterable[str]) -> None:
        """Bring here the best networks of trials that were trained when the head was another machine."""
        for trial in map(self.runs.trial, keys):
            known = (trial.checkpoints / "best.pt").exists() or not trial.events.is_dir()
            if not known and story(trial.events).trained is not None:
                self._bring_best(trial)

    def pull_checkpoints(self, trial: TrialDir) -> None:
        """Bring a trial's checkpoints here."""
        fetch_checkpoints(self.place, trial, self.place.listed(f"trials/{trial.key}"))

    def push_trial(self, trial: TrialDir) -> None:
        """What is planned of a trial: its spec, its evaluations and the files that it imports."""
        with contextlib.suppress(FileExistsError):
            self.place.write(f"trials/{trial.key}/born", secrets.token_hex(8).encode(), create=True)
        spec = trial.spec()
        files = [trial.spec_file, *sorted((trial.path / "evaluations").glob("*.yaml"))]
        files += [self.runs.imports / digest / name for name, digest in spec.imports.items()]
        self._push(files)

    def push_outcome(self, trial: TrialDir, digest: str) -> None:
        """An evaluation that was made here."""
        self._push([trial.evaluation_file(digest), trial.outcome_file(digest)])

    def push_sweep(self, name: str) -> None:
        """The sweep's file, ledger, origins and report."""
        folder = self.runs.sweep(name)
        found = [f for f in sorted(folder.path.rglob("*")) if f.is_file() and not f.name.startswith(".")]
        self._push([f for f in found if f.name not in ("live.lock", "stop", "relay.log")])

    def plan(self, sweep: str, key: str) -> None:
        """Before a trial is submitted: all that its job needs, and what the sweep needs to be gone on with."""

        def push() -> None:
            self.push_trial(self.runs.trial(key))
            self.push_sweep(sweep)

        self.patiently(push, self.runs.sweep(sweep).stop_file.exists)

    def save(self, sweep: str) -> None:
        """At the end of a sweep: its files, and no request to end any more."""

        def push() -> None:
            self.push_sweep(sweep)
            self.place.remove([f"sweeps/{sweep}/stop"])

        end = time.monotonic() + SAVING_S
        if not self.patiently(push, lambda: time.monotonic() > end):
            print(
                f"{sweep}: not all of {self.runs.sweep(sweep).path} went up; --resume brings it",
                file=sys.stderr,
            )

    def call_off(self, sweep: str) -> None:
        """Ask all jobs of a sweep on other nodes to end; the caller does not wait long for the store."""

        def ask() -> None:
            with contextlib.suppress(Unreachable):
                self.ask_to_stop(f"sweeps/{sweep}", "stopped")

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(2.0)

    def patiently(self, what: Callable[[], None], give_up: Callable[[], bool] = lambda: False) -> bool:
        """Try until it works, less and less often; False when it is to be given up."""
        pause = 1.0
        while True:
            try:
                what()
                return True
            except Unreachable as error:
                if pause == 1.0:
                    print(f"{self.runs.url}: {error}; trying again", file=sys.stderr, flush=True)
            end = time.monotonic() + pause
            while time.monotonic() < end:
                if give_up():
                    return False
                time.sleep(0.2)
            pause = min(2 * pause, LONGEST_S)

    def ask_to_stop(self, path: str, why: str) -> None:
        """Leave a request to end: ``path`` is ``sweeps/NAME`` or ``trials/KEY``."""
        self.place.write(f"{path}/stop", json.dumps({"why": why}).encode())

    def stop(self, path: str) -> bool:
        """Ask whoever is at it to end, and wait for it. False when nobody is; UserError when it takes too long."""
        lease = Lease(self.place, path)
        if not lease.live():
            return False
        self.ask_to_stop(path, "stopped" if path.startswith("sweeps/") else "cancelled")
        end = time.monotonic() + STOPPING_S
        while lease.live():
            if time.monotonic() > end:
                raise UserError(f"{path}: {lease.holder} is asked to stop and still about to")
            time.sleep(1)
        self.place.remove([f"{path}/stop"])
        return True

    def in_use(self) -> str:
        """Who is at work in the store, in words; empty when nobody is."""
        for path in self.place.listed():
            folder, found, _ = path.partition("/lease/")
            lease = Lease(self.place, folder)
            if found and lease.live():
                return f"{folder} by {lease.holder}"
        return ""

    def remove(self, path: str) -> None:
        """Remove a file, or all of a folder, that was removed here."""
        self.place.remove([p for p in self.place.listed(path) if p == path or p.startswith(f"{path}/")])

    @contextlib.contextmanager
    def holding(self, sweep: str) -> Iterator[None]:
        """Be the only driver of a sweep, on whichever machine. Raises UserError: it has another."""
        lease = Lease(self.place, f"sweeps/{sweep}")
        end = time.monotonic() + STILL_S + 5
        with place_in_words(self.runs.url):
            while not self._take(lease):
                if time.monotonic() > end:
                    raise UserError(
                        f"{self.runs.url}: the sweep is being run already by {lease.holder}"
                        f" (parapet stop {sweep} ends it)"
                    )
                time.sleep(2)
        try:
            self.place.remove([f"sweeps/{sweep}/stop"])  # asked of an earlier driver
            yield
        finally:
            lease.release()

    def _take(self, lease: Lease) -> bool:
        try:
            return lease.take()
        except Denied:
            raise
        except Unreachable as error:
            raise UserError(f"--runs: {self.runs.url} cannot be used: {error}") from None

    @contextlib.contextmanager
    def following(self, sweep: str, keys: Callable[[], Iterable[str]]) -> Iterator[None]:
        """Meanwhile a thread brings here what these trials write, and a request that the sweep end."""
        ended = threading.Event()
        stop_file = self.runs.sweep(sweep).stop_file

        def follow() -> None:
            pause = EVERY_S
            while not ended.wait(pause):
                try:
                    self.pull(list(keys()))
                    if self.place.exists(f"sweeps/{sweep}/stop") and not stop_file.exists():
                        write_whole(stop_file, "")
                    pause = EVERY_S
                except Unreachable as error:
                    if pause == EVERY_S:
                        print(f"{self.runs.url}: {error}; trying again", file=sys.stderr, flush=True)
                    pause = min(2 * pause, LONGEST_S)

        thread = threading.Thread(target=follow, name="object store", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(LONGEST_S)

    def all_trials(self, sweep: str) -> list[str]:
        """Keys of the trials of a sweep."""
        return list(dict.fromkeys(row.key for row in ledger.read(self.runs.sweep(sweep).ledger_file)))

    def open_trials(self, sweep: str) -> list[str]:
        """Keys of the trials of a sweep that have not ended, as its ledger says."""
        rows = ledger.read(self.runs.sweep(sweep).ledger_file)
        return list(dict.fromkeys(row.key for row in rows if row.state == "open"))

    def see_out(self, sweep: str, seconds: float) -> None:
        """Wait for jobs on other nodes, which were asked to end, to carry up their last; bring it here."""
        keys = self.open_trials(sweep)
        leases = [Lease(self.place, f"trials/{key}") for key in keys]
        end = time.monotonic() + seconds
        with contextlib.suppress(Unreachable):
            while any(lease.live() for lease in leases) and time.monotonic() < end:
                time.sleep(1)
            self.pull(keys)

    def _wanted(self, path: str) -> bool:
        top, _, rest = path.partition("/")
        if top == "trials":
            return rest.partition("/")[2].partition("/")[0] in SMALL
        if top == "sweeps":
            name, _, file = rest.partition("/")
            mine = Watch(self.runs.sweep(name).lock_file).held()  # its driver is here: this is the newer one
            return not mine and not file.startswith(("lease/", "stop", "live.lock"))
        return top in ("imports", "identity")

    def _bring(self, path: str, best: bool) -> None:
        file = self.runs.path / path
        if file.suffix != ".jsonl":
            self.place.fetch(path, file)
            return
        content = self.place.read(path)
        if file.exists() and file.read_bytes().startswith(content):  # append-only: the longer one is right
            return
        if best and b'"event": "trained"' in content:
            self._bring_best(TrialDir(file.parents[1]))
        write_whole(file, content)

    def _bring_best(self, trial: TrialDir) -> None:
        fetch_checkpoints(self.place, trial, self.place.listed(f"trials/{trial.key}"), ("best.pt",))

    def _push(self, files: Iterable[Path]) -> None:
        for file in files:
            try:
                now = file.stat()
                if self._sent.get(file) == (now.st_mtime_ns, now.st_size):
                    continue
                self.place.write(file.relative_to(self.runs.path).as_posix(), file.read_bytes())
            except FileNotFoundError:
                continue
            self._sent[file] = (now.st_mtime_ns, now.st_size)

    def _index(self) -> dict[str, str]:
        try:
            index: dict[str, str] = json.loads((self.runs.path / INDEX).read_text())
            return index
        except (FileNotFoundError, ValueError):
            return {}

    def _same_identity(self) -> None:
        """One name for the store on tracking servers, whoever speaks to them."""
        from orchestrate.tracking.database import identity

        with contextlib.suppress(FileExistsError):
            if not self.place.exists("identity"):
                self.place.write("identity", identity(self.runs).encode(), create=True)
                return
        self.place.fetch("identity", self.runs.path / "identity")


def stop(runs: Runs, name: str) -> int:
    """Ask a sweep or a trial to end, wherever it runs; returns the exit code."""
    swept = "/" not in name and runs.sweep(name).sweep_file.exists()
    path = f"sweeps/{name}" if swept else f"trials/{runs.find(name).key}"
    try:
        found = Head(runs).stop(path)
    except Unreachable as error:
        raise UserError(f"--runs: {runs.url} cannot be used: {error}") from None
    print(f"stopped: {name}" if found else "nothing of it is running")
    return 0


def followed(runs: Runs, sweep: str) -> contextlib.AbstractContextManager[None]:
    """What a relay does beside telling, where RUNS is on an object store."""
    if not runs.url:
        return contextlib.nullcontext()
    head = Head(runs)
    with contextlib.suppress(Unreachable):  # MLflow then has no copy of them
        head.bring_best(head.all_trials(sweep))
    return head.following(sweep, lambda: head.open_trials(sweep))


@contextlib.contextmanager
def place_in_words(url: str) -> Iterator[None]:
    """What a store refuses, as a mistake of who named it."""
    try:
        yield
    except Denied as error:
        raise UserError(f"--runs: {url}: no permission: {error} (are credentials there?)") from None
    except FileNotFoundError as error:
        raise UserError(f"--runs: {url}: there is no such bucket ({error})") from None

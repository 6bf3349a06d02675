"""Locks that work on shared folders: a create-exclusive file that says who holds it, and that he still lives.

The first line of the file is JSON (the holder's process, and a token that no other acquisition has), the second a
counter that a thread of the holder moves on every few seconds. A lock is stale when its holder's process is gone
from this machine or, for a holder elsewhere, when the counter stood still for 60 s on the observer's own clock. Here
the process alone decides: one that is only suspended would go on as a second holder when it wakes up.

Taking over is race-free between observers: the lock with token T is removed only by who holds the lock ``NAME.T``,
and only after reading again that it is still T; its own holder gives it back in the same way. Should a holder
elsewhere have been frozen for a minute and wake up, its thread finds that the file is no longer its own.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from clusters.process import Process, me

STILL_S = 60.0  # a counter that stood still so long belongs to a dead holder
BEAT_S = 5.0
_POLL_S = 0.05
_NOBODY = Process("an unknown host", "", 0, 0)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its file says."""

    process: Process
    token: str
    counter: str


class LockHeld(RuntimeError):
    """Another holds the lock; ``holder`` says who."""

    def __init__(self, path: Path, holder: Holder) -> None:
        super().__init__(f"{path} is held by {holder.process}")
        self.holder = holder


def read(path: Path) -> Holder | None:
    """Who holds the lock at ``path``, dead or alive; None when there is no file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        first, counter, _ = text.split("\n")
        facts = json.loads(first)
        return Holder(Process(**facts["process"]), facts["token"], counter)
    except (ValueError, KeyError, TypeError):  # created this moment and still empty, or left so by a crash
        return Holder(_NOBODY, "", text)


class Watch:
    """Looks at a lock again and again, and so notices a counter that stands still."""

    def __init__(self, path: Path, still_s: float = STILL_S) -> None:
        self.path, self.still_s = path, still_s
        self._seen: Holder | None = None
        self._since = 0.0

    def look(self) -> tuple[Holder | None, bool]:
        """The holder, and whether it lives. Without a file ``(None, False)``."""
        holder = read(self.path)
        if holder is None:
            return None, False
        alive = holder.process.alive()
        if alive is None:
            if holder != self._seen:
                self._seen, self._since = holder, time.monotonic()
            alive = time.monotonic() - self._since < self.still_s
        return holder, alive

    def held(self) -> bool:
        """Does somebody who lives hold the lock?"""
        return self.look()[1]


def end_process() -> None:
    """What to do when a lock was lost: two that believe to be alone are worse than none."""
    os._exit(70)


class Lock:
    """An exclusive lock, held by this process from ``acquire`` to ``release`` or in a ``with`` block.

    Args:
        path: the file; its folder is made if need be.
        wait_s: how long ``acquire`` and ``with`` wait for another holder. That a holder on another machine is dead
            shows only after a minute, so a shorter wait never takes such a lock over.
        lost: called from a thread when the lock was taken away while this process was frozen.
    """

    def __init__(
        self,
        path: Path,
        wait_s: float = 0.0,
        *,
        lost: Callable[[], None] = end_process,
        still_s: float = STILL_S,
        beat_s: float = BEAT_S,
    ) -> None:
        self.path, self.wait_s, self.lost = path, wait_s, lost
        self.still_s, self.beat_s = still_s, beat_s
        self._token = ""
        self._descriptor = -1  # stays open: what is written through it can only reach our own file
        self._counter_at = 0
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, wait_s: float | None = None) -> None:
        """Take the lock; LockHeld when another still holds it after ``wait_s`` seconds."""
        assert self._thread is None, "this lock is held already"
        self._take(self.wait_s if wait_s is None else wait_s)
        self._released.clear()
        self._thread = threading.Thread(target=self._beat, name=f"lock {self.path.name}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lock back."""
        assert self._thread is not None, "this lock is not held"
        self._released.set()
        self._thread.join()
        self._thread = None
        os.close(self._descriptor)
        try:
            self._remove(self._token)
        except OSError:  # a full disk has no room for the guard
            holder = read(self.path)
            if holder is not None and holder.token == self._token:
                self.path.unlink()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _take(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        watch = Watch(self.path, self.still_s)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            holder, alive = watch.look()
            if holder is None:
                continue
            if not alive:
                self._remove(holder.token)
            elif time.monotonic() >= end:
                raise LockHeld(self.path, holder)
            else:
                time.sleep(_POLL_S)

    def _create(self) -> bool:
        token = secrets.token_hex(8)
        line = json.dumps({"process": asdict(me()), "token": token})
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, f"{line}\n{0:012d}\n".encode())
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            self.path.unlink()
            raise
        self._token, self._descriptor, self._counter_at = token, descriptor, len(line) + 1
        return True

    def _remove(self, token: str) -> None:
        """Remove the lock if it still has this token."""
        with self._alone_with(token):
            holder = read(self.path)
            if holder is not None and holder.token == token:
                self.path.unlink()

    @contextmanager
    def _alone_with(self, token: str) -> Iterator[None]:
        """Nobody else decides about the lock with this token meanwhile."""
        guard = Lock(self.path.with_name(f"{self.path.name}.{token}"), still_s=self.still_s)
        guard._take(self.still_s + 5)
        try:
            yield
        finally:
            os.close(guard._descriptor)
            guard.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        count = 0
        while not self._released.wait(self.beat_s):
            count += 1
            try:
                holder = read(self.path)
                if holder is None or holder.token != self._token:
                    self.lost()
                    return
                os.pwrite(self._descriptor, f"{count:012d}".encode(), self._counter_at)
                os.fsync(self._descriptor)
            except OSError:  # a shared folder that does not answer says nothing about who holds the lock
                continue

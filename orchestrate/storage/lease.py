"""Who may write: a lock on an object store, which has no create-exclusive files that can be taken over in place.

Each holder has an object of its own, ``FOLDER/lease/N.json``, numbered on from the last one; creating it is exclusive
(S3: If-None-Match; Google: ifGenerationMatch; Azure: overwrite=False), so of two that want to be the next one is. The
holder moves a counter in it on; one whose counter stood still for a minute, while the store answered, is believed
dead, and the next number may be taken. Should it wake up, it finds a higher number, and ends what it guards.

What is not excluded: a process that is frozen for longer than a minute between its last look and a write may write once
more. So nothing that a successor reads may be written under a name that its predecessor uses.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

from clusters.process import Process, me
from orchestrate.locks import end_process
from orchestrate.storage.place import Place, Unreachable

STILL_S = 60.0
BEAT_S = 10.0


class Lease:
    """The right to write below a folder of the store. ``take`` until it is True; then ``release``.

    Args:
        folder: what it is about, like ``trials/KEY``.
        lost: called from a thread when somebody else has taken over.
    """

    def __init__(
        self,
        place: Place,
        folder: str,
        *,
        lost: Callable[[], None] = end_process,
        still_s: float = STILL_S,
        beat_s: float = BEAT_S,
    ) -> None:
        self.place, self.folder, self.lost = place, f"{folder}/lease", lost
        self.still_s, self.beat_s = still_s, beat_s
        self.holder = ""  # who had it when it was last looked at, in words
        self.number = 0
        self._token = secrets.token_hex(8)
        self._seen: tuple[int, bytes] | None = None
        self._since = 0.0
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Take it if nobody holds it who lives. Raises Unreachable."""
        try:
            last = self.highest()
            if last and self._alive(last):
                return False
        except Unreachable:
            self._seen = None  # a store that does not answer says nothing about a counter that stands still
            raise
        number = last + 1
        try:
            self._write(number, create=True)
        except FileExistsError:  # somebody was quicker, or it was us and the answer was lost
            if not self._is_ours(number):
                return False
        if self.highest() != number or not self._is_ours(number):  # we had looked before others came and went
            return False
        self.number = number
        self.place.remove([self._path(n) for n in self._numbers() if n < number])
        self._released.clear()
        self._thread = threading.Thread(target=self._beat, name=f"lease {self.folder}", daemon=True)
        self._thread.start()
        return True

    def live(self) -> bool:
        """Does somebody hold it who may live? (Nobody waits here for a counter to stand still.) Raises Unreachable."""
        last = self.highest()
        return bool(last) and self._alive(last)

    def still_ours(self) -> bool:
        """Has nobody taken over? Raises Unreachable."""
        return self.highest() == self.number

    def release(self) -> None:
        """Give it back. Where the store does not answer, others wait a minute for it."""
        self._released.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            try:
                self._write(self.number, released=True)
            except Unreachable:
                return

    def highest(self) -> int:
        """The number of the last holder; 0 when there was none."""
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        names = [name.rpartition("/")[2].removesuffix(".json") for name in self.place.listed(self.folder)]
        return [int(name) for name in names if name.isdigit()]

    def _alive(self, number: int) -> bool:
        try:
            content = self.place.read(self._path(number))
        except FileNotFoundError:  # its successor has removed it
            return True
        try:
            said = json.loads(content)
        except ValueError:  # half of it is there yet
            said = {}
        process = Process(**said["process"]) if said else None
        self.holder = str(process or "somebody")
        if said.get("released") or (process and process.alive() is False):
            return False
        if self._seen != (number, content):
            self._seen, self._since = (number, content), time.monotonic()
        return time.monotonic() - self._since < self.still_s

    def _is_ours(self, number: int) -> bool:
        try:
            return self._token.encode() in self.place.read(self._path(number))
        except FileNotFoundError:
            return False

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number}.json"

    def _write(self, number: int, beat: int = 0, *, create: bool = False, released: bool = False) -> None:
        said = {"process": asdict(me()), "token": self._token, "beat": beat, "released": released}
        self.place.write(self._path(number), json.dumps(said).encode(), create)

    def _beat(self) -> None:
        beat = 0
        while not self._released.wait(self.beat_s):
            beat += 1
            try:
                if not self.still_ours():
                    self.lost()
                    return
                self._write(self.number, beat)
            except Unreachable:
                continue

"""Looks all the time which processes train a trial: the machine's own word on invariant (a)."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path

from record import training

PAUSE_S = 0.3


class Watch(threading.Thread):
    """Looks until ``end`` is called.

    ``together`` tells of two processes that trained one trial at a time. One that waits for the other to give the
    trial's lock back does not train: it has written no event yet.
    """

    def __init__(self, runs: Path) -> None:
        super().__init__(daemon=True)
        self.runs = runs
        self.together: list[str] = []
        self.last_seen: dict[str, float] = {}
        self._began: set[tuple[int, str]] = set()  # processes that have written their first event
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(PAUSE_S):
            self._look()

    def end(self) -> None:
        self._over.set()
        self.join()

    def _look(self) -> None:
        seen = list(training(self.runs))
        pids = {pid for pid, _, _ in seen}
        at_work: dict[str, list[int]] = {}
        for pid, parent, key in seen:
            self.last_seen[key] = time.time()
            if parent not in pids and self._has_begun(
                pid, key
            ):  # a child that is about to become another program
                at_work.setdefault(key, []).append(pid)
        for key, both in at_work.items():
            told = f"{key}: processes {' and '.join(str(pid) for pid in sorted(both))} trained at once"
            if len(both) > 1 and told not in self.together:
                self.together.append(told)

    def _has_begun(self, pid: int, key: str) -> bool:
        if (pid, key) not in self._began:
            for file in (self.runs / "trials" / key / "events").glob("*.jsonl"):
                with contextlib.suppress(OSError, ValueError, KeyError), file.open() as lines:
                    self._began.add((json.loads(lines.readline())["pid"], key))
        return (pid, key) in self._began

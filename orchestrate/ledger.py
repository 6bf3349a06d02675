"""Every suggestion of a sweep, on disk before it is submitted. Appended by the driver, read by everybody.

Two kinds of line::

    {"row": 3, "t": ..., "role": "trial", "config": {"trial": 1, "method.beta": 3.0}, "seed": 0,
     "key": "...", "evaluations": ["..."], "label": "trades beta=3", "formula": "CE(clean) + 3*KL(...)",
     "configuration": "...", "images": 1297, "cost": 4.2, "tags": {}}
    {"row": 3, "t": ..., "state": "finished" | "pruned" | "failed", "reason": ""}

``config`` is the flat suggestion (which trial of the file, and a value for each of its dimensions); ``role`` is
``helper`` for a network that other trials need; ``cost`` is in network passes, in millions of images (0: not known).
The last state line of a row counts; a row without one is open.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """One suggestion."""

    row: int
    key: str
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    role: str = "trial"
    evaluations: list[str] = field(default_factory=list)
    label: str = ""
    formula: str = ""
    configuration: str = ""
    images: int = 0
    cost: float = 0.0
    tags: dict[str, str] = field(default_factory=dict)
    t: int = 0
    state: str = "open"
    reason: str = ""


def read(file: Path) -> list[Row]:
    """All rows in the order they were suggested; an unfinished last line is ignored. No file: no rows."""
    rows: dict[int, Row] = {}
    if not file.exists():
        return []
    *whole, _ = file.read_bytes().split(b"\n")
    for line in whole:
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if "state" in facts:
            rows[facts["row"]].state = facts["state"]
            rows[facts["row"]].reason = facts.get("reason", "")
        else:
            rows[facts["row"]] = Row(**facts)
    return list(rows.values())


class Reader:
    """Reads a ledger again and again: only when it has grown."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._size = 0
        self._rows: list[Row] = []

    def rows(self) -> list[Row]:
        """All rows as they are now."""
        size = self.file.stat().st_size if self.file.exists() else 0
        if size != self._size:
            self._size, self._rows = size, read(self.file)
        return self._rows


def append(file: Path, row: Row) -> None:
    """Record a suggestion, durably: it is on disk when this returns."""
    facts = asdict(row) | {"t": row.t or time.time_ns() // 1_000_000}
    facts.pop("state")
    facts.pop("reason")
    _append(file, facts)


def close(file: Path, row: int, state: str, reason: str = "") -> None:
    """Record how a row ended: ``finished``, ``pruned`` or ``failed`` (or ``open`` to run it again)."""
    _append(file, {"row": row, "t": time.time_ns() // 1_000_000, "state": state, "reason": reason})


def _append(file: Path, facts: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (b"\n" if torn else b"") + json.dumps(facts).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Processes, told apart although the system uses a process's number again.

A process is named by its machine, its number and the moment it started. Machines are named by host name, boot and
process-number namespace: two containers that share a host name, or one machine before and after a restart, are not
taken for each other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process of one machine. ``started`` is in clock ticks since the machine started (``/proc/PID/stat``)."""

    host: str
    machine: str
    pid: int
    started: int

    @property
    def is_here(self) -> bool:
        """Is it a process of this machine, so that its number means something here?"""
        return (self.host, self.machine) == (socket.gethostname(), this_machine())

    def alive(self) -> bool | None:
        """Does it live? None for a process of another machine: only that machine can tell."""
        if not self.is_here:
            return None
        now = _read_stat(self.pid)
        return now is not None and now == ("alive", self.started)

    def signal(self, number: signal.Signals, group: bool = False) -> bool:
        """Send a signal to it, or to its whole process group. False when it is gone, or is another's by now."""
        if not self.alive():
            return False
        try:
            (os.killpg if group else os.kill)(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until it is gone, at most so long; False when it still lives. It need not be a child of ours."""
        end = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def process(pid: int) -> Process | None:
    """The process of this machine that has this number now; None when there is none."""
    stat = _read_stat(pid)
    return None if stat is None else Process(socket.gethostname(), this_machine(), pid, stat[1])


def me() -> Process:
    """This process."""
    own = process(os.getpid())
    assert own is not None, "/proc does not show this process"
    return own


@cache
def this_machine() -> str:
    """Which boot of which machine, and which namespace of process numbers in it."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{(_PROC / 'self/ns/pid').stat().st_ino}"


def users_of(folder: Path) -> list[Process]:
    """The live processes on this machine that have a file open below ``folder``."""
    return [
        found
        for pid in others()
        if any(target.startswith(f"{folder}/") for target in _open_files(pid))
        and (found := process(pid)) is not None
        and found.alive()
    ]


def others() -> Iterator[int]:
    """The numbers of all processes of this machine but this one."""
    own = str(os.getpid())
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit() and entry.name != own)


def _open_files(pid: int) -> Iterator[str]:
    try:
        links = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for link in links:
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/fd/{link}")


def _read_stat(pid: int) -> tuple[str, int] | None:
    """``("alive" or "dead", start)``; a zombie is dead: it only waits for its parent to ask how it ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    return ("dead" if fields[0] in "ZX" else "alive"), int(fields[19])

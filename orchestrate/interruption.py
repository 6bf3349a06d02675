"""Signals that ask a sweep to end, as an exception in the main thread."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The sweep was asked to end; ``number`` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, a signal raises Interrupted in the main thread, and a second one ends the process at once."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen() -> None:
    """Take over signals, but for those that are ignored: nohup, or a shell's background, wants it so."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    for other in SIGNALS:
        signal.signal(other, lambda n, _: os._exit(128 + n))
    raise Interrupted(number)

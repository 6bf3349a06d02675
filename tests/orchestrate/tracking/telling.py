"""A relay of this process, and keys of trials that no other test has."""

from __future__ import annotations

import itertools

from orchestrate.relay import Relay
from orchestrate.runs import Runs, SweepDir
from orchestrate.tracking.tracker import Tracker

numbers = itertools.count()


def relay_of(runs: Runs, sweep: SweepDir) -> Relay:
    return Relay(runs, sweep, Tracker.open(runs, sweep, "parapet", {}))


def pump(relay: Relay) -> None:
    relay.look()
    relay.tell()


def new_key() -> str:
    return f"{next(numbers):016x}"

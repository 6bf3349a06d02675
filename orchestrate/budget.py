"""The GPU-hours that a sweep may spend. Once they are spent nothing more is submitted; what runs goes on to its end.

Counted are the attempts of the sweep's trials that began after the sweep had asked for them, helper networks' too, as
far as their events tell.
"""

from __future__ import annotations

import time

from orchestrate import ledger
from orchestrate.accounts import Account
from orchestrate.events import Follower
from orchestrate.runs import Runs, write_whole

LOOK_S = 1.0  # between two looks at what was spent


class Budget:
    """What one sweep has spent, looked at by its driver.

    Args:
        hours: the most GPU-hours; None: no limit.
    """

    def __init__(self, runs: Runs, sweep: str, hours: float | None) -> None:
        self.runs, self.hours = runs, hours
        self.folder = runs.sweep(sweep)
        self._ledger = ledger.Reader(self.folder.ledger_file)
        self._followers: dict[str, Follower] = {}
        self._accounts: dict[str, Account] = {}
        self._look_at = 0.0
        self._spent = False
        self.folder.spent_file.unlink(missing_ok=True)

    def reached(self) -> bool:
        """Is it all spent? Then a file says so, which those look at who submit."""
        if self.hours is None or self._spent:
            return self._spent
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._spent = self.spent() >= self.hours
            if self._spent:
                write_whole(self.folder.spent_file, "")
        return self._spent

    def spent(self) -> float:
        """GPU-hours so far."""
        since: dict[str, int] = {}
        for row in self._ledger.rows():
            since[row.key] = min(row.t, since.get(row.key, row.t))
        return sum(self._account(key).since(t).gpu_hours for key, t in since.items())

    def _account(self, key: str) -> Account:
        """Only what is new is read."""
        account = self._accounts.setdefault(key, Account())
        follower = self._followers.setdefault(key, Follower(self.runs.trial(key).events))
        for event in follower.new():
            account.tell(event)
        return account

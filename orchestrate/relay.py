"""The tracking relay of one sweep: ``python -m orchestrate.relay RUNS SWEEP --parent PID``.

A process of the driver's that reads what trials write and tells MLflow, so that no trial ever waits for a tracking
server. It prints ``ready RUN_ID`` when the store can be used (else one line on stderr, and exit code 2), and then
looks about every second. On its standard input a line ``end STATUS`` means: tell all that is left (saying every few
seconds how far it is), end the parent run with STATUS, exit. The end of the input without it means that the driver
died: what is there is told, runs whose job is gone are ended, and so is the relay. ``--once`` does that for a sweep
whose driver and relay both died.

A server that is down loses nothing: the relay tries again, less and less often. What is untold at the end is said
on stderr (exit code 1) and is still on disk for ``--once``, or the next relay of the sweep.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import cast, get_args

from clusters.process import process
from orchestrate import ledger, provenance, sweep_file
from orchestrate.accounts import epochs_of, total
from orchestrate.locks import Watch
from orchestrate.runs import Runs, SweepDir
from orchestrate.storage.head import Head, followed
from orchestrate.tracking import artifacts, content, origin
from orchestrate.tracking.content import Status
from orchestrate.tracking.tracker import Refused, Tracker, Unreachable
from orchestrate.tracking.trial_relay import TrialRelay
from training.errors import UserError

POLL_S = 1.0
SAY_EVERY_S = 5.0  # between two words of how far it is, at the end
LONGEST_PAUSE_S = 30.0
PATIENCE_S = 45.0  # at the end, with a server that does not answer
DYING_S = 20.0  # for jobs to end when their driver died or asked them to


class Relay:
    """All trials of one sweep, on their way to MLflow."""

    def __init__(self, runs: Runs, sweep: SweepDir, tracker: Tracker) -> None:
        self.runs, self.sweep, self.tracker = runs, sweep, tracker
        self.trials: dict[str, TrialRelay] = {}
        self.refused: set[str] = set()
        self.rows: dict[str, list[ledger.Row]] = {}
        self._ledger = ledger.Reader(sweep.ledger_file)

    def look(self) -> None:
        """Read what is new on disk."""
        self.rows = {}
        for row in self._ledger.rows():
            self.rows.setdefault(row.key, []).append(row)
        for key in self.rows:
            self._read(key, self.trials.get(key) or TrialRelay(self.runs.trial(key), self.sweep))

    def tell(self, ending: bool = False, enough: Callable[[], bool] = lambda: False) -> None:
        """Tell MLflow everything that it was not told. Raises Unreachable, or OSError for a full disk.

        Args:
            ending: it is for the last time: say how far it is on standard output, every few seconds.
            enough: asked before each trial; leaves the others untold.
        """
        last = time.monotonic()
        for number, (key, trial) in enumerate(self.trials.items()):
            if enough():
                return
            if ending and time.monotonic() - last > SAY_EVERY_S:
                _say(f"{number} of {len(self.trials)} trials are told")
                last = time.monotonic()
            if not trial.begun or key in self.refused:
                continue
            try:
                trial.tell(self.tracker, trial.standing(ending))
            except Refused:
                self._tell_again(key, ending)

    def jobs_should_end(self) -> bool:
        """Does a job live that its driver asked to end, or that dies with its driver?"""
        return any(trial.job_should_end() for trial in self.trials.values())

    def tell_parent(self, status: Status) -> None:
        """The sweep's own files and how it ended. Raises what ``tell`` raises, and Refused."""
        self.upload_parent()
        self.tracker.remove_doubles({key: t.run_id for key, t in self.trials.items() if t.run_id})
        states = [row.state for rows in self.rows.values() for row in rows]
        counts = {f"parapet.{state}": str(states.count(state)) for state in ("finished", "pruned", "failed")}
        self.tracker.log(self.tracker.parent, tags=counts | self._cost())
        self.tracker.set_status(self.tracker.parent, status)

    def _cost(self) -> dict[str, str]:
        """What all trials together cost, as tags."""
        told = total(
            (trial.account, content.foremost(self.rows[key]).state, epochs_of(trial.trial))
            for key, trial in self.trials.items()
            if key in self.rows
        )
        kind = "gpu_hours" if told.on_gpus else "core_hours"
        return {
            f"parapet.{kind}": f"{told.hours:.3f}",
            f"parapet.{kind}_saved_by_pruning": f"{told.saved:.3f}",
        }

    def upload_parent(self) -> None:
        """The sweep file, the ledger, what it was run from, and the report as far as it is made."""
        noted = origin.at(self.sweep, time.time_ns() // 1_000_000)
        files = [self.sweep.sweep_file, self.sweep.ledger_file, *(noted.texts if noted else ())]
        placed = [(file.name, file) for file in files if file.exists()]
        if noted and noted.source:
            placed.append((f"source/{noted.source.name}", noted.source))
        placed += [
            (f"report/{file.relative_to(self.sweep.report).as_posix()}", file)
            for file in sorted(self.sweep.report.rglob("*"))
            if file.is_file() and not file.name.startswith(".")
        ]
        for path, file in placed:
            self.tracker.upload(self.tracker.parent, artifacts.from_file(path, file))

    def _read(self, key: str, trial: TrialRelay) -> None:
        try:
            trial.read(self.rows[key])
        except FileNotFoundError:  # its events were cleared away, to begin anew
            trial = TrialRelay(self.runs.trial(key), self.sweep)
            trial.read(self.rows[key])
        self.trials[key] = trial

    def _tell_again(self, key: str, ending: bool) -> None:
        """After a refusal: find or make the run and tell everything; a second refusal is final."""
        self._read(key, TrialRelay(self.runs.trial(key), self.sweep, believe=False))
        trial = self.trials[key]
        try:
            trial.tell(self.tracker, trial.standing(ending))
        except Refused as error:
            self.refused.add(key)
            print(f"tracking: MLflow refuses trial {key}: {error}", file=sys.stderr, flush=True)


class Driver:
    """The other end of standard input: what it asks for, and whether it lives."""

    def __init__(self, pid: int) -> None:
        self.process = process(pid)
        self.order = ""  # "", "end STATUS", or "gone"
        self._text = b""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
        signal.signal(signal.SIGTERM, self._terminated)

    def wait(self, seconds: float) -> None:
        """Wait for an order, at most so long."""
        end = time.monotonic() + seconds
        while not self.order and (left := end - time.monotonic()) > 0:
            self._look(min(left, 1.0))

    def has_ordered(self) -> bool:
        """Is there an order by now? Does not wait."""
        if not self.order:
            self._look(0)
        return bool(self.order)

    def _look(self, seconds: float) -> None:
        ready, _, _ = select.select([0], [], [], seconds)
        if ready:
            self._hear(os.read(0, 4096))
        elif not (self.process and self.process.alive()):  # somebody else may hold our input open
            self.order = "gone"

    def _hear(self, text: bytes) -> None:
        self._text += text
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            self.order = line.decode().strip()
        if not text and not self.order:
            self.order = "gone"

    def _terminated(self, _number: int, _frame: FrameType | None) -> None:
        self.order = "gone"


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the driver has gone; at its own end Python would stumble over it again
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def follow(relay: Relay, driver: Driver) -> int:
    """Tell until the driver says that it is enough, or dies. Returns the exit code."""
    pause = POLL_S
    started = False
    while not driver.order:
        relay.look()
        try:
            if not started:
                relay.upload_parent()
                started = True
            relay.tell(enough=driver.has_ordered)
            pause = POLL_S
        except (Unreachable, Refused, OSError) as error:
            if pause == POLL_S:
                print(f"tracking: {error}; trying again", file=sys.stderr, flush=True)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        driver.wait(pause)
    if driver.order == "gone" and Watch(relay.sweep.lock_file).held():
        return 0  # the sweep goes on already, with a driver and a relay of its own
    asked = driver.order.removeprefix("end ")
    return finish(relay, cast(Status, asked) if asked in get_args(Status) else "KILLED")


def finish(relay: Relay, status: Status, patience_s: float = PATIENCE_S) -> int:
    """Tell all that is left and end the parent run. Returns the exit code."""
    relay.look()
    if relay.runs.url:
        Head(relay.runs).see_out(relay.sweep.name, DYING_S)
    dying = time.monotonic() + DYING_S
    while relay.jobs_should_end() and time.monotonic() < dying:
        time.sleep(0.1)
    deadline = time.monotonic() + patience_s
    pause = POLL_S
    while True:
        relay.look()
        try:
            relay.tell(ending=True)
            relay.tell_parent(status)
            return 1 if relay.refused else 0
        except (Unreachable, Refused, OSError) as error:
            if time.monotonic() + pause > deadline:
                again = f"python -m orchestrate.relay {relay.runs.path} {relay.sweep.name} --once"
                print(f"tracking: not all was told ({error}); later: {again}", file=sys.stderr, flush=True)
                return 1
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def once(relay: Relay) -> int:
    """Tell what a dead driver and its dead relay left untold. Returns the exit code."""
    relay.look()
    states = {row.state for rows in relay.rows.values() for row in rows}
    return finish(relay, "KILLED" if "open" in states else "FAILED" if "failed" in states else "FINISHED")


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; see the module. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrate.relay")
    parser.add_argument("runs", type=Path)
    parser.add_argument("sweep")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--parent", type=int, metavar="PID", help="the driver's process")
    who.add_argument("--once", action="store_true", help="no driver: tell what is there, and exit")
    given = parser.parse_args(arguments)
    runs = Runs(given.runs.resolve())
    sweep = runs.sweep(given.sweep)
    driver = None if given.once else Driver(given.parent)
    try:
        project = sweep_file.load(sweep.sweep_file).project
        if given.once and Watch(sweep.lock_file).held():
            raise UserError(f"{sweep.path}: the sweep is running, and its own relay tells MLflow about it")
        if given.once:  # elsewhere, perhaps, and later: what it was run from is what its drivers noted
            noted = origin.at(sweep, time.time_ns() // 1_000_000)
        else:
            noted = origin.note(sweep, provenance.running_from(), runs.path)
        tracker = Tracker.open(runs, sweep, project, noted.tags() if noted else {})
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if noted and not noted.source and not given.once:
        print(f"tracking: no source is kept: {noted.facts['no_source']}", file=sys.stderr, flush=True)
    relay = Relay(runs, sweep, tracker)
    with followed(runs, sweep.name):
        if driver is None:
            return once(relay)
        os.nice(5)  # training goes first
        print(f"ready {tracker.parent}", flush=True)
        return follow(relay, driver)


if __name__ == "__main__":
    sys.exit(main())

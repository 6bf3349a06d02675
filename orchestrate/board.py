"""How a sweep stands at this moment: one line per suggestion, from its ledger and from the events of its trials."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from orchestrate import ledger
from orchestrate.events import Event, Follower, Story
from orchestrate.ledger import Row
from orchestrate.runs import Runs, SweepDir, TrialDir, read_yaml

Waits = Callable[[], Mapping[str, tuple[str, str]]]
QUIET_MS = 30_000  # after which the queue is believed when it says that a trial's job waits
TRAINING_SHARE = 0.5  # of a trial's time, until a finished one tells better


@dataclass(frozen=True)
class Line:
    """One suggestion: ``state`` is waiting, training, attacking, stopped, failing, finished, pruned or failed.

    Accuracies are in [0, 1], None where there is none yet; ``work`` is what the trial needs beside the mean of all, by
    what its training costs, and ``share`` how much of that is done, in [0, 1].
    """

    row: Row
    state: str
    attempt: int
    epoch: int
    epochs: int
    attacking: Event | None
    val: tuple[float | None, float | None]  # clean, robust: of the last validation
    test: tuple[float | None, float | None]  # of the first evaluation that the sweep asks for
    work: float
    share: float
    seconds: float
    changed: int  # when the trial last said something, in milliseconds since 1970
    reason: str  # why it ended early, or what its job waits for

    @property
    def name(self) -> str:
        """Label and seed."""
        return f"{self.row.label or self.row.key} seed {self.row.seed}"

    @property
    def done(self) -> bool:
        """Is this suggestion over?"""
        return self.row.state != "open"

    @property
    def held(self) -> bool:
        """Does the queue hold its job until somebody lets it go?"""
        return self.state == "waiting" and "held" in self.reason.lower()

    @property
    def live(self) -> bool:
        """Is something computed for it now?"""
        return self.state in ("training", "attacking")


@dataclass
class _Trial:
    """What is known of a trial, which several suggestions may share."""

    directory: TrialDir
    follower: Follower
    story: Story
    _epochs: int = 0

    def read(self) -> Story:
        for event in self.follower.new():
            self.story.tell(event)
        return self.story

    @property
    def epochs(self) -> int:
        """The epochs that it trains for; 0 while its spec is not written."""
        if not self._epochs and self.directory.spec_file.exists():
            self._epochs = int(read_yaml(self.directory.spec_file)["train"]["epochs"])
        return self._epochs


class Board:
    """Reads what is new since it was last asked; hundreds of trials cost a few milliseconds.

    ``waits`` says of jobs that wait in a queue, by key: the job's number, and the queue's reason.
    """

    def __init__(
        self, sweep: SweepDir, runs: Runs, expected: int | None = None, waits: Waits = lambda: {}
    ) -> None:
        self.runs, self.expected, self.waits = runs, expected, waits
        self.since = time.time_ns() // 1_000_000
        self._ledger = ledger.Reader(sweep.ledger_file)
        self._trials: dict[str, _Trial] = {}
        self._share = TRAINING_SHARE
        self._mean_cost = 0.0
        self._queued: Mapping[str, tuple[str, str]] = {}

    def lines(self) -> list[Line]:
        """All suggestions so far, in the order they were made."""
        rows = self._ledger.rows()
        costs = [row.cost for row in rows]
        self._mean_cost = fmean(costs) if all(costs) and costs else 0.0  # 0: not all known, all are alike
        self._share = self._training_share(rows)
        self._queued = self.waits()
        return [self._line(row) for row in rows]

    def total(self, lines: list[Line]) -> int:
        """How many suggestions there will be, as far as one knows; ``expected`` does not count helpers."""
        helpers = sum(line.row.role == "helper" for line in lines)
        return max((self.expected or 0) + helpers, len(lines))

    def seconds_left(self, lines: list[Line]) -> float | None:
        """An estimate from what trials took so far; None before anything can be said, 0 at the end.

        What is open counts with its work and the share of that which is to do, at the pace of finished (else: running)
        trials and with as many at once as run now.
        """
        open_ = (line.work * (1 - line.share) for line in lines if not line.done)
        todo = self.total(lines) - len(lines) + math.fsum(open_)
        if todo == 0:
            return 0.0
        known = [line for line in lines if line.row.state == "finished" and line.seconds > 0]
        known = known or [line for line in lines if line.live and line.share >= 0.05]
        if not known:
            return None
        pace = math.fsum(line.seconds for line in known) / math.fsum(line.work * line.share for line in known)
        return todo * pace / max(1, sum(line.live for line in lines))

    def _line(self, row: Row) -> Line:
        trial = self._trial(row.key)
        story = trial.read()
        epochs = trial.epochs
        epoch = epochs if story.trained else story.epochs[-1]["epoch"] + 1 if story.epochs else 0
        wanted = [story.evaluated[digest] for digest in row.evaluations if digest in story.evaluated]
        state = self._state(row, story)
        return Line(
            row=row,
            state=state,
            attempt=story.attempt,
            epoch=epoch,
            epochs=epochs,
            attacking=story.evaluating if state == "attacking" else None,
            val=_accuracies(reversed(story.epochs), "val/"),
            test=_accuracies(wanted[:1], ""),
            work=self._training(row) + 1 - self._share,
            share=self._done_share(row, story, epoch / epochs if epochs else 0.0),
            seconds=self._seconds(story, state),
            changed=story.last_t or row.t,
            reason=self._queued_for(row.key)
            if state == "waiting"
            else row.reason or (story.failure["reason"] if story.failure else story.stopped),
        )

    def _queued_for(self, key: str) -> str:
        """What a trial's job waits for, in the queue's words."""
        job, why = self._queued.get(key, ("", ""))
        if why in ("", "None"):
            with contextlib.suppress(OSError):
                return self.runs.trial(key).waits_file.read_text()
        return f"job {job}: {why}" if why not in ("", "None") else ""

    def _trial(self, key: str) -> _Trial:
        if key not in self._trials:
            directory = self.runs.trial(key)
            self._trials[key] = _Trial(directory, Follower(directory.events), Story())
        return self._trials[key]

    def _state(self, row: Row, story: Story) -> str:
        if row.state != "open":
            return row.state
        if story.state != "finished" and (story.last_t or 0) < self.since:
            return "waiting"  # what an earlier driver left goes on soon
        if row.key in self._queued and self._silent(story):
            return "waiting"  # its job was requeued
        words = {"planned": "waiting", "running": "training", "trained": "attacking", "failed": "failing"}
        return words.get(story.state, story.state)

    def _silent(self, story: Story) -> bool:
        """Is nothing computed? The queue's word may be older than the last event."""
        quiet_ms = time.time_ns() // 1_000_000 - (story.last_t or 0)
        return story.state == "stopped" or (story.state in ("running", "trained") and quiet_ms > QUIET_MS)

    def _done_share(self, row: Row, story: Story, trained: float) -> float:
        if row.state != "open":
            return 1.0
        training, attacking = self._training(row), 1 - self._share
        if story.trained is None:
            return training * trained / (training + attacking)
        done = sum(digest in story.evaluated for digest in row.evaluations)
        part = (done + (0.5 if story.evaluating else 0.0)) / max(1, len(row.evaluations))
        return (training + attacking * min(1.0, part)) / (training + attacking)

    def _training(self, row: Row) -> float:
        """The work of its training, where a trial of mean cost is 1 with all that it does."""
        return self._share * (row.cost / self._mean_cost if self._mean_cost else 1.0)

    def _seconds(self, story: Story, state: str) -> float:
        """How long the last attempt took, or takes so far."""
        if story.started is None or story.last_t is None:
            return 0.0
        now = time.time_ns() // 1_000_000 if state in ("training", "attacking") else story.last_t
        return (now - int(story.started["t"])) / 1000

    def _training_share(self, rows: list[Row]) -> float:
        """The part of a trial of mean cost that is training, by those that did both in one attempt."""
        trained, attacked, work = 0.0, 0.0, []
        for row in rows:
            story = self._trial(row.key).read()
            if row.state != "finished" or not (story.trained and story.started and story.last_t):
                continue
            if story.trained["t"] > story.started["t"]:
                trained += story.trained["t"] - story.started["t"]
                attacked += story.last_t - story.trained["t"]
                work.append(row.cost / self._mean_cost if self._mean_cost else 1.0)
        if not work:
            return TRAINING_SHARE
        training, attacking = trained / math.fsum(work), attacked / len(work)
        return training / (training + attacking)


def _accuracies(events: Iterator[Event] | list[Event], prefix: str) -> tuple[float | None, float | None]:
    """The first clean and robust accuracies in these events."""
    for event in events:
        metrics = event["metrics"]
        if f"{prefix}clean" in metrics:
            return metrics[f"{prefix}clean"], metrics.get(f"{prefix}robust")
    return None, None

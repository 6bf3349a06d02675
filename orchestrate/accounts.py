"""What trials cost: how long they waited and ran, on what, what was lost on the way, and what pruning saved.

All of it follows from the trials' events. Times within an attempt are of one machine's clock. A wait may be of two (who
submitted, and who ran): where those disagree, it is never below zero. An attempt that nobody heard the end of lasted up
to the last that it said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from orchestrate.events import Event, read
from orchestrate.ledger import Row
from orchestrate.runs import Runs, TrialDir


@dataclass
class Attempt:
    """One time that a trial was begun. Times in milliseconds since 1970; ``wait`` in seconds, None where unknown.

    ``outcome`` is ``finished``, ``failed``, ``stopped``, or empty: it runs, or was lost.
    """

    number: int
    began: int
    last: int
    saved: int  # when what it had computed was last on disk
    wait: float | None = None
    gpus: float = 0.0
    cpus: float = 1.0
    node: str = ""
    job: str = ""
    outcome: str = ""

    @property
    def seconds(self) -> float:
        return (self.last - self.began) / 1000

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.seconds / 3600

    @property
    def cpu_hours(self) -> float:
        return self.cpus * self.seconds / 3600

    @property
    def lost(self) -> float:
        """Seconds of work that had to be done again, or never will be."""
        return 0.0 if self.outcome == "finished" else (self.last - self.saved) / 1000


@dataclass
class Account:
    """A trial's attempts, as its events tell them one by one."""

    attempts: list[Attempt] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)  # seconds of each

    def tell(self, event: Event) -> None:
        """Go on with the next event."""
        t, kind = int(event["t"]), event["event"]
        if kind == "started":
            self.attempts.append(self._begun(event))
            return
        if not self.attempts:
            return
        now = self.attempts[-1]
        now.last = max(now.last, t)
        if kind == "epoch":
            self.epochs.append(float(event["metrics"].get("seconds", 0.0)))
        if kind in ("checkpoint", "trained", "evaluated", "finished", "stopped"):
            now.saved = now.last  # one that is stopped has written a checkpoint
        if kind in ("finished", "failed", "stopped"):
            now.outcome = kind

    def _begun(self, event: Event) -> Attempt:
        t = int(event["t"])
        before = self.attempts[-1].last if self.attempts else 0
        since = max(int(event.get("submitted") or 0), before if event.get("submitted") else 0)
        return Attempt(
            number=int(event["attempt"]),
            began=t,
            last=t,
            saved=t,
            wait=max(0.0, (t - since) / 1000) if since else None,
            gpus=float(event.get("gpus", 0)),
            cpus=float(event.get("threads", 1)),
            node=str(event.get("host", "")),
            job=str(event.get("job", "")),
        )

    def since(self, t: int) -> Account:
        """Only the attempts that began at that time or later."""
        return Account([attempt for attempt in self.attempts if attempt.began >= t], self.epochs)

    @property
    def wait(self) -> float:
        """Seconds in queues, all attempts together."""
        return sum(attempt.wait or 0 for attempt in self.attempts)

    @property
    def seconds(self) -> float:
        """Seconds that it ran, all attempts together."""
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def gpu_hours(self) -> float:
        return sum(attempt.gpu_hours for attempt in self.attempts)

    @property
    def cpu_hours(self) -> float:
        return sum(attempt.cpu_hours for attempt in self.attempts)

    @property
    def nodes(self) -> list[str]:
        """Where it ran, in order, each once."""
        return list(dict.fromkeys(attempt.node for attempt in self.attempts if attempt.node))


def of(folder: Path) -> Account:
    """The account of a trial, by the folder of its events."""
    account = Account()
    for event in read(folder):
        account.tell(event)
    return account


@dataclass(frozen=True)
class Totals:
    """What some trials cost together. Hours are GPU-hours where any trial had a GPU, else core-hours.

    Args:
        on_gpus: which of the two.
        hours: in all attempts; lost: of that, what was done again or in vain.
        waits: seconds that each attempt waited, where that is known.
        saved: at least what the epochs would have cost that pruned trials were spared, at their own pace; evaluations
            are not counted. pruned: how many trials.
    """

    on_gpus: bool
    hours: float
    lost: float
    waits: tuple[float, ...]
    saved: float
    pruned: int

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.on_gpus else "core-hours"

    def __str__(self) -> str:
        said = [f"{self.hours:.2f} {self.unit}"]
        if self.lost * 3600 >= 1:
            said.append(f"of which {self.lost:.2f} were lost with jobs that ended early")
        if self.waits and max(self.waits) >= 1:
            said.append(
                f"jobs waited {duration(median(self.waits))} in the middle, {duration(max(self.waits))} at most"
            )
        if self.pruned:
            said.append(f"pruning {self.pruned} trials saved at least {self.saved:.2f}")
        return "; ".join(said)


def epochs_of(trial: TrialDir) -> int:
    """How many epochs a trial is to train; 0 where nothing says so."""
    return trial.spec().train.epochs if trial.spec_file.exists() else 0


def of_rows(runs: Runs, rows: Iterable[Row]) -> Totals:
    """The totals of a ledger's trials, each once."""
    states = {row.key: row.state for row in rows}
    trials = [(runs.trial(key), state) for key, state in states.items()]
    return total((of(trial.events), state, epochs_of(trial)) for trial, state in trials)


def total(accounts: Iterable[tuple[Account, str, int]]) -> Totals:
    """The totals of trials, each with the state of its row and the number of epochs that it was to train."""
    told: Sequence[tuple[Account, str, int]] = list(accounts)
    attempts = [attempt for account, _, _ in told for attempt in account.attempts]
    on_gpus = any(attempt.gpus for attempt in attempts)

    def share(attempt: Attempt) -> float:
        return attempt.gpus if on_gpus else attempt.cpus

    saved = 0.0
    pruned = [(account, epochs) for account, state, epochs in told if state == "pruned" and account.attempts]
    for account, epochs in pruned:
        pace = sum(account.epochs) / len(account.epochs) if account.epochs else 0.0
        left = max(0, epochs - len(account.epochs))
        saved += left * pace * share(account.attempts[-1]) / 3600
    return Totals(
        on_gpus,
        sum(share(attempt) * attempt.seconds for attempt in attempts) / 3600,
        sum(share(attempt) * attempt.lost for attempt in attempts) / 3600,
        tuple(attempt.wait for attempt in attempts if attempt.wait is not None),
        saved,
        len(pruned),
    )


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"

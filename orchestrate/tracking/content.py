"""What MLflow is told about a trial: parameters, metrics, tags and status, made from its spec, events and row.

Nothing here talks to MLflow. Everything is a function of what lies on disk, so that telling it again tells the
same: metrics carry their event's own timestamp, and MLflow drops a point that it has already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from orchestrate.accounts import Account
from orchestrate.events import Event, Story
from orchestrate.ledger import Row
from training.spec import TrialSpec, flatten

LONGEST_PARAMETER, LONGEST_TAG = 6000, 8000  # characters that MLflow takes
UNNAMEABLE = re.compile(r"[^\w\-. :/]")  # characters that MLflow's names may not hold

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Metric(NamedTuple):
    """One point of one metric; ``t`` in milliseconds since 1970."""

    name: str
    value: float
    t: int
    step: int


@dataclass(frozen=True)
class Standing:
    """How a trial stands: the status of its run, and why, when it did not finish."""

    status: Status
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Will nothing more come, as far as one can tell?"""
        return self.status != "RUNNING"


def parameters(spec: TrialSpec) -> dict[str, str]:
    """A resolved spec, flat and readable: ``method.beta``, ``train.epochs``, ``seed``, helpers by their keys.

    Where the data lie is left out: it is no part of what is computed.
    """
    facts = spec.dump()
    facts["data"].pop("root")
    facts["helpers"] = {name: ref.get("key") or ref.get("digest") for name, ref in spec.helpers.items()}
    facts["method"]["modifiers"] = "+".join(spec.method.with_) or None  # some have no parameter that is set
    return {
        UNNAMEABLE.sub(".", name): _text(value)[:LONGEST_PARAMETER]
        for name, value in flatten(facts).items()
        if value is not None and value != {}
    }


@dataclass
class Metrics:
    """The metrics in a trial's events, in groups with names that stay the same however often events are read.

    Epochs have their number as step. Evaluations of one checkpoint are numbered as they came (a stronger attack
    may come later), so that a metric has one point per step; what is of the best checkpoint has no prefix, and
    what was evaluated beside that has the attacks before its names: ``PGD-20/robust``.

    What it cost so far (``time/...``) is told when an attempt ends, or when the next one shows that it has, with the
    attempt's number as step.
    """

    evaluations: dict[str, list[str]] = field(default_factory=dict)  # digests by prefix
    account: Account = field(default_factory=Account)
    costed: int = 0  # attempts whose cost was told

    def of(self, event: Event) -> tuple[str, list[Metric]] | None:
        """``(group, metrics)``; None when the event has none, or repeats an evaluation."""
        before = self._cost() if event["event"] == "started" else None
        self.account.tell(event)
        match event["event"]:
            case "started":
                return before
            case "finished" | "stopped" | "failed":
                return self._cost()
            case "epoch":
                return f"epoch {event['epoch']}", _metrics(event, "", event["epoch"])
            case "trained":
                return "trained", _metrics(event, "best/", event["best_epoch"])
            case "evaluated":
                checkpoint, digest = event["checkpoint"], event["evaluation"]
                beside = event.get("beside", "")
                prefix = ("" if checkpoint == "best" else f"{checkpoint}/") + (f"{beside}/" if beside else "")
                digests = self.evaluations.setdefault(prefix, [])
                if digest in digests:
                    return None
                digests.append(digest)
                return f"evaluated {digest}", _metrics(event, prefix, len(digests) - 1)
        return None

    def _cost(self) -> tuple[str, list[Metric]] | None:
        """Of all attempts up to the last, once for each."""
        if not self.account.attempts or self.costed == len(self.account.attempts):
            return None
        self.costed = len(self.account.attempts)
        last = self.account.attempts[-1]
        values = {
            "time/queue_seconds": self.account.wait,
            "time/run_seconds": self.account.seconds,
            "time/gpu_hours": self.account.gpu_hours,
        }
        metrics = [Metric(name, value, last.last, last.number) for name, value in values.items()]
        return f"cost {last.number}", metrics


def _metrics(event: Event, prefix: str, step: int) -> list[Metric]:
    return [
        Metric(UNNAMEABLE.sub(".", f"{prefix}{name}"), float(value), event["t"], step)
        for name, value in event["metrics"].items()
        if value is not None
    ]


def standing(story: Story, row: Row, alive: bool) -> Standing:
    """How a trial stands, by its events, by its row in the ledger, and by whether its job lives.

    Events come first, for a trial may belong to several sweeps: one that gave it up does not end the run while
    the job of another lives.
    """
    if story.state == "finished":
        return Standing("FINISHED")
    if story.state == "failed" and story.failure:
        kind, reason = story.failure["kind"], story.failure.get("reason", "")
        return Standing(
            "KILLED" if kind == "cancelled" else "FAILED", f"{kind}: {reason}" if reason else kind
        )
    if story.state == "stopped":
        return Standing("KILLED", story.stopped)
    if row.state == "finished":
        return Standing("FINISHED")
    if alive:
        return Standing("RUNNING")
    if row.state == "failed":
        return Standing("FAILED", row.reason)
    return Standing("KILLED", row.reason or ("pruned" if row.state == "pruned" else "its job ended unheard"))


def foremost(rows: Sequence[Row]) -> Row:
    """The row that speaks for a trial when a sweep suggested it more than once: an open one, else a finished."""
    order = {"open": 0, "finished": 1, "pruned": 2, "failed": 3}
    return min(rows, key=lambda row: (order[row.state], row.role == "helper", row.row))


def tags(story: Story, rows: Sequence[Row], sweep: str, now: Standing) -> dict[str, str]:
    """The tags of a trial's run that follow from its events and rows."""
    row = foremost(rows)
    started = story.started or {}
    versions = started.get("versions") or {}
    facts = {
        **{name: text for one in rows for name, text in one.tags.items()},
        "formula": row.formula,
        "parapet.configuration": row.configuration,
        "parapet.images": str(row.images or ""),
        "parapet.state": now.status.lower() if now.ended else story.state,
        "parapet.reason": now.reason,
        "parapet.role": "trial" if any(r.role == "trial" for r in rows) else row.role,
        f"parapet.sweep.{sweep}": row.label or row.key,
        "parapet.attempts": str(story.attempt or ""),
        "parapet.started": _iso(story.first_t) if story.first_t else "",
        "parapet.host": str(started.get("host") or ""),
        "parapet.job": str(started.get("job") or ""),
        "parapet.device": str(started.get("device") or ""),
        "parapet.threads": str(started.get("threads") or ""),
        "parapet.versions": ", ".join(f"{name} {versions[name]}" for name in sorted(versions)),
    }
    return {name: value[:LONGEST_TAG] for name, value in facts.items() if value}


def _iso(t: int) -> str:
    return datetime.fromtimestamp(t / 1000, UTC).isoformat(timespec="seconds")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

"""What a sweep runs next, and what came of it: the ledger's rows, the search, seeds and helpers.

Knows nothing of Ray. Every row is on disk before it is handed out, and is known again by its configuration, seed, key
and evaluations. So whatever happened to an earlier driver, and however the file was extended since, nothing is
suggested twice, and only what is new is run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import yaml

from orchestrate import ledger
from orchestrate.events import Follower, story
from orchestrate.ledger import Row
from orchestrate.plan import Planner, Wanted
from orchestrate.runner import ask_to_stop
from orchestrate.runs import Runs, write_whole
from orchestrate.search import Config, Proposer, Values, fits, name_of
from orchestrate.sweep_file import Sweep

DROPPED = "no longer in the sweep file"


class Pause(Enum):
    """There is nothing to hand out: for now, or for good."""

    WAIT = "wait"
    OVER = "over"


@dataclass
class Group:
    """A configuration with its seeds: the search asked for it, and is told of it, as one."""

    config: Config
    rows: dict[int, Row] = field(default_factory=dict)
    told: bool = False


class Agenda:
    """The rows of one sweep; only the sweep's driver has one.

    Args:
        replay: hand out again what ended in an earlier run, first and in its order, so that a scheduler learns what
            it knew. How those rows ended stays.
        spent: is there nothing left to pay for more?
        room: most rows that may wait for others at a time: a search is not asked further ahead than that.
    """

    def __init__(
        self,
        sweep: Sweep,
        runs: Runs,
        planner: Planner,
        proposer: Proposer,
        *,
        replay: bool = False,
        room: int = 16,
        spent: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sweep, self.runs, self.planner, self.proposer = sweep, runs, planner, proposer
        self.file = runs.sweep(sweep.name).ledger_file
        self.replay, self.room, self.spent = replay, room, spent
        self.rows = {row.row: row for row in ledger.read(self.file)}
        self.plans: dict[int, Wanted] = {}  # by row
        self.groups: dict[str, Group] = {}
        self.replays: deque[Row] = deque()
        self.ready: deque[Row] = deque()
        self.scheduled: set[int] = set()  # rows that are, or were, in `ready`
        self.waiting: list[Row] = []
        self.missing: deque[tuple[Group, int]] = deque()  # seeds without a row
        self.running: dict[str, Row] = {}  # by key
        self.failed: dict[str, str] = {}  # keys that failed under this driver, with the reason
        self.trained: set[str] = set()  # helpers
        self.over = False
        self._followers: dict[str, Follower] = {}
        self._recall()

    def next(self) -> Row | Pause:
        """The next row to run; it is on disk, and so are its trial's spec and evaluations."""
        if self.replays:
            return self.replays.popleft()
        if self.spent():
            return Pause.OVER
        for row in [row for row in self.waiting if not self._blocked(row)]:
            self.waiting.remove(row)
            self.ready.appendleft(row)
        while True:
            while self.ready:
                row = self.ready.popleft()
                if self._blocked(row):
                    self.waiting.append(row)
                elif self._to_be_run(row):
                    self.running[row.key] = row
                    return row
            if len(self.waiting) >= self.room:
                return Pause.WAIT
            if not self._plan_more():
                self.over = not self.waiting
                self._settle_helpers()
                return Pause.OVER if self.over else Pause.WAIT

    def rest(self) -> list[Row]:
        """All that ``next`` would hand out now, one after the other; it still will."""
        rows = []
        while isinstance(row := self.next(), Row):
            rows.append(row)
        for row in reversed(rows):
            self.put_back(row)
        self.over = False
        return rows

    def put_back(self, row: Row) -> None:
        """Undo ``next``: the row was not needed after all."""
        if self.running.get(row.key) is row:
            del self.running[row.key]
            self.ready.appendleft(row)
        else:
            self.replays.appendleft(row)

    def spared(self, row: Row) -> bool:
        """Must no scheduler end it: because others need the network that it trains?"""
        needed = (helper.key for wanted in self.plans.values() for helper in _all_helpers(wanted))
        return row.role == "helper" or row.key in needed

    def done(self, row: Row, report: Mapping[str, Any]) -> None:
        """Take note of how a row that was handed out has ended.

        Args:
            report: the runner's last. When it says that the trial is running, the scheduler has stopped it.
        """
        if self.running.get(row.key) is not row:
            return  # a replay: it has ended already
        del self.running[row.key]
        if story(self.runs.trial(row.key).events).complete(row.evaluations):
            self._close(row, "finished")
        elif report["state"] == "failed":
            self._close(row, "failed", f"{report['kind']}: {report['reason']}")
        elif report["state"] == "running":
            if report["mine"]:
                ask_to_stop(self.runs.trial(row.key), "pruned")
            self._close(row, "pruned")
        self._settle_helpers()

    def _settle_helpers(self) -> None:
        """Close the rows of helpers that were trained as another row or by another sweep, once nothing more comes."""
        for row in self.rows.values():
            if not self.over or row.role != "helper" or row.state != "open" or row.key in self.running:
                continue
            if self._trained(row.key):
                self._set(row, "finished")
            elif row.key in self.failed:
                self._set(row, "failed", self.failed[row.key])
            else:
                self._set(row, "pruned", DROPPED)

    def _recall(self) -> None:
        """Take up what an earlier driver left."""
        for row in self.rows.values():
            wanted = self._wanted(row)
            if wanted is None:
                continue
            group = self.groups.setdefault(name_of(row.config), Group(row.config))
            if set(wanted.evaluations) == set(row.evaluations):
                group.rows[row.seed] = row
                self.plans[row.row] = wanted
        needed = {helper.key for wanted in self.plans.values() for helper in _all_helpers(wanted)}
        for row in self.rows.values():
            current = row.row in self.plans
            if current and row.state == "pruned" and row.reason == DROPPED:
                self._set(row, "open")
            if current and row.state == "finished" and not self._still_there(row):
                self._set(row, "open")  # another sweep has set it aside, to train it again
            if current and row.state == "open":
                self._schedule(row)
            elif current and self.replay and story(self.runs.trial(row.key).events).epochs:
                self.replays.append(row)
            elif not current and row.state == "open" and not (row.role == "helper" and row.key in needed):
                self._set(row, "pruned", DROPPED)
        for group in self.groups.values():
            self.missing += [(group, s) for s in self.sweep.seeds_of(group.config) if s not in group.rows]
            self._tell(group)

    def _still_there(self, row: Row) -> bool:
        return story(self.runs.trial(row.key).events).complete(row.evaluations)

    def _schedule(self, row: Row, first: bool = False) -> None:
        self.scheduled.add(row.row)
        (self.ready.appendleft if first else self.ready.append)(row)

    def _wanted(self, row: Row) -> Wanted | None:
        """What a row of the ledger stands for, if the sweep still wants it."""
        if row.role != "trial" or not fits(row.config, self.sweep):
            return None
        if row.seed not in self.sweep.seeds_of(row.config):
            return None
        wanted = self.planner.want(row.config, row.seed)
        return wanted if wanted.key == row.key else None

    def _plan_more(self) -> bool:
        """Make the next row: another seed of a configuration, or the first of a new one. False when all are made."""
        while not self.missing:
            samples = self.sweep.search.samples
            if samples is not None and len(self.groups) >= samples:
                return False
            config = self.proposer.ask()
            if config is None:
                return False
            if name_of(config) not in self.groups:
                group = self.groups[name_of(config)] = Group(config)
                self.missing += [(group, seed) for seed in self.sweep.seeds_of(config)]
        group, seed = self.missing.popleft()
        wanted = self.planner.want(group.config, seed)
        group.rows[seed] = self._append(wanted, "trial")
        self._schedule(group.rows[seed])
        return True

    def _append(self, wanted: Wanted, role: str) -> Row:
        row = Row(
            row=max(self.rows, default=-1) + 1,
            key=wanted.key,
            config=wanted.config,
            seed=wanted.seed,
            role=role,
            evaluations=list(wanted.evaluations),
            label=wanted.label,
            formula=wanted.formula,
            configuration=wanted.configuration,
            images=wanted.images,
            cost=wanted.cost,
            tags=self.sweep.tags_of(wanted.config) if role == "trial" else {},
        )
        ledger.append(self.file, row)
        self.rows[row.row], self.plans[row.row] = row, wanted
        return row

    def _blocked(self, row: Row) -> bool:
        """Must it wait: for another row of its own key, or for a helper that is still to be trained?"""
        if row.key in self.running:
            return True
        helpers = self.plans[row.row].helpers
        return any(self._lacks(helper) for helper in helpers if helper.key not in self.failed)

    def _lacks(self, helper: Wanted) -> bool:
        """Is the helper still untrained? Makes sure that a row of this sweep trains it."""
        if self._trained(helper.key):
            return False
        rows = [row for row in self.rows.values() if row.key == helper.key]
        if not any(row.state == "open" and row.row in self.scheduled for row in rows):
            own = next((row for row in rows if row.role == "helper"), None)
            if own is None:
                own = self._append(helper, "helper")
            elif own.state != "open":  # it failed, or was not needed any more, under an earlier driver
                self._set(own, "open")
            self.plans[own.row] = helper
            self._schedule(own, first=True)
        return True

    def _trained(self, key: str) -> bool:
        """Asked again and again of trials that are waited for, so only what is new is read."""
        if key not in self._followers:
            self._followers[key] = Follower(self.runs.trial(key).events)
        if key not in self.trained and any(e["event"] == "trained" for e in self._followers[key].new()):
            self.trained.add(key)
        return key in self.trained

    def _to_be_run(self, row: Row) -> bool:
        """Put the trial's directory in order. False when the row is closed already: complete, or its helper failed."""
        wanted = self.plans[row.row]
        trial = self.runs.trial(row.key)
        trial.create(wanted.spec)
        for helper in wanted.helpers:
            if helper.key in self.failed and not self._trained(helper.key):
                self._close(row, "failed", f"helper: {helper.label} {helper.key}: {self.failed[helper.key]}")
                return False
        for digest, evaluation in wanted.evaluations.items():
            if not trial.evaluation_file(digest).exists():
                text = yaml.safe_dump(evaluation.model_dump(mode="json"), sort_keys=False)
                write_whole(trial.evaluation_file(digest), text)
        if not self.replay and story(self.runs.trial(row.key).events).complete(row.evaluations):
            self._close(row, "finished")
            return False
        return True

    def _close(self, row: Row, state: str, reason: str = "") -> None:
        self._set(row, state, reason)
        if state == "failed":
            self.failed[row.key] = reason
        for group in self.groups.values():
            if any(own is row for own in group.rows.values()):
                self._tell(group)

    def _set(self, row: Row, state: str, reason: str = "") -> None:
        ledger.close(self.file, row.row, state, reason)
        row.state, row.reason = state, reason

    def _tell(self, group: Group) -> None:
        """Tell the search of a configuration once all its seeds have ended."""
        rows = group.rows.values()
        if group.told or len(rows) < len(self.sweep.seeds_of(group.config)):
            return
        if any(row.state == "open" for row in rows):
            return
        group.told = True
        values = [v for row in rows if row.state != "failed" and (v := self._values(row.key))]
        count = len(values)
        means = (sum(c for c, _ in values) / count, sum(r for _, r in values) / count) if values else None
        self.proposer.tell(group.config, means)

    def _values(self, key: str) -> Values | None:
        """(clean, robust) that the search goes by: on the images for selection, never the outcome on test images."""
        told = story(self.runs.trial(key).events)
        looks = [told.trained] if told.trained else told.epochs
        judged = [look["metrics"] for look in looks if "val/robust" in look["metrics"]]
        if not judged:
            return None
        best = max(judged, key=lambda metrics: float(metrics["val/robust"]))
        return float(best["val/clean"]), float(best["val/robust"])


def _all_helpers(wanted: Wanted) -> list[Wanted]:
    """Helpers, and their helpers."""
    return [each for helper in wanted.helpers for each in (helper, *_all_helpers(helper))]

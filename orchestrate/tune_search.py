"""Ray Tune's side of a sweep: a Searcher that hands out the agenda's rows, and the scheduler of the sweep file.

Tune believes that it searches. What is run is decided by the agenda, on disk, before Tune hears of it; so a sweep is
gone on with by asking the agenda again, and never by restoring Tune.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrate.actor import TrialActor, to_config
from orchestrate.agenda import Agenda, Pause
from orchestrate.ledger import Row
from orchestrate.runner import Task
from orchestrate.sections import Scheduler

NEVER = 2**31  # epochs: ASHA would otherwise end a trial in its last epoch, before it is evaluated
ACTOR_FAILURES = 3  # times that Tune starts a trial's actor again


class TuneSearch(Searcher):  # type: ignore[misc]  # ray is not typed
    """The agenda as Tune's search algorithm.

    Args:
        task_of: what a trial's actor is to do for a row.
        at_once: most trials at a time.
        settle: called with a row's trial before the agenda hears how it ended: has all of it come here?
    """

    def __init__(
        self,
        agenda: Agenda,
        task_of: Callable[[Row], Task],
        at_once: int,
        settle: Callable[[str], None] = lambda key: None,
    ) -> None:
        super().__init__()
        self.agenda, self.task_of, self.at_once, self.settle = agenda, task_of, at_once, settle
        self.rows: dict[str, Row] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next row as a config; None: not now; FINISHED: never again."""
        if len(self.rows) >= self.at_once:
            return None
        row = self.agenda.next()
        if row is Pause.WAIT:
            return None
        if isinstance(row, Pause):
            return str(Searcher.FINISHED)
        self.rows[trial_id] = row
        return to_config(self.task_of(row))

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has ended, was ended by the scheduler, or its actor could not be kept alive (``error``)."""
        row = self.rows.pop(trial_id)
        if error or result is None or "state" not in result:
            result = {"state": "failed", "kind": "crash", "reason": "its Tune actor died", "done": True}
        self.settle(row.key)
        self.agenda.done(row, result)

    def spared(self, trial_id: str) -> bool:
        """Must no scheduler end this trial?"""
        return trial_id in self.rows and self.agenda.spared(self.rows[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is what there is to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as nothing is saved."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher at the start, in order to restore it; see ``save``."""
        return {}


class SparingASHA(ASHAScheduler):  # type: ignore[misc]  # ray is not typed
    """ASHA among the trials that compete. A helper does not: standard training is never robust, and HAT needs it.

    Args:
        spared: whether a trial, by its id, is left alone.
    """

    def __init__(self, spared: Callable[[str], bool], **options: Any) -> None:
        super().__init__(**options)
        self.spared = spared
        self.known: set[str] = set()  # spared so far: at its end a trial's row is gone already

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop or go on."""
        if self.spared(trial.trial_id):
            self.known.add(trial.trial_id)
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its last result counts for others, unless it was spared."""
        if trial.trial_id not in self.known:
            super().on_trial_complete(tune_controller, trial, result)


def scheduler(asked: Scheduler, spared: Callable[[str], bool]) -> TrialScheduler:
    """Who ends trials early, except those that are spared. Epochs are counted as done: 1 after the first."""
    if asked.name == "none":
        return FIFOScheduler()
    return SparingASHA(
        spared,
        time_attr="epoch",
        metric=asked.metric,
        mode="max",
        max_t=NEVER,
        grace_period=asked.grace_epochs,
        reduction_factor=asked.reduction,
    )


def tuner(search: TuneSearch, scheduler: TrialScheduler, folder: Path) -> tune.Tuner:
    """A Tuner that writes only below ``folder``, prints nothing, and keeps actors from trial to trial."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(search.at_once)
    return tune.Tuner(
        TrialActor,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=ACTOR_FAILURES),
            verbose=0,
        ),
    )

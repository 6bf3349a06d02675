"""One sweep's place in MLflow: its experiment, its parent run, and the runs of its trials, found again by tags.

Everything here may be done twice, by two relays at once or after a kill, without a second effect.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrate.locks import Lock, LockHeld
from orchestrate.runs import Runs, SweepDir
from orchestrate.tracking import database
from orchestrate.tracking.artifacts import Artifact
from orchestrate.tracking.content import Metric, Status

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

MOST_METRICS, MOST_OTHERS = 1000, 100  # that MLflow takes in one call
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST")
CREATING_S = 60.0  # patience with another relay that creates a run


class Unreachable(RuntimeError):
    """MLflow could not be asked, or could not do it now: the same may work later."""


class Refused(RuntimeError):
    """MLflow understood and refused: the same will never work. Most often somebody deleted the run."""


@contextmanager
def asking() -> Iterator[None]:
    """Whatever MLflow and its libraries raise, as Unreachable or Refused with one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, LockHeld) as error:
        why = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        refused = getattr(error, "error_code", "") in REFUSALS
        raise (Refused(why) if refused else Unreachable(why)) from error


class Tracker:
    """See the module. Its methods raise Unreachable or Refused."""

    def __init__(self, runs: Runs, client: MlflowClient, experiment: str, sweep: str) -> None:
        self.runs, self.client, self.experiment, self.sweep = runs, client, experiment, sweep
        self.identity = database.identity(runs)
        self.parent = ""

    @classmethod
    def open(cls, runs: Runs, sweep: SweepDir, project: str, tags: Mapping[str, str]) -> Tracker:
        """Prepare the store, the experiment and the sweep's parent run, which is then RUNNING.

        Raises UserError when the store cannot be used.
        """
        client = database.prepare(runs)
        experiment = database.experiment(client, runs, project)
        try:
            tracker = cls(runs, client, experiment, sweep.name)
            tracker.parent = tracker._parent()
            tracker.log(tracker.parent, tags=tags)
            tracker.set_status(tracker.parent, "RUNNING")
        except (Refused, Unreachable) as error:
            raise database.unusable(runs, str(error)) from error
        return tracker

    @asking()
    def trial(self, key: str, began: int | None, label: str) -> str:
        """The id of a trial's run, made when there is none; ``began`` is the time of its first event.

        A run of the same key that began at another time is of a training that was thrown away to train again. It
        stays, but its key becomes the tag ``parapet.superseded``: one key, one run.
        """
        story = str(began or "")
        known = self._of(story, self._find(key))
        if known:
            return known
        with Lock(self.runs.path / "mlflow.lock", wait_s=CREATING_S):
            found = self._find(key)
            known = self._of(story, found)  # another relay may have been quicker
            if known:
                return known
            for run in found:
                self.client.set_tag(run.info.run_id, "parapet.superseded", key)
                self.client.delete_tag(run.info.run_id, "parapet.key")
            facts = {
                "parapet.key": key,
                "parapet.runs": self.identity,
                "parapet.began": story,
                "mlflow.parentRunId": self.parent,
            }
            made = self.client.create_run(self.experiment, start_time=began, tags=facts, run_name=label)
        return str(made.info.run_id)

    @asking()
    def log(
        self,
        run: str,
        metrics: Sequence[Metric] = (),
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log in as few calls as MLflow allows."""
        from mlflow import entities

        points = [entities.Metric(m.name, m.value, m.t, m.step) for m in metrics]
        for batch in _batches(points, MOST_METRICS):
            self.client.log_batch(run, metrics=batch)
        given = [entities.Param(name, value) for name, value in (parameters or {}).items()]
        for batch in _batches(given, MOST_OTHERS):
            self.client.log_batch(run, params=batch)
        named = [entities.RunTag(name, value) for name, value in (tags or {}).items()]
        for batch in _batches(named, MOST_OTHERS):
            self.client.log_batch(run, tags=batch)

    @asking()
    def remove_tag(self, run: str, name: str) -> None:
        """Remove a tag; one that is not there is removed already."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_tag(run, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    @asking()
    def set_status(self, run: str, status: Status, t: int | None = None) -> None:
        """Say how a run stands; ``t`` is when it ended."""
        if status == "RUNNING":
            self.client.update_run(run, status=status)
        else:
            self.client.set_terminated(run, status=status, end_time=t)

    @asking()
    def upload(self, run: str, artifact: Artifact) -> None:
        """Copy a file into a run."""
        with tempfile.TemporaryDirectory(prefix="parapet-") as folder:
            file = artifact.make(Path(folder))
            place = artifact.path.rpartition("/")[0]
            self.client.log_artifact(run, str(file), place or None)

    @asking()
    def remove_doubles(self, told: Mapping[str, str]) -> None:
        """Delete runs of this sweep that are not the one ``told`` names for their key.

        A server may make a run after we gave up waiting for it and made another; it never holds anything.
        """
        for run in self._search(f"tags.`mlflow.parentRunId` = '{self.parent}'"):
            ours = told.get(run.data.tags.get("parapet.key", ""))
            if ours and run.info.run_id != ours:
                self.client.delete_run(run.info.run_id)

    @asking()
    def _parent(self) -> str:
        where = f"tags.`parapet.sweep` = '{self.sweep}' and tags.`parapet.runs` = '{self.identity}'"
        with Lock(self.runs.path / "mlflow.lock", wait_s=CREATING_S):
            found = self._search(where)
            if found:
                return str(found[0].info.run_id)
            facts = {"parapet.sweep": self.sweep, "parapet.runs": self.identity}
            made = self.client.create_run(self.experiment, tags=facts, run_name=self.sweep)
        return str(made.info.run_id)

    def _of(self, story: str, found: Sequence[Run]) -> str | None:
        """The run of this story, or one that was made before the trial had any (it had failed before it began)."""
        for run in found:
            told = run.data.tags.get("parapet.began", "")
            if told in (story, ""):
                if told != story:
                    self.client.set_tag(run.info.run_id, "parapet.began", story)
                return str(run.info.run_id)
        return None

    def _find(self, key: str) -> list[Run]:
        return self._search(f"tags.`parapet.key` = '{key}' and tags.`parapet.runs` = '{self.identity}'")

    def _search(self, where: str) -> list[Run]:
        found: list[Run] = []
        token = None
        while token is None or token:
            page = self.client.search_runs(
                [self.experiment], where, order_by=["start_time ASC"], page_token=token
            )
            found += page
            token = page.token or ""
        return found


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))

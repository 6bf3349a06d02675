"""A tracked trial as MLflow holds it: what it was, what it measured, and its files. RUNS is not looked into."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrate.runs import Runs
from orchestrate.tracking import database
from training.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

SWEEP = "parapet.sweep."  # of a trial's run, before the name of a sweep that wants it
NEAREST = 3  # ids that are shown when one is unknown
CLOSE = 0.7  # how like an unknown id they are, at least: two random ones are at 0.3 to 0.5
SHORTEST = 4  # characters of a beginning that may stand for an id

History = Mapping[int, float]  # a metric by its step


@dataclass(frozen=True)
class Original:
    """A finished trial of the store.

    Args:
        run: its id in MLflow; parent: the run of its sweep; experiment: the id of what both are in.
        key: of its spec and images, as its own parapet computed it.
        metrics: every point of every metric.
    """

    run: str
    parent: str
    experiment: str
    key: str
    label: str
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    metrics: Mapping[str, History]


class Store:
    """A tracking store, to read from. Its methods raise UserError when it does not answer."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        address = database.uri(runs)
        if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
            raise UserError(f"--runs: there is no tracking store at {address}")
        self.client: MlflowClient = database.prepare(runs)

    def find(self, given: str) -> Original:
        """The trial whose run's id, or whose key, is or begins with ``given``.

        Raises UserError: there is none (with the nearest), it has not finished, or it is no training.
        """
        run = self._run(given)
        tags: dict[str, str] = run.data.tags
        key = tags.get("parapet.key") or tags.get("parapet.superseded") or ""
        called = f"run {run.info.run_id} ({run.info.run_name})"
        _expect_training(called, key, run)
        if run.info.status != "FINISHED":
            why = tags.get("parapet.reason", "")
            raise UserError(
                f"{called}: is {run.info.status}{f' ({why})' if why else ''};"
                " only a trial that has finished can be compared"
            )
        return Original(
            run=run.info.run_id,
            parent=tags.get("mlflow.parentRunId", ""),
            experiment=run.info.experiment_id,
            key=key,
            label=run.info.run_name,
            tags=tags,
            parameters=run.data.params,
            metrics={name: self._history(run.info.run_id, name) for name in sorted(run.data.metrics)},
        )

    def trained(self, key: str, experiment: str) -> str | None:
        """The id of a run of the trial of this key: one with checkpoints, in the same experiment, where there is."""
        if not key.isalnum():
            return None

        def order(run: Run) -> tuple[bool, bool, bool]:
            bare = not self.files(run.info.run_id, "checkpoints")
            return bare, run.info.experiment_id != experiment, run.info.status != "FINISHED"

        found = sorted(self._search(f"tags.`parapet.key` = '{key}'"), key=order)
        return str(found[0].info.run_id) if found else None

    def fetch_results(self, original: Original, into: Path) -> None:
        """Copies of the checkpoints and outcomes of a trial, in ``into`` as it is made anew."""
        shutil.rmtree(into, ignore_errors=True)
        for kind in ("checkpoints", "outcomes"):
            for path in self.files(original.run, kind):
                self.fetch(original.run, path, into / kind)

    def sweeps(self, original: Original) -> list[str]:
        """The runs of all sweeps that wanted a trial, that which it is below first."""
        names = [name.removeprefix(SWEEP) for name in original.tags if name.startswith(SWEEP)]
        found = [run for name in names for run in self._search(f"tags.`parapet.sweep` = {_quoted(name)}")]
        return list(dict.fromkeys([*filter(None, [original.parent]), *(run.info.run_id for run in found)]))

    def files(self, run: str, folder: str = "") -> list[str]:
        """The paths of a run's files in one of its folders; none when it has no such folder."""
        with self._asking():
            return [file.path for file in self.client.list_artifacts(run, folder or None) if not file.is_dir]

    def fetch(self, run: str, path: str, into: Path) -> Path | None:
        """A copy of one of a run's files in the folder ``into``, under its own name; None when it has none."""
        from mlflow.artifacts import download_artifacts

        if path not in self.files(run, path.rpartition("/")[0]):
            return None
        into.mkdir(parents=True, exist_ok=True)
        with self._asking():
            got = download_artifacts(
                run_id=run, artifact_path=path, dst_path=str(into), tracking_uri=self.client.tracking_uri
            )
        place = into / Path(path).name
        return Path(got).replace(place) if Path(got) != place else place

    def text(self, run: str, path: str, into: Path) -> str:
        """The text of one of a run's files; empty when it has none."""
        file = self.fetch(run, path, into)
        return file.read_text(errors="surrogateescape") if file else ""

    def _run(self, given: str) -> Run:
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(given)
            if run.info.lifecycle_stage == "active":
                return run
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise database.unusable(self.runs, str(error)) from error
        known = {run.info.run_id: run for run in self._search() if run.data.tags.get("parapet.key")}
        begun = [
            run
            for id_, run in known.items()
            if len(given) >= SHORTEST
            and (id_.startswith(given) or run.data.tags["parapet.key"].startswith(given))
        ]
        if len(begun) == 1:
            return begun[0]
        near = [run.info.run_id for run in begun] or difflib.get_close_matches(given, known, NEAREST, CLOSE)
        told = ", ".join(f"{id_} ({known[id_].info.run_name})" for id_ in near[:NEAREST])
        held = f"; it holds {len(known)} trials" if known else "; it holds no trial"
        hint = f"; the nearest: {told}" if told else held
        what = "more than one run begins with" if begun else "there is no run"
        raise UserError(f"{database.shown(database.uri(self.runs))}: {what} '{given}'{hint}")

    def _history(self, run: str, name: str) -> dict[int, float]:
        """A metric by its step; of a step that was told twice, the first."""
        with self._asking():
            points = self.client.get_metric_history(run, name)
        history: dict[int, float] = {}
        for point in sorted(points, key=lambda p: (p.step, p.timestamp)):
            history.setdefault(point.step, point.value)
        return history

    def _search(self, where: str = "") -> Iterator[Run]:
        with self._asking():
            experiments = [e.experiment_id for e in self.client.search_experiments()]
            token: str | None = None
            while experiments and (token is None or token):
                page: Any = self.client.search_runs(experiments, where, page_token=token)
                yield from page
                token = page.token or ""

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from orchestrate.tracking.tracker import Refused, Unreachable, asking

        try:
            with asking():
                yield
        except (Refused, Unreachable) as error:
            raise database.unusable(self.runs, str(error)) from error


def _expect_training(called: str, key: str, run: Run) -> None:
    tags = run.data.tags
    if "parapet.reproduces" in tags:
        raise UserError(f"{called}: is a reproduction itself, of run {tags['parapet.reproduces']}")
    if "parapet.sweep" in tags:
        raise UserError(f"{called}: is a sweep; give the run of one of its trials")
    if not key:
        raise UserError(f"{called}: is no trial of parapet's (it has no tag parapet.key)")
    if "loss" not in run.data.metrics:
        raise UserError(f"{called}: holds no training, so there is nothing to train again")


def _quoted(text: str) -> str:
    """A text in a search: sweeps' names hold no quotes, and a store's are not trusted to be sweeps'."""
    return "'" + text.replace("'", "").replace("\\", "") + "'"

"""What came out here: the tracked runs of a sheet's rows, and what they measured, read from MLflow.

A run repeats a row when its configuration is the row's (``parapet.configuration``: the same training but for the
seed), whichever sweep trained it. A run that ``parapet papers run`` made for a row with other settings carries the
row's tag, ``paper/ROW``, which says what was other: it is scaled-down, and shown as that. Accuracies are read from the
runs' per-image outcomes, so what attack they mean, and on how many images, is never guessed.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.spec import EvaluationSpec
from orchestrate import configuration
from orchestrate.papers.sheet import Column, Row, Sheet
from orchestrate.runs import Runs
from orchestrate.tracking import database
from training.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from evaluation.outcomes import Outcome

TAG = "paper/"  # of a run that was made for a row, before the row's id
FULL = "full"  # its value when nothing was changed; else what was


@dataclass(frozen=True)
class Measured:
    """One number of one run, in %. ``whole``: on all test images."""

    value: float
    images: int
    whole: bool


@dataclass(frozen=True)
class Ours:
    """One finished run of a row. ``scaled`` says what was other than in the row; empty: nothing, a repetition."""

    run: str
    key: str
    seed: int
    scaled: str
    outcomes: tuple[Outcome, ...]

    def measured(self, column: Column, checkpoint: str) -> Measured | None:
        """What this run has for a column, on as many images as there are; None where it was not evaluated so."""
        wanted = column.evaluation(checkpoint)
        at = column.checkpoint or checkpoint
        if column.not_yet:
            return None
        found = []
        for outcome in self.outcomes:
            spec = EvaluationSpec.model_validate(outcome.facts["spec"])
            eps = outcome.facts["threat"]["eps"]
            if spec.checkpoint == at and (wanted is None or _same(spec, wanted, eps)):
                right = outcome.columns["correct" if wanted is None else "robust"]
                found.append(Measured(100 * float(np.mean(right)), len(right), spec.images is None))
        return max(found, key=lambda one: one.images) if found else None


def find(runs: Runs, sheets: Iterable[Sheet]) -> dict[str, list[Ours]]:
    """The finished runs of every row of some sheets, by the row's id. Raises UserError where the store is no use."""
    if not _there(runs):
        return {}
    rows_of: dict[str, list[str]] = defaultdict(list)
    for row in (row for sheet in sheets for row in sheet.rows if row.sections is not None):
        rows_of[configuration_of(row)].append(row.id)
    wanted = {name for names in rows_of.values() for name in names}
    found: dict[str, dict[str, Ours]] = defaultdict(dict)
    with tempfile.TemporaryDirectory(prefix="parapet-") as scratch:
        for client, run in _finished(runs):
            tags = run.data.tags
            full = rows_of.get(tags.get("parapet.configuration", ""), [])
            other = {row: tags[tag_of(row)] for row in wanted if tag_of(row) in tags and row not in full}
            if not full and not other:
                continue
            ours = _read(client, run, Path(scratch))
            if not ours.outcomes:
                continue
            for name in full:
                found[name].setdefault(ours.key, ours)
            for name, text in other.items():
                scaled = text if text != FULL else "another version of the row"
                found[name].setdefault(ours.key, replace(ours, scaled=scaled))
    return {name: sorted(by_key.values(), key=lambda o: (o.seed, o.key)) for name, by_key in found.items()}


def tag_of(row: str) -> str:
    """The tag of a run that was made for a row. (MLflow takes no ``+`` in names.)"""
    return f"{TAG}{row.replace('+', ':')}"


def configuration_of(row: Row) -> str:
    """The configuration that a run must have to be a repetition of a row."""
    spec = row.spec()
    assert spec is not None, "only of rows that can be trained"
    try:
        return configuration.of(spec)[1]
    except UserError as error:
        raise UserError(f"{row.id}: {error}") from None


def _same(spec: EvaluationSpec, wanted: EvaluationSpec, eps: float) -> bool:
    """The same attacks with the same strength, on however many images."""
    if spec.attacks != wanted.attacks:
        return False
    return "pgd" not in wanted.attacks or _strength(spec, eps) == _strength(wanted, eps)


def _strength(spec: EvaluationSpec, eps: float) -> tuple[int, float, int]:
    step = eps / 4 if spec.pgd_step_size is None else spec.pgd_step_size
    return spec.pgd_steps, round(step, 9), spec.pgd_restarts


def _there(runs: Runs) -> bool:
    """Is there a store to look into?"""
    address = database.uri(runs)
    return not address.startswith("sqlite:///") or Path(address.removeprefix("sqlite:///")).exists()


def _finished(runs: Runs) -> Iterator[tuple[MlflowClient, Run]]:
    """All finished runs of trials, the last ones first."""
    from mlflow.exceptions import MlflowException

    client = database.prepare(runs)
    try:
        experiments = [e.experiment_id for e in client.search_experiments()]
        token = None
        while experiments and (token is None or token):
            page = client.search_runs(
                experiments,
                "attributes.status = 'FINISHED' and tags.`parapet.role` = 'trial'",
                order_by=["start_time DESC"],
                page_token=token,
                max_results=1000,
            )
            for run in page:
                yield client, run
            token = page.token or ""
    except MlflowException as error:
        why = str(error).strip().partition("\n")[0]
        raise UserError(f"{database.uri(runs)}: cannot be read: {why}") from None


def _read(client: MlflowClient, run: Run, scratch: Path) -> Ours:
    """A run with its outcomes; a damaged one is left out."""
    from evaluation import outcomes

    read: list[Outcome] = []
    for place in _outcome_files(client, run.info.run_id, scratch):
        try:
            read.append(outcomes.read(place))
        except UserError:
            continue
    tags: dict[str, Any] = run.data.tags
    seed = int(run.data.params.get("seed", 0))
    return Ours(run.info.run_id, tags.get("parapet.key", run.info.run_id), seed, "", tuple(read))


def _outcome_files(client: MlflowClient, run_id: str, scratch: Path) -> list[Path]:
    """Its outcome files, on this machine."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        listed = [one.path for one in client.list_artifacts(run_id, "outcomes")]
        folder = scratch / run_id
        folder.mkdir(exist_ok=True)
        return [
            Path(
                download_artifacts(
                    run_id=run_id,
                    artifact_path=path,
                    dst_path=str(folder),
                    tracking_uri=client.tracking_uri,
                )
            )
            for path in listed
            if path.endswith(".parquet")
        ]
    except (MlflowException, OSError) as error:
        why = str(error).strip().partition("\n")[0]
        raise UserError(f"MLflow: the outcomes of run {run_id} cannot be read: {why}") from None

"""What came out here: the tracked runs of a sheet's rows, found in MLflow.

A run repeats a row when its configuration is the row's (``parapet.configuration``: the same training but for the
seed), whichever sweep trained it, on as many images as the data set has. A run that ``parapet papers run`` made for a
row with other settings carries the row's tag, ``paper/ROW``, which says what was other: it is scaled-down, and shown
as that. Accuracies are read from the runs' per-image outcomes, so what attack they mean, and on how many images, is
never guessed.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrate import configuration
from orchestrate.papers.images import DATA
from orchestrate.papers.sheet import Row, Sheet
from orchestrate.runs import Runs
from orchestrate.tracking import database
from training.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from evaluation.outcomes import Outcome

TAG = "paper/"  # of a run that was made for a row, before the row's id
FULL = "full"  # its value when nothing was changed; else what was
CONFIGURATION, IMAGES = "parapet.configuration", "parapet.images"


@dataclass(frozen=True)
class Ours:
    """One trained network of a row, by all its finished runs. ``scaled`` says what was other than in the row.

    Nothing was where it is empty: then it is a repetition. ``began``: milliseconds since 1970.
    """

    key: str
    seed: int
    scaled: str
    outcomes: tuple[Outcome, ...]
    began: int = 0


def find(runs: Runs, sheets: Iterable[Sheet]) -> dict[str, list[Ours]]:
    """The finished runs of every row of some sheets, by the row's id. Raises UserError where the store is no use."""
    if not _there(runs):
        return {}
    rows = {row.id: row for sheet in sheets for row in sheet.rows if row.sections is not None}
    rows_of: dict[str, list[str]] = defaultdict(list)
    for row in rows.values():
        rows_of[configuration_of(row)].append(row.id)
    found: dict[str, dict[str, Ours]] = defaultdict(dict)
    with tempfile.TemporaryDirectory(prefix="parapet-") as scratch:
        for client, run in _finished(runs):
            tags = run.data.tags
            reasons = {
                name: _other_images(rows[name], tags) for name in rows_of.get(tags.get(CONFIGURATION, ""), [])
            }
            for name in rows.keys() - reasons.keys():
                if tag_of(name) in tags:
                    text = tags[tag_of(name)]
                    reasons[name] = text if text != FULL else "another version of the row"
            ours = _read(client, run, Path(scratch)) if reasons else None
            if ours is None or not ours.outcomes:
                continue
            for name, reason in reasons.items():
                known = found[name].get(ours.key)  # a store of several folders may have a network twice
                outcomes = (known.outcomes if known else ()) + ours.outcomes
                scaled = known.scaled or reason if known else reason
                found[name][ours.key] = replace(known or ours, scaled=scaled, outcomes=outcomes)
    return {name: sorted(by_key.values(), key=lambda o: (o.seed, o.key)) for name, by_key in found.items()}


def _other_images(row: Row, tags: Mapping[str, str]) -> str:
    """Why a run of a row's configuration was not trained on the row's images, as far as their number tells."""
    spec = row.spec()
    assert spec is not None, "only of rows that can be trained"
    data = DATA.get(spec.data.name)
    images = tags.get(IMAGES, "")
    if data is None or not data.counted or not images or int(images) == (spec.data.train_size or data.train):
        return ""
    return f"{int(images):,} training images in place of {data.train:,}"


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


def _there(runs: Runs) -> bool:
    """Is there a store to look into? Raises UserError where RUNS cannot hold one."""
    if runs.path.exists() and not runs.path.is_dir():
        raise UserError(f"--runs: {runs.path} is no folder")
    address = database.uri(runs)
    return not address.startswith("sqlite:///") or Path(address.removeprefix("sqlite:///")).exists()


def _finished(runs: Runs) -> Iterator[tuple[MlflowClient, Run]]:
    """All finished runs that stand for a key, the last ones first; not those of a training that was thrown away."""
    from mlflow.exceptions import MlflowException

    client = database.prepare(runs)
    try:
        experiments = [e.experiment_id for e in client.search_experiments()]
        token = None
        while experiments and (token is None or token):
            page = client.search_runs(
                experiments,
                "attributes.status = 'FINISHED'",
                order_by=["start_time DESC"],
                page_token=token,
                max_results=1000,
            )
            yield from ((client, run) for run in page if "parapet.key" in run.data.tags)
            token = page.token or ""
    except MlflowException as error:
        why = str(error).strip().partition("\n")[0]
        raise UserError(database.shown(f"{database.uri(runs)}: cannot be read: {why}")) from None


def _read(client: MlflowClient, run: Run, scratch: Path) -> Ours:
    """A run with its outcomes; a damaged one is left out."""
    from evaluation import outcomes

    read: list[Outcome] = []
    for place in _outcome_files(client, run.info.run_id, scratch):
        try:
            read.append(outcomes.read(place))
        except UserError:
            continue
    seed = int(run.data.params.get("seed", 0))
    return Ours(run.data.tags["parapet.key"], seed, "", tuple(read), run.info.start_time or 0)


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

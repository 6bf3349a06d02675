"""Networks that a method needs and that are there already: a trial of this store, a tracked run, or a file."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrate.events import story
from orchestrate.overrides import REFERENCES
from orchestrate.runs import Runs
from orchestrate.tracking import database
from training.errors import UserError

CHECKPOINT = "last.pt"  # a helper is the network at the end of its training


def is_reference(given: Mapping[str, Any]) -> bool:
    """Does this say where a trained network is, rather than how to train one?"""
    return any(name in given for name in REFERENCES)


def refer(given: Mapping[str, Any], where: str, runs: Runs, downloads: Path) -> dict[str, str]:
    """``{key: KEY}`` or ``{path: FILE, digest: SHA256}`` for what a user wrote.

    Args:
        given: ``{key: KEY}`` of a trial in ``runs`` (its beginning is enough), ``{run: RUN_ID}`` in MLflow, or
            ``{path: FILE}``.
        where: how messages call the field.
        downloads: where the checkpoint of a run goes whose trial is not in ``runs``.

    Raises:
        UserError: naming the field and what is not there.
    """
    if len(given) != 1:
        one = " or ".join(f"{{{name}: ...}}" for name in REFERENCES)
        raise UserError(
            f"{where}: a network that is there already is given by {one} alone, got {dict(given)}"
        )
    ((kind, value),) = given.items()
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}.{kind}: should be a text, got {value!r}")
    if kind == "path":
        return _file(Path(value), f"{where}.path")
    if kind == "key":
        return {"key": _trained(runs, value, f"{where}.key")}
    return _run(value, f"{where}.run", runs, downloads)


def _trained(runs: Runs, prefix: str, where: str) -> str:
    try:
        trial = runs.find(prefix)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if story(trial.events).trained is None:
        raise UserError(
            f"{where}: trial {trial.key} has not been trained to its end (parapet show {trial.key})"
        )
    return trial.key


def _file(file: Path, where: str) -> dict[str, str]:
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{where}: {file} cannot be read: {error.strerror}") from None
    return {"path": str(file), "digest": digest}


def _run(run_id: str, where: str, runs: Runs, downloads: Path) -> dict[str, str]:
    """By the run's key where its trial is in this store and trained, else by a copy of its checkpoint."""
    address = database.uri(runs)
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
        raise UserError(f"{where}: there is no tracking store yet at {address}")
    database.quieten()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        run = MlflowClient(address).get_run(run_id)
        key = run.data.tags.get("parapet.key", "")
        if key and runs.trial(key).spec_file.exists() and story(runs.trial(key).events).trained:
            return {"key": key}
        file = downloads / run_id / CHECKPOINT
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=file.parent) as draft:
                artifact = f"checkpoints/{CHECKPOINT}"
                got = download_artifacts(
                    run_id=run_id, artifact_path=artifact, dst_path=draft, tracking_uri=address
                )
                Path(got).replace(file)
    except (MlflowException, OSError) as error:
        why = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{where}: {database.shown(address)} has no checkpoint of run '{run_id}': {why}"
        ) from None
    return _file(file, where)

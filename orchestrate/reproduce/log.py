"""The verdict as a run of its own in MLflow, below the run that it is about, with the metrics that came out now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orchestrate import events
from orchestrate.reproduce.compare import Comparison
from orchestrate.reproduce.fetch import Original, Store
from orchestrate.reproduce.prepare import Reproduction
from orchestrate.tracking import database
from orchestrate.tracking.content import LONGEST_TAG, Metrics
from orchestrate.tracking.tracker import MOST_METRICS, MOST_OTHERS, Refused, Unreachable, asking

FILES = ("comparison.md", "comparison.json", "batch.sh", "environment-differences.txt", "log.txt")


def log(store: Store, original: Original, made: Reproduction, comparison: Comparison) -> Reproduction:
    """Log it; compared again, a reproduction's own run is told anew. Raises UserError when MLflow does not take it."""
    try:
        with asking():
            run = (
                made.logged
                if made.logged and _is_there(store, made.logged)
                else _begin(store, original, made)
            )
            _tell(store, run, original, made, comparison)
    except (Refused, Unreachable) as error:
        raise database.unusable(store.runs, str(error)) from error
    logged = replace(made, logged=run)
    logged.note()
    return logged


def _tell(store: Store, run: str, original: Original, made: Reproduction, comparison: Comparison) -> None:
    from mlflow import entities

    story = events.story(made.trial.events)
    metrics = Metrics()
    told = [metrics.of(event) for event in events.read(made.trial.events)]
    points = [entities.Metric(m.name, m.value, m.t, m.step) for group in told if group for m in group[1]]
    for start in range(0, len(points), MOST_METRICS):
        store.client.log_batch(run, metrics=points[start : start + MOST_METRICS])
    parameters = [entities.Param(name, value) for name, value in original.parameters.items()]
    for start in range(0, len(parameters), MOST_OTHERS):
        store.client.log_batch(run, params=parameters[start : start + MOST_OTHERS])
    tags = _tags(original, made, comparison, story.started or {})
    store.client.log_batch(
        run, tags=[entities.RunTag(name, text[:LONGEST_TAG]) for name, text in tags.items()]
    )
    for name in FILES:
        file: Path = made.folder / name
        if file.exists() and file.stat().st_size:
            store.client.log_artifact(run, str(file))
    store.client.set_terminated(run, "FINISHED", story.last_t)


def _tags(
    original: Original, made: Reproduction, comparison: Comparison, started: Mapping[str, object]
) -> dict[str, str]:
    tags = {
        "parapet.reproduces": original.run,
        "parapet.verdict": comparison.verdict,
        "parapet.comparison": comparison.sentence,
        "parapet.role": "reproduction",
        "parapet.environment": "; ".join(made.environment) or "the same",
        "parapet.doubts": "; ".join(made.doubts),
        "parapet.host": str(started.get("host") or ""),
        "parapet.device": str(started.get("device") or ""),
    }
    tags |= {name: original.tags.get(name, "") for name in ("formula", "parapet.configuration")}
    return {name: text for name, text in tags.items() if text}


def _begin(store: Store, original: Original, made: Reproduction) -> str:
    first = events.story(made.trial.events).first_t
    tags = {"mlflow.parentRunId": original.run, "parapet.reproduces": original.run}
    name = f"{original.label}, reproduced"
    run = store.client.create_run(original.experiment, start_time=first, tags=tags, run_name=name)
    return str(run.info.run_id)


def _is_there(store: Store, run: str) -> bool:
    """Is the run that was logged before still there?"""
    from mlflow.exceptions import MlflowException

    try:
        return bool(store.client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False

"""A small sheet, and finished runs of its rows in a real MLflow store."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient

from evaluation import outcomes
from evaluation.outcomes import FACTS, Outcome
from evaluation.spec import EvaluationSpec
from orchestrate.papers import sheet
from orchestrate.papers.sheet import Sheet
from orchestrate.runs import Runs
from orchestrate.tracking import database

CONTENT: dict[str, Any] = {
    "table": "Table 1",
    "title": "two defenses",
    "says": "That they differ.",
    "spread": {"kind": "sd", "runs": 3},
    "columns": {
        "clean": {"title": "Clean"},
        "robust": {"title": "AutoAttack", "attacks": ["autoattack"]},
        "pgd": {"title": "PGD-20", "attacks": ["pgd"], "pgd_steps": 20},
        "cw": {"title": "CW", "not_yet": "CW"},
    },
    "axes": ["clean", "robust"],
    "base": {"setup": "hat/cifar10", "data": {"name": "cifar10"}, "model": {"name": "resnet18"}},
    "groups": {
        "a": {
            "rows": {
                "trades": {"method": "trades", "published": {"clean": "82.73 +- 0.30", "robust": 48.8}},
                "hat+wa": {
                    "label": "HAT & WA",
                    "from": "trades",
                    "method": "hat+wa",
                    "published": {"clean": 84.9, "robust": "49.08 +- 0.1", "cw": 50.0},
                },
                "other": {"untrained": "is of another paper", "published": {"clean": 80}},
            }
        }
    },
}


def built(content: dict[str, Any] = CONTENT) -> Sheet:
    return sheet.build("hat/table99", content, "table99.yaml")


@functools.cache
def _fresh() -> Path:
    """A store with its tables made, to be copied: making them takes seconds."""
    runs = Runs(Path(_FOLDER.name) / "runs")
    database.experiment(database.prepare(runs), runs, "parapet")
    return runs.path


_FOLDER = tempfile.TemporaryDirectory()  # goes with the process


class Store:
    """A tracking store with finished runs."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(_fresh(), folder / "runs")
        self.runs = Runs(folder / "runs")
        self.client: MlflowClient = database.prepare(self.runs)
        self.experiment = database.experiment(self.client, self.runs, "parapet")

    def add(
        self,
        clean: float,
        robust: float,
        *,
        tags: dict[str, str],
        seed: int = 0,
        key: str = "",
        images: int = 10_000,
        part: bool = False,
        eps: float = 8 / 255,
        unscaled: float = 1.0,
        status: str = "FINISHED",
        **evaluation: Any,
    ) -> str:
        """A finished run that holds on such shares of its images, judged by AutoAttack unless said otherwise.

        ``part``: they are not all test images. ``unscaled``: the share that stands with logits unscaled.
        """
        evaluation |= {"images": images} if part else {}
        all_tags = {"parapet.role": "trial", "parapet.key": key or f"k{seed}{clean}"} | tags
        run = self.client.create_run(self.experiment, tags=all_tags).info.run_id
        self.client.log_param(run, "seed", seed)
        with tempfile.TemporaryDirectory() as folder:
            told = outcome(clean, robust, images, evaluation, eps, unscaled)
            outcomes.write(told, Path(folder) / "e.parquet")
            self.client.log_artifact(run, str(Path(folder) / "e.parquet"), "outcomes")
        self.client.set_terminated(run, status)
        return str(run)


def outcome(
    clean: float, robust: float, images: int, evaluation: dict[str, Any], eps: float, unscaled: float
) -> Outcome:
    spec = EvaluationSpec.model_validate(evaluation)
    facts: dict[str, Any] = dict.fromkeys(FACTS, "")
    facts |= {"spec": spec.model_dump(mode="json"), "threat": {"norm": "linf", "eps": eps}}
    stands = {"": robust, "-unscaled": unscaled} if unscaled < 1 else {"": robust}
    columns = {
        "index": np.arange(images),
        "label": np.zeros(images, int),
        "clean_prediction": np.zeros(images, int),
        "clean_margin": np.zeros(images),
        "correct": np.arange(images) < round(images * clean),
        **{f"{a}{e}": np.arange(images) < round(images * s) for a in spec.attacks for e, s in stands.items()},
        "robust": np.arange(images) < round(images * min(robust, unscaled)),
    }
    return Outcome(columns, facts)

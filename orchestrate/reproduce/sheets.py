"""A paper's sheet as one batch: its rows' trials, planned as a sweep would plan them, in a folder of their own."""

from __future__ import annotations

import hashlib
import math
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

import clusters
from clusters.base import Cluster, Job
from orchestrate import provenance
from orchestrate.estimate import unique
from orchestrate.events import story
from orchestrate.imports import Imports
from orchestrate.papers import planned, sheet
from orchestrate.plan import Planner, Wanted, all_of
from orchestrate.remote import needs
from orchestrate.reproduce import batch, environment, source
from orchestrate.reproduce.batch import Settings, Step
from orchestrate.runs import Runs, write_whole
from orchestrate.sections import Resources


@dataclass(frozen=True)
class SheetWish:
    """What a user asked for. ``cluster`` has the lines for Slurm; whether it runs there is another matter."""

    sheet: str
    rows: str | None
    seeds: int
    overrides: tuple[str, ...]
    cluster: str
    python: str | None
    device: str


@dataclass(frozen=True)
class SheetBatch:
    """A prepared folder: the trials that its script runs, what it leaves out, in sentences, and rows scaled down.

    ``then`` is the command that tracks and shows what came out; ``doubt`` what a user should know of the environment.
    """

    folder: Path
    steps: tuple[Step, ...]
    left_out: tuple[str, ...]
    scaled: int
    then: str
    job: Job
    doubt: str

    @property
    def script(self) -> Path:
        return self.folder / "batch.sh"

    def complete(self) -> bool:
        """Has every trial come to its end?"""
        runs = Runs(self.folder / "runs")
        return all(story(runs.trial(step.key).events).complete(step.evaluations) for step in self.steps)


def prepare(wish: SheetWish, folder: Path) -> SheetBatch:
    """Make the folder, which is empty or not there. Raises UserError, and then leaves nothing of it behind."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _prepare(wish, folder)
    except BaseException:
        shutil.rmtree(folder)
        raise


def _prepare(wish: SheetWish, folder: Path) -> SheetBatch:
    place = clusters.open(wish.cluster, folder / "job")
    chosen = sheet.read(wish.sheet)
    plan = planned.plan(chosen, chosen.select(wish.rows), wish.seeds, wish.overrides, wish.rows or "")
    runs = Runs(folder / "runs")
    planner = Planner(plan.sweep, runs)
    planner.check()
    trials = unique(all_of(plan.sweep, planner))
    _write_trials(runs, trials, planner.imports)
    write_whole(folder / "sweep.yaml", yaml.safe_dump(plan.sweep.dump(), sort_keys=False))
    write_whole(folder / "environment.txt", environment.lock_of(wish.python or sys.executable))
    whole = _write_source(folder / "source")
    cpus, gpus = _room(wish, plan.sweep.resources, place)
    job_name = f"reproduce-{plan.sweep.name}-{folder.name}"
    job = Job(
        job_name,
        folder / "job" / job_name,
        ("bash", str(folder / "batch.sh")),
        cpus,
        gpus,
        folder / "log.txt",
    )
    python, doubt = environment.interpreter(wish.python, place)
    settings = Settings(python, wish.device, max(1, int(cpus)), not whole)
    steps = [
        Step(trial.key, f"{trial.label}, seed {trial.seed}", tuple(trial.evaluations)) for trial in trials
    ]
    then = _command(wish, runs)
    about = [
        f"Runs rows of a paper's sheet: {chosen.title}.",
        f"{len(trials)} trials one after the other, those that others begin from first.",
        *(f"left out: {sentence}" for sentence in plan.left_out),
    ]
    text = batch.script(folder, job_name, about, steps, settings, batch.site(str(place.plan(job))), then)
    write_whole(folder / "batch.sh", text)
    return SheetBatch(folder, tuple(steps), plan.left_out, len(plan.scaled), then, job, doubt)


def _room(wish: SheetWish, asked: Resources, place: Cluster) -> tuple[float, float]:
    """Cores and GPUs of the job: a sheet's trials go one after the other, so whole GPUs."""
    import torch

    if place.share is not None:
        cpus, gpus = needs(asked, place.share)
    else:
        here = float(torch.cuda.is_available())
        cpus, gpus = asked.cpus, here if asked.gpus is None else asked.gpus
    return cpus, 0.0 if wish.device == "cpu" else float(math.ceil(gpus))


def _command(wish: SheetWish, runs: Runs) -> str:
    """What tracks the trials, finding them trained, and shows the sheet."""
    words = ["parapet", "papers", "run", wish.sheet, *wish.overrides]
    words += ["--rows", wish.rows] if wish.rows else []
    words += ["--seeds", str(wish.seeds)] if wish.seeds > 1 else []
    return shlex.join([*words, "--runs", str(runs.path)])


def _write_trials(runs: Runs, trials: Sequence[Wanted], imports: Imports) -> None:
    imports.keep()
    for wanted in trials:
        trial = runs.trial(wanted.key)
        trial.create(wanted.spec)
        for digest, evaluation in wanted.evaluations.items():
            text = yaml.safe_dump(evaluation.model_dump(mode="json"), sort_keys=False)
            write_whole(trial.evaluation_file(digest), text)


def _write_source(into: Path) -> bool:
    """A copy of the source that is running; does it hold parapet itself?"""
    with tempfile.TemporaryDirectory(prefix="parapet-") as scratch:
        archive = Path(scratch) / "source.tar.gz"
        provenance.source_archive(archive, provenance.running_from(), exclude=into.parent)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        return source.rebuild(into, archive, {"source": f"{digest}.tar.gz"}, b"", ()).whole

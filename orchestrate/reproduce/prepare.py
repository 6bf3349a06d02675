"""A fresh folder from which a tracked trial can be run again: by this program, or by anybody with a shell.

::

    RUNS/reproductions/RUN_ID/N/          --into DIR
      source/                             the code that ran, as it was logged
      spec.yaml                           what is trained, with the place of the images on this machine
      environment.txt                     what was installed then; environment-differences.txt: what is other now
      batch.sh, log.txt                   the script, and what it printed
      runs/                               a RUNS of its own, which the script works in
      original/                           checkpoints and outcomes of the tracked run, once they are compared
      reproduction.json                   of which run, how, and what was found on the way
      comparison.json, comparison.md      the verdict
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

import clusters
from clusters.base import Cluster, Job
from orchestrate import provenance
from orchestrate.reproduce import batch, checking, environment, source
from orchestrate.reproduce.batch import Settings, Step
from orchestrate.reproduce.fetch import Original, Store
from orchestrate.reproduce.placing import Placed, Placing
from orchestrate.runs import Runs, TrialDir, parse_yaml, write_whole
from training.errors import UserError

NOTES = "reproduction.json"
MOST_TOLD = 5  # differences of the environment that are told in a line


@dataclass(frozen=True)
class Wish:
    """What a user asked for beside the run; None: as the run had it, or found out.

    ``lenient``: images that are not here are no mistake, since nothing is run here.
    """

    cluster: str = "local"
    data_root: Path | None = None
    python: str | None = None
    device: str | None = None
    threads: int | None = None
    train_helpers: bool = False
    lenient: bool = False


@dataclass(frozen=True)
class Reproduction:
    """A prepared folder: what its ``reproduction.json`` says.

    Args:
        run, key: of the original; evaluations: digests, in order.
        cpus, gpus: for its job.
        told: what was found on the way, by what it is about.
        doubts: those of them that a user should look at.
        environment: what is installed now that was not then, a line each.
        logged: the id of the run that the verdict was logged as, once it was.
        cluster: what the script was written for, by its whole name.
    """

    folder: Path
    run: str
    key: str
    evaluations: tuple[str, ...]
    cpus: float
    gpus: float
    told: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    logged: str = ""
    cluster: str = "local"

    @property
    def script(self) -> Path:
        return self.folder / "batch.sh"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def trial(self) -> TrialDir:
        return Runs(self.folder / "runs").trial(self.key)

    def note(self) -> None:
        """Write ``reproduction.json``."""
        facts = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_whole(self.folder / NOTES, json.dumps(facts, indent=1))


def there(folder: Path, run: str) -> Reproduction | None:
    """What was prepared in a folder before; None when it is empty. Raises UserError when it is of something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        facts = json.loads((folder / NOTES).read_text())
    except (OSError, ValueError):
        raise UserError(f"--into: {folder} is there already, and holds no reproduction") from None
    if facts["run"] != run:
        raise UserError(f"--into: {folder} holds a reproduction of run {facts['run']}; name another folder")
    lists = {name: tuple(facts[name]) for name in ("evaluations", "doubts", "environment")}
    return Reproduction(**facts | lists, folder=folder)


def fresh(runs: Runs, name: str) -> Path:
    """Makes the next folder for reproductions of that name."""
    parent = runs.path / "reproductions" / name
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(folder.name) for folder in parent.glob("*") if folder.name.isdigit()), default=0)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            (parent / str(number)).mkdir()
            return parent / str(number)


def prepare(store: Store, original: Original, folder: Path, wish: Wish) -> Reproduction:
    """Make the folder. Raises UserError, and then leaves nothing of it behind."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="parapet-") as scratch:
            return _Preparation(store, original, folder, wish, Path(scratch)).run()
    except BaseException:
        shutil.rmtree(folder)
        raise


class _Preparation:
    """The way to one folder."""

    def __init__(self, store: Store, original: Original, folder: Path, wish: Wish, scratch: Path) -> None:
        self.store, self.original, self.folder, self.wish = store, original, folder, wish
        self.scratch = scratch
        self.runs = Runs(folder / "runs")
        self.told: dict[str, str] = {}
        self.doubts: list[str] = []

    def run(self) -> Reproduction:
        cluster = clusters.open(self.wish.cluster, self.folder / "job")
        self.python = self.wish.python or sys.executable
        origin = self._origin()
        found = self._source(origin)
        differences = self._environment()
        placing = Placing(self.store, self.runs, self.scratch, self.wish.data_root, self.wish.train_helpers)
        placed = placing.place(self.original)
        self.told |= placed.told
        starts_python, doubt = environment.interpreter(self.wish.python, cluster)
        self.doubts += [doubt] if doubt else []
        settings, cpus, gpus = self._settings(not found.whole, starts_python)
        settings = self._check(placed, found, settings)
        write_whole(self.folder / "spec.yaml", yaml.safe_dump(placed.spec, sort_keys=False))
        made = Reproduction(
            folder=self.folder,
            run=self.original.run,
            key=self.original.key,
            evaluations=tuple(placed.evaluations),
            cpus=cpus,
            gpus=gpus,
            told=self.told,
            doubts=tuple(self.doubts),
            environment=tuple(differences),
            cluster=cluster.name,
        )
        _write_script(made, self.original, placed, settings, cluster)
        made.note()
        return made

    def _origin(self) -> dict[str, Any]:
        """What is known of where the trial ran from: with the trial, else, which is less sure, with its sweep."""
        for run in filter(None, (self.original.run, self.original.parent)):
            text = self.store.text(run, "origin.json", self.scratch / run)
            if text:
                if run != self.original.run:
                    self.doubts.append("source: the trial's own is not known; this is its sweep's")
                facts: dict[str, Any] = json.loads(text)
                return facts | {"run": run}
        raise UserError(
            f"run {self.original.run}: the store does not say what it was run from (it has no origin.json)"
        )

    def _source(self, origin: Mapping[str, Any]) -> source.Source:
        name = origin.get("source") or ""
        archive = None
        for sweep in self.store.sweeps(self.original) if name else ():
            archive = archive or self.store.fetch(sweep, f"source/{name}", self.scratch)
        changes = self.store.fetch(origin["run"], "changes.diff", self.scratch)
        beside = (Path.cwd(), provenance.running_from())
        content = changes.read_bytes() if changes else b""
        found = source.rebuild(self.folder / "source", archive, origin, content, beside)
        self.told["source"] = found.sentence
        if found.doubt:
            self.doubts.append(f"source: {found.sentence}")
        if not found.whole:
            self.doubts.append(
                "source: it holds no parapet, which was installed; the one that is installed runs"
            )
        return found

    def _environment(self) -> list[str]:
        """What is installed now, and was not, or otherwise."""
        then = ""
        for run in filter(None, (self.original.run, self.original.parent)):
            then = then or self.store.text(run, "environment.txt", self.scratch / run)
        found = environment.differences(then, environment.lock_of(self.python))
        write_whole(self.folder / "environment.txt", then)
        write_whole(self.folder / "environment-differences.txt", "".join(f"{line}\n" for line in found))
        if found:
            more = f"; {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
            self.told["environment"] = f"{len(found)} differences: {'; '.join(found[:MOST_TOLD])}{more}"
            self.doubts.append(f"environment: {self.told['environment']}")
        else:
            self.told["environment"] = f"the same {sum('==' in line for line in then.splitlines())} packages"
        return found

    def _settings(self, installed: bool, python: str) -> tuple[Settings, float, float]:
        """Threads and device as they were; cores and GPUs of the job."""
        text = (
            self.store.text(self.original.parent, "sweep.yaml", self.scratch) if self.original.parent else ""
        )
        sweep = parse_yaml(text, "sweep.yaml") if text else {}
        resources = (sweep.get("resources") or {}) if isinstance(sweep, dict) else {}
        noted = self.original.tags.get("parapet.threads", "")
        known = noted or resources.get("cpus")
        cpus = float(self.wish.threads or known or 1)
        threads = max(1, int(cpus))
        if known is None:
            self.doubts.append(f"threads: the store does not say how many there were; now it is {threads}")
        elif threads != max(1, int(float(known))):
            self.doubts.append(f"threads: it was {max(1, int(float(known)))}, and is {threads} now")
        was = self.original.tags.get("parapet.device", "")
        device = self.wish.device or ("cpu" if was == "cpu" else "cuda" if was else "auto")
        if was and (device == "cpu") != (was == "cpu"):
            self.doubts.append(f"device: it was {was}, and is {device} now")
        gpus = 0.0 if device == "cpu" else float(math.ceil(float(resources.get("gpus") or 1)))
        source = (
            ""
            if noted or self.wish.threads
            else " (by its sweep file; a cluster's profile may have said more)"
        )
        on = f"{device}, threads: {threads}{source}; the run was on {was or 'what is not known'}"
        self.told["runs on"] = on
        return Settings(python, device, threads, installed), cpus, gpus

    def _check(self, placed: Placed, found: source.Source, settings: Settings) -> Settings:
        """Are the images, and the meaning of the spec, those of the run?"""
        name = placed.spec["data"].get("name", "")
        root = placed.spec["data"].get("root")
        try:
            answer = checking.ask(self.runs.trial(self.original.key), found.folder, self.python, settings)
            checking.expect(answer, self.original.key, found.folder, self.python, settings, name)
        except UserError as error:
            if not self.wish.lenient:
                raise
            self.doubts.append(f"not checked here: {error}")
            return settings
        self.told["data"] = f"the images of '{name}'{f' in {root}' if root else ''} are those of the run"
        if settings.device == "cuda" and self.wish.cluster == "local" and not self.wish.lenient:
            was = self.original.tags.get("parapet.device", "")
            if not answer.gpu:
                raise UserError(
                    f"--device: the run was on {was}, and PyTorch finds no GPU here; --device cpu runs it all the same"
                )
            if answer.gpu != was:
                self.doubts.append(f"device: it was {was}, and is {answer.gpu} now")
        return settings


def job_of(made: Reproduction) -> Job:
    """The job that runs the script. Its name is the folder's own, lest it be taken for a sweep's."""
    name = f"reproduce-{made.key}-{made.folder.name}"
    place = made.folder / "job" / name
    return Job(name, place, ("bash", str(made.script)), made.cpus, made.gpus, made.log)


def _write_script(
    made: Reproduction, original: Original, placed: Placed, settings: Settings, cluster: Cluster
) -> None:
    job = job_of(made)
    at = batch.site(str(cluster.plan(job)))
    steps = [Step(key, f"train a network that it begins from, {key}") for key in placed.helpers]
    count = len(placed.evaluations)
    evaluates = f", then evaluate it {'once' if count == 1 else f'{count} times'}" if count else ""
    steps.append(Step(made.key, f"train {original.label}{evaluates}", made.evaluations))
    about = [
        f"Runs a tracked trial again: {original.label}, run {original.run}, key {original.key}.",
        *(f"{name}: {sentence}" for name, sentence in made.told.items()),
    ]
    then = f"parapet reproduce {original.run} --into {shlex.quote(str(made.folder))}"
    write_whole(made.script, batch.script(made.folder, job.key, about, steps, settings, at, then))

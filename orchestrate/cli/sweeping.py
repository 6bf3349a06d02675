"""Commands that make trials run: sweep, train, retry."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrate.cli.common import (
    ImportOption,
    OverridesArgument,
    RunsOption,
    SweepArgument,
    complete_method,
    find_sweep,
    table,
    warn,
)
from orchestrate.runs import Runs, SweepDir, locate
from training.errors import UserError

if TYPE_CHECKING:
    from orchestrate.plan import Wanted
    from orchestrate.runner import Task
    from orchestrate.sweep_file import Sweep

ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="Where trials run: local, or slurm:PROFILE. Default: where the sweep ran before, else local.",
    ),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--concurrency", min=1, metavar="N", help="So many trials at once, at most.")
]

# What `parapet train` trains when nothing is overridden.
TRIAL: dict[str, Any] = {
    "method": {"name": "pgd-at"},
    "data": {"name": "digits"},
    "model": {"name": "small-cnn"},
    "train": {"epochs": 20, "batch_size": 64},
    "attack": {"norm": "linf", "eps": 0.2},
}


def sweep(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A sweep file; or, to resume, an earlier sweep's name.",
            autocompletion=_files,
        ),
    ],
    overrides: OverridesArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run; start nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a sweep that was begun.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again what is there already.")] = False,
    cluster: ClusterOption = None,
    concurrency: ConcurrencyOption = None,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option(metavar="H", help="Once all trials together have had so many, submit nothing more."),
    ] = None,
    runs: RunsOption = None,
) -> int:
    """Run a sweep: train, attack and compare everything that FILE asks for.

    A trial that is there already, from this sweep or another, is not trained again. An interrupted sweep goes on
    where it was, with or without --resume, which says that there must be one.
    """
    from orchestrate import sweep_file

    store = locate(runs)
    given = [*(overrides or []), *([f"concurrency={concurrency}"] if concurrency else [])]
    given += [] if max_gpu_hours is None else [f"limits.gpu_hours={max_gpu_hours:g}"]
    wanted = sweep_file.load(_file_of(file, store, resume), given)
    if resume and not store.sweep(wanted.name).ledger_file.exists():
        raise UserError(f"--resume: {store.path} has no sweep '{wanted.name}' to go on with")
    return run_sweep(wanted, store, cluster, dry_run=dry_run, fresh=fresh)


def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[METHOD] [FIELD=VALUE]...",
            help="A method, like hat+awp+wa; and fields, like method.beta=3 train.epochs=5",
            autocompletion=complete_method,
        ),
    ] = None,
    imports: ImportOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run; start nothing.")] = False,
    cluster: ClusterOption = None,
    runs: RunsOption = None,
) -> int:
    """Train and evaluate one trial without a sweep file.

    Nothing said, it is PGD-AT on the digits: try parapet train hat+wa method.beta=3 train.epochs=5. With
    setup=NAME it is trained as in that paper (parapet methods --setups). It becomes a sweep of its own, with a name
    of its own unless you give name=.
    """
    from orchestrate.imports import Imports
    from orchestrate.sweep_file import build
    from training.spec import digest_of

    overrides = [f"method={word}" if "=" not in word else word for word in (words or [])[:1]] + (words or [])[
        1:
    ]
    content = {"name": "train", "base": _defaults(overrides), "import": [str(file) for file in imports or ()]}
    wanted = build(content, "parapet train", overrides)
    store = locate(runs)
    if not any(text.startswith("name=") for text in overrides):
        files = {"import": Imports.of(wanted, store).digests}
        digest = digest_of(wanted.dump() | files | {"concurrency": None, "resources": None})
        wanted = build(content, "parapet train", [*overrides, f"name=train-{digest[:8]}"])
    return run_sweep(wanted, store, cluster, dry_run=dry_run, fresh=False)


def _defaults(overrides: Sequence[str]) -> dict[str, Any]:
    """What is trained where nothing is said: TRIAL, but for the sections that a setup has in place of them.

    A setup that names no data is of any: those of TRIAL then stay, and so does the model. Raises UserError for a
    setup without a method: most are of several.
    """
    from training import setups

    name = next((text.partition("=")[2] for text in reversed(overrides) if text.startswith("setup=")), "")
    if name not in setups.names():
        return TRIAL  # should it be a wrong name, that is told with all other mistakes
    setup = setups.read(name)
    if not any(text.startswith(("method=", "method.name=")) for text in overrides):
        known = [*setup.get("methods", {}), *(f"...+{added}" for added in setup.get("modifiers", {}))]
        has = f" (it has settings for {', '.join(known)})" if known else ""
        raise UserError(f"setup={name}: say which method too, like parapet train trades setup={name}{has}")
    own = {section for section in setup if section != "data" or "name" in setup["data"]}
    return {section: given for section, given in TRIAL.items() if section not in own}


def retry(name: SweepArgument, cluster: ClusterOption = None, runs: RunsOption = None) -> int:
    """Run the failed trials of a sweep again, from their last checkpoints, and whatever else it has left open."""
    from orchestrate import ledger, sweep_file
    from orchestrate.plan import Planner

    store = locate(runs)
    swept = find_sweep(store, name)
    _refuse_running(swept)
    failed = [row for row in ledger.read(swept.ledger_file) if row.state == "failed"]
    if not failed:
        print(f"{name}: no trial has failed")
        return 0
    wanted = sweep_file.load(swept.sweep_file)
    where = _place(store, name, cluster)
    Planner(wanted, store).check()  # a mistake must come out before a row is opened again
    for row in failed:
        ledger.close(swept.ledger_file, row.row, "open")
        print(f"again: {row.key}  {row.label} (failed: {row.reason})")
    return run_sweep(wanted, store, where, dry_run=False, fresh=False)


def _files(incomplete: str) -> list[str]:
    """YAML files that begin so."""
    return [str(file) for file in sorted(Path().glob(f"{incomplete}*.yaml"))] if incomplete else []


def _file_of(file: str, store: Runs, resume: bool) -> Path:
    """The sweep file, or the one that an earlier sweep keeps."""
    if Path(file).exists() or "/" in file:
        return Path(file)
    if resume:
        return find_sweep(store, file).sweep_file
    if store.sweep(file).sweep_file.exists():
        raise UserError(f"{file}: there is no such file; to go on with the sweep of that name, add --resume")
    return Path(file)


def run_sweep(
    wanted: Sweep, store: Runs, cluster: str | None, *, dry_run: bool = False, fresh: bool = False
) -> int:
    """Check everything, say what is doubtful, and go."""
    from orchestrate.estimate import unique
    from orchestrate.lineage import from_other_commits
    from orchestrate.plan import Planner, all_of
    from orchestrate.storage import refuse

    where = _place(store, wanted.name, cluster)
    refuse(store.url, where, fresh)
    with tempfile.TemporaryDirectory() as scratch:
        planner = Planner(wanted, store, Path(scratch) if dry_run else None)
        doubts = planner.warnings()
        trials = unique(all_of(wanted, planner))
        for sentence in [*doubts, *([] if fresh else from_other_commits(store, [t.key for t in trials]))]:
            warn(sentence)
        if dry_run:
            _preview(wanted, store, trials, where)
            return 0
    if fresh:
        _set_aside(wanted, store, trials)
    from orchestrate.driver import run

    return run(wanted, store, cluster=where, planner=planner)


def _place(store: Runs, sweep: str, cluster: str | None) -> str:
    """The whole name of the cluster that was asked for, else of the one that the sweep ran on. Raises UserError."""
    import clusters
    from orchestrate.remote import cluster_before

    if cluster is not None:
        return clusters.open(cluster, store.path / "trials").name
    before = cluster_before(store.sweep(sweep))
    try:
        where = clusters.open(before, store.path / "trials").name
    except UserError as error:
        raise UserError(
            f"{store.sweep(sweep).cluster_file}: {error}; --cluster says where it goes on"
        ) from None
    if where != "local":
        print(f"{sweep}: on {where}, as before (--cluster local runs it here)", flush=True)
    return where


def _preview(wanted: Sweep, store: Runs, trials: list[Wanted], cluster: str) -> None:
    """What would run, and what it would cost; nothing is written."""
    from orchestrate.estimate import Estimate, state_of

    estimate = Estimate(store, trials)
    helpers = {helper.key for trial in trials for helper in trial.helpers}
    rows, seconds = [], []
    for trial in trials:
        state = state_of(estimate.stories[trial.key], trial)
        seconds.append(estimate.seconds(trial))
        minutes = "-" if seconds[-1] is None else f"{seconds[-1] / 60:.1f}"
        role = " (helper too)" if trial.key in helpers and trial.evaluations else ""
        cost = f"{trial.cost:.2f}"
        rows.append((trial.key, f"{trial.label}{role}", str(trial.seed), state, cost, minutes, trial.formula))
    table(("key", "label", "seed", "state", "passes (M)", "minutes", "loss"), rows)
    counts = Counter("finished" if row[3] == "finished" else "to run" for row in rows)
    print(
        f"\n{wanted.name}: {len(rows)} trials, {counts['finished']} finished, {counts['to run']} to run",
        end="",
    )
    known = [s for s in seconds if s is not None]
    if known and len(known) == len(seconds):
        print(f", about {sum(known) / 60:.1f} minutes of work for one trial at a time")
    else:
        print(
            "; passes: images through the network, in millions (time is known once like trials have run here)"
        )
    if wanted.search.name == "optuna":
        print("optuna: later configurations depend on the results of the first ones")
    print("Nothing was started.")
    left = [t for t in trials if not estimate.stories[t.key].complete(list(t.evaluations))]
    for trial in (left or trials)[:1]:
        print(
            f"Each trial would be a job like this one ({cluster}):\n  {_request(wanted, store, trial, cluster)}"
        )
    _preview_array(wanted, store, left, cluster)


def _preview_array(wanted: Sweep, store: Runs, trials: list[Wanted], cluster: str) -> None:
    """How jobs would be submitted together, where they would."""
    from orchestrate import ahead, remote

    opened = remote.open_cluster(cluster, store)
    if opened is None or not ahead.suits(wanted) or len(trials) < ahead.FEWEST:
        return
    parallel = min(wanted.concurrency, opened.share.parallel)
    script = ahead.script(opened, [_task(wanted, store, trial, cluster) for trial in trials], parallel)
    print(
        "Those that wait for no other would be submitted together, as one array of jobs:\n"
        f"  sbatch <<'END'\n{script}END"
    )


def _request(wanted: Sweep, store: Runs, trial: Wanted, cluster: str) -> str:
    """The job of one trial as its cluster would submit it."""
    import clusters
    from orchestrate.runner import job

    return str(clusters.open(cluster, store.path / "trials").plan(job(_task(wanted, store, trial, cluster))))


def _task(wanted: Sweep, store: Runs, trial: Wanted, cluster: str) -> Task:
    """What would be done for one trial."""
    import clusters
    from orchestrate import remote
    from orchestrate.runner import Task

    opened = clusters.open(cluster, store.path / "trials")
    if opened.share is not None:
        cpus, gpus = remote.needs(wanted.resources, opened.share)
    else:
        import torch

        asked = wanted.resources
        cpus, gpus = asked.cpus, float(torch.cuda.is_available()) if asked.gpus is None else asked.gpus
    return Task(
        runs=str(store.path),
        key=trial.key,
        evaluations=tuple(trial.evaluations),
        cluster=cluster,
        cpus=cpus,
        gpus=gpus,
        hours=wanted.limits.hours,
        retries=wanted.limits.retries,
        checkpoint_minutes=wanted.limits.checkpoint_minutes,
        sweep=wanted.name,
    )


def _set_aside(wanted: Sweep, store: Runs, trials: list[Wanted]) -> None:
    """Move what is there of these trials to ``RUNS/old``; of a search that learns, of all that it ran."""
    from orchestrate import ledger
    from orchestrate.locks import Watch
    from orchestrate.remote import refuse_jobs

    swept = store.sweep(wanted.name)
    _refuse_running(swept)
    rows = ledger.read(swept.ledger_file)
    learnt = [row.key for row in rows] if wanted.search.name == "optuna" else []
    keys = dict.fromkeys([*(trial.key for trial in trials), *learnt])
    there = [store.trial(key) for key in keys if store.trial(key).path.exists()]
    for trial in there:
        if Watch(trial.lock_file).held():
            raise UserError(
                f"--fresh: trial {trial.key} is running; stop it first (parapet stop {trial.key})"
            )
    refuse_jobs(store, [trial.key for trial in there], "--fresh")
    old = store.path / "old"
    for trial in there:
        old.mkdir(exist_ok=True)
        number = 1 + sum(1 for _ in old.glob(f"{trial.key}.*"))
        trial.path.rename(old / f"{trial.key}.{number}")
    for row in rows:
        if row.key in keys:
            ledger.close(swept.ledger_file, row.row, "open")
    if there:
        print(f"{len(there)} trials are trained again; what was there is in {old} (parapet clean removes it)")


def _refuse_running(swept: SweepDir) -> None:
    from orchestrate.locks import Watch

    if Watch(swept.lock_file).held():
        raise UserError(f"{swept.name}: is running; wait for its end, or stop it (parapet stop {swept.name})")

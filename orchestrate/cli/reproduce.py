"""The command that runs a tracked trial again: reproduce."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from orchestrate.cli.common import RunsOption, table, warn
from orchestrate.cli.papers import RowsOption, complete_sheet
from orchestrate.runs import Runs, locate, write_whole
from training.errors import UserError

if TYPE_CHECKING:
    from orchestrate.reproduce.compare import Tolerance
    from orchestrate.reproduce.fetch import Original, Store
    from orchestrate.reproduce.prepare import Reproduction
    from orchestrate.reproduce.sheets import SheetWish

INTERRUPTED = 130  # exit code
DEVICES = ("auto", "cpu", "cuda")


def reproduce(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_ID | [FIELD=VALUE]...",
            help="A run's id in MLflow, its beginning, or its trial's key. With --sheet: overrides.",
        ),
    ] = None,
    sheet: Annotated[
        str | None,
        typer.Option(
            "--sheet",
            metavar="SHEET",
            help="A paper's sheet instead, like hat/table2.",
            autocompletion=complete_sheet,
        ),
    ] = None,
    rows: RowsOption = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, metavar="N", help="Of the sheet: seeds 0 to N - 1.")
    ] = 1,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="NAME", help="Where it runs. Default: local.")
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Write everything, print the script, and run nothing.")
    ] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="DIR",
            help="The folder. Default: a new one in RUNS/reproductions. One that has run is compared only.",
        ),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", metavar="DIR", help="Where the images lie on this machine.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="auto, cpu or cuda. Default: as the run had it."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Default: as the run had.")
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(
            "--python",
            metavar="FILE",
            help="The interpreter. Default: as the cluster's profile says, else this one.",
        ),
    ] = None,
    train_helpers: Annotated[
        bool, typer.Option("--train-helpers", help="Train the networks that it begins from too.")
    ] = False,
    tolerance: Annotated[
        str | None,
        typer.Option(
            "--tolerance",
            metavar="T",
            help="What is still the same, like 0.01, or accuracy=0.01,weights=1. Default: 0.005",
        ),
    ] = None,
    runs: RunsOption = None,
) -> int:
    """Run a tracked trial again from its logged source, and say whether it comes out the same.

    The answer is identical, within tolerance, or differs (exit code 1), and is logged as a run below the original.
    Only the tracking store is read, but for the images. The code that runs is the one that was logged: reproduce runs
    of people you trust.
    """
    if device is not None and device not in DEVICES:
        raise UserError(f"--device: '{device}' is none of {', '.join(DEVICES)}")
    interpreter = str(python.expanduser().absolute()) if python else None
    folder = into.expanduser().absolute() if into else None
    store = locate(runs)
    if sheet is not None:
        from orchestrate.reproduce.sheets import SheetWish

        given = [*(words or []), *([f"data.root={data_root.expanduser().absolute()}"] if data_root else [])]
        wanted = SheetWish(
            sheet, rows, seeds, tuple(given), cluster or "local", interpreter, device or "auto"
        )
        return _sheet(store, wanted, folder, cluster, only_print)
    if words is None or len(words) != 1:
        raise UserError("reproduce: give the id of one run, or --sheet NAME")
    if rows is not None or seeds != 1:
        raise UserError("--rows and --seeds: are for --sheet")
    from orchestrate.reproduce import prepare
    from orchestrate.reproduce.compare import tolerance as read_tolerance
    from orchestrate.reproduce.fetch import Store

    limits = read_tolerance(tolerance)
    tracking = Store(store)
    original = tracking.find(words[0])
    made = prepare.there(folder, original.run) if folder else None
    if made is not None and cluster is not None and _whole_name(cluster, made) != made.cluster:
        raise UserError(
            f"--cluster: {folder} is prepared for {made.cluster}; another cluster needs another folder"
        )
    if made is not None and any((data_root, device, threads, python, train_helpers)):
        raise UserError(f"--into: {folder} is prepared already; other settings need another folder")
    if made is None:
        wish = prepare.Wish(
            cluster=cluster or "local",
            data_root=data_root.expanduser().absolute() if data_root else None,
            python=interpreter,
            device=device,
            threads=threads,
            train_helpers=train_helpers,
            lenient=only_print,
        )
        made = prepare.prepare(tracking, original, folder or prepare.fresh(store, original.run), wish)
    _introduce(made, original, sys.stderr if only_print else sys.stdout)
    if only_print:
        print(made.script.read_text(), end="")
        return 0
    if not _complete(made) and not _run(made, made.cluster):
        return INTERRUPTED
    return _judge(tracking, original, made, limits)


def _introduce(made: Reproduction, original: Original, out: TextIO) -> None:
    """What is run again, and what was found on the way."""
    print(f"run         {original.run}: {original.label}", file=out)
    print(f"folder      {made.folder}", file=out)
    for name, sentence in made.told.items():
        print(f"{name:<11} {sentence}", file=out)
    for sentence in made.doubts:
        warn(sentence)


def _run(made: Reproduction, cluster: str) -> bool:
    """Run the script; False when the user interrupts it."""
    from orchestrate.reproduce import prepare, running

    print(f"\nbash {made.script}", flush=True)
    try:
        running.run(prepare.job_of(made), cluster, made.folder / "job")
    except KeyboardInterrupt:
        lives = "" if cluster == "local" else f" (its job on {cluster} goes on; scancel ends it)"
        print(f"interrupted{lives}; parapet reproduce {made.run} --into {made.folder} takes it up again")
        return False
    print()
    return True


def _whole_name(cluster: str, made: Reproduction) -> str:
    import clusters

    return clusters.open(cluster, made.folder / "job").name


def _complete(made: Reproduction) -> bool:
    from orchestrate import events

    return events.story(made.trial.events).complete(made.evaluations)


def _judge(store: Store, original: Original, made: Reproduction, limits: Tolerance) -> int:
    """Compare, show, log; returns the exit code."""
    import json

    from orchestrate import events
    from orchestrate.reproduce import log, showing
    from orchestrate.reproduce.compare import DIFFERS, compare

    if not _complete(made):
        failure = events.story(made.trial.events).failure
        why = f" ({failure['kind']}: {failure['reason']})" if failure else ""
        print(f"it has not come to its end{why}, so there is nothing to compare; it printed {made.log}")
        return 1
    store.fetch_results(original, made.folder / "original")
    comparison = compare(original, made.folder / "original", made.trial, limits)
    write_whole(made.folder / "comparison.md", showing.markdown(comparison, original, made))
    facts = json.dumps(showing.facts(comparison, original, made), indent=1)
    write_whole(made.folder / "comparison.json", facts)
    table(showing.COLUMNS[:-1], [row[:-1] for row in showing.rows(comparison)])
    print(f"\n{comparison.sentence}")
    logged = log.log(store, original, made, comparison)
    print(f"logged as run {logged.logged}, below run {original.run}")
    return 1 if comparison.verdict == DIFFERS else 0


def _sheet(store: Runs, wish: SheetWish, folder: Path | None, cluster: str | None, only_print: bool) -> int:
    """The batch of a sheet; it runs only on a cluster that was named."""
    from orchestrate.reproduce import prepare, running, sheets

    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise UserError(f"--into: {folder} is not empty")
    made = sheets.prepare(wish, folder or prepare.fresh(store, wish.sheet.replace("/", "-")))
    for sentence in made.left_out:
        warn(f"left out: {sentence}")
    if made.doubt:
        warn(made.doubt)
    if only_print:
        print(made.script.read_text(), end="")
        return 0
    print(
        f"folder      {made.folder}\ntrials      {len(made.steps)}, one after the other: bash {made.script}"
    )
    if made.scaled:
        print(f"scaled-down, so no reproduction: {made.scaled} rows")
    print(f"afterwards  {made.then}")
    if cluster is None:
        print("Nothing was started.")
        return 0
    running.run(made.job, cluster, made.folder / "job")
    return 0 if made.complete() else 1

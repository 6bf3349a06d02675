"""What came out of a sweep: the front as a picture and as tables, on disk and on the screen."""

from __future__ import annotations

import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrate import ledger
from orchestrate.accounts import Totals, of_rows
from orchestrate.ledger import Row
from orchestrate.results import Ground, collect
from orchestrate.runs import Runs, SweepDir
from orchestrate.tracking.artifacts import log_tail
from training.errors import UserError
from training.registry import nearest

if TYPE_CHECKING:
    from rich.console import Console

    from evaluation.front import Point

TAIL_LINES = 12
WIDE = 200  # columns of a page that is no terminal: nothing is cut


@dataclass(frozen=True)
class Front:
    """The points on one ground, and where they were written to."""

    ground: Ground
    points: tuple[Point, ...]
    hypervolume: float
    picture: Path


@dataclass(frozen=True)
class Failure:
    """A trial that failed, and the last it printed."""

    row: Row
    tail: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What came out of some sweeps of ``runs``; the front with most trials comes first."""

    runs: Runs
    title: str
    fronts: tuple[Front, ...]
    failures: tuple[Failure, ...]
    open: int  # suggestions that have not ended
    left_out: tuple[str, ...]
    cost: Totals


def make(runs: Runs, names: Sequence[str] | None = None) -> Report:
    """Read the finished trials of the sweeps ``names`` (None: of all) and write their front.

    The front goes to ``sweeps/NAME/report``, or for several sweeps to ``RUNS/report``; further ones (where trials
    were judged by different attacks, or on different images) to folders in it. Raises UserError for a sweep that
    is not there, OSError naming a file that cannot be written.
    """
    from evaluation import figures, tables
    from evaluation.front import hypervolume, summarise

    sweeps = _sweeps(runs, names)
    rows = [row for sweep in sweeps for row in ledger.read(sweep.ledger_file)]
    grounds, left_out = collect(runs, rows)
    folder = sweeps[0].report if len(sweeps) == 1 else runs.path / "report"
    title = ", ".join(sweep.name for sweep in sweeps)
    fronts: list[Front] = []
    for ground, trials in grounds.items():
        place = folder / _slug(ground) if fronts else folder
        points = tuple(summarise(trials))
        place.mkdir(parents=True, exist_ok=True)
        heading = title if title == ground.data else f"{title}: {ground.data}"
        picture, *_ = figures.draw(points, place, heading, ground.attack)
        tables.write(points, place)
        volume = hypervolume([(point.clean, point.robust) for point in points])
        fronts.append(Front(ground, points, volume, picture))
    return Report(
        runs,
        title,
        tuple(fronts),
        _failures(runs, rows),
        _open(rows),
        tuple(dict.fromkeys(left_out)),
        of_rows(runs, rows),
    )


def show(report: Report) -> None:
    """Print a report: for each front its table, what it rests on and its picture; failures; what to do next."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
    for front in report.fronts:
        _show_front(console, report.title, front)
    if not report.fronts:
        console.print(f"{report.title}: no finished trial to compare", markup=False)
    for failure in report.failures:
        row = failure.row
        console.print(
            f"failed: {row.label} seed {row.seed} ({row.key}): {row.reason}", style="red", markup=False
        )
        for line in failure.tail:
            console.print(f"  | {line}", style="dim", markup=False, soft_wrap=True)
    for sentence in report.left_out:
        console.print(sentence, style="yellow", markup=False, soft_wrap=True)
    if report.cost.hours:
        console.print(f"cost: {report.cost}", markup=False, soft_wrap=True)
    if report.open:
        console.print(f"{report.open} of its trials have not ended (parapet sweep FILE --resume goes on)")
    ui = f"parapet ui --runs {shlex.quote(str(report.runs.path))}"
    console.print(f"MLflow: {ui}", markup=False, soft_wrap=True)


def _show_front(console: Console, title: str, front: Front) -> None:
    from rich.table import Table

    from evaluation import tables

    drawn = Table(title=f"{title}: {front.ground}", title_justify="left", title_style="bold")
    for name in tables.HEADER:
        drawn.add_column(
            name, justify="right" if name in ("clean %", "robust %", "seeds", "images") else "left"
        )
    for point, row in zip(front.points, tables.rows_for_display(front.points), strict=True):
        drawn.add_row(*row, style="" if point.front else "dim")
    console.print(drawn)
    console.print(f"hypervolume {front.hypervolume:.4f} above the reference point clean 0, robust 0")
    for remark, labels in _remarks(front.points):
        console.print(f"little evidence, {remark}: {labels}", style="yellow", markup=False)
    console.print(f"picture: {front.picture}", markup=False, soft_wrap=True)


def _remarks(points: Sequence[Point]) -> list[tuple[str, str]]:
    """Each remark, with the points that it is about."""
    about: dict[str, list[str]] = defaultdict(list)
    for point in points:
        for remark in point.remarks:
            about[remark].append(point.label)
    return [
        (remark, "all points" if len(labels) == len(points) else ", ".join(labels))
        for remark, labels in about.items()
    ]


def _sweeps(runs: Runs, names: Sequence[str] | None) -> list[SweepDir]:
    there = {sweep.name: sweep for sweep in runs.sweeps()}
    if names is None:
        if not there:
            raise UserError(f"{runs.path}: there is no sweep yet (parapet sweep FILE makes one)")
        return list(there.values())
    for name in names:
        if name not in there:
            raise UserError(f"{runs.path}: there is no sweep '{name}'{nearest(name, there)}")
    return [there[name] for name in dict.fromkeys(names)]


def _failures(runs: Runs, rows: Sequence[Row]) -> tuple[Failure, ...]:
    failed = {row.key: row for row in rows if row.state == "failed"}
    return tuple(Failure(row, _tail(runs, key)) for key, row in failed.items())


def _tail(runs: Runs, key: str) -> tuple[str, ...]:
    return tuple(log_tail(runs.trial(key), 4096).decode(errors="replace").splitlines()[-TAIL_LINES:])


def _open(rows: Sequence[Row]) -> int:
    return sum(row.state == "open" for row in rows)


def _slug(ground: Ground) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", f"{ground} {ground.images[:6]}".lower())

"""What several commands share: their options, tables, and the completion of names."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestrate import ledger
from orchestrate.ledger import Row
from orchestrate.runs import Runs, SweepDir, locate
from training.errors import UserError
from training.registry import nearest


def complete_trial(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Keys of trials, with their labels."""
    runs = locate(ctx.params.get("runs"), pull=False)
    labels = {key: rows[-1].label for key, rows in rows_by_key(runs).items()}
    return [(t.key, labels.get(t.key, "")) for t in runs.trials() if t.key.startswith(incomplete)]


def complete_sweep(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of sweeps."""
    return [
        s.name for s in locate(ctx.params.get("runs"), pull=False).sweeps() if s.name.startswith(incomplete)
    ]


def complete_either(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names of sweeps, and keys of trials."""
    return [(name, "sweep") for name in complete_sweep(ctx, incomplete)] + complete_trial(ctx, incomplete)


def complete_method(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names of methods; after a +, of modifiers. Only the first word is one."""
    if ctx.params.get("words") or "=" in incomplete:
        return []
    from training.recipes import MODIFIERS, RECIPES

    *before, begun = incomplete.split("+")
    registry = MODIFIERS if before else RECIPES
    return [
        ("+".join([*before, name]), entry.summary)
        for name, entry in registry.entries.items()
        if name.startswith(begun) and name not in before
    ]


RunsOption = Annotated[
    str | None,
    typer.Option(
        "--runs",
        metavar="DIR|URL",
        help="Where everything is kept; s3://BUCKET/PREFIX too. Default: PARAPET_RUNS, or ./runs",
    ),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FIELD=VALUE]...", help="Override fields, like train.epochs=2 attack.eps=8/255"),
]
TrialArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="A trial's key, or its beginning.", autocompletion=complete_trial)
]
ImportOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--import", metavar="FILE.py", help="Your own methods, models, data sets, ... (may be repeated)."
    ),
]
SweepArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep's name.", autocompletion=complete_sweep)
]


def load_imports(
    files: Sequence[Path] | None, imports: Mapping[str, str] | None = None, runs: Runs | None = None
) -> None:
    """Load the files given with --import, and then those that a trial of this store was trained with."""
    from training import extensions

    for file in files or ():
        try:
            extensions.load(file)
        except UserError as error:
            raise UserError(f"--import: {error}") from error
    if imports and runs is not None:
        extensions.load_all(imports, runs.imports)


def find_sweep(runs: Runs, name: str) -> SweepDir:
    """The sweep of that name; UserError with the nearest name when there is none."""
    found = runs.sweep(name)
    if "/" in name or not found.sweep_file.exists():
        known = [s.name for s in runs.sweeps()]
        raise UserError(
            f"{runs.path}: there is no sweep '{name}'{nearest(name, known)} (parapet ls shows them)"
        )
    return found


def rows_by_key(runs: Runs) -> dict[str, list[Row]]:
    """The rows that mention each trial, over all sweeps."""
    rows: dict[str, list[Row]] = {}
    for sweep in runs.sweeps():
        for row in ledger.read(sweep.ledger_file):
            rows.setdefault(row.key, []).append(row)
    return rows


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A rich table on a terminal; elsewhere plain, whole lines that other programs can cut."""
    rows = list(rows)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            shown.add_row(*(Text(cell) for cell in row))
        Console().print(shown)
        return
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def warn(sentence: str) -> None:
    """A warning, on stderr."""
    print(f"warning: {sentence}", file=sys.stderr)


def size_of(path: Path) -> int:
    """Bytes of a file, or of everything in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def in_bytes(size: float) -> str:
    """``1.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("the last unit takes everything")


def percent(share: float | None) -> str:
    """``97.6``, or ``-``."""
    return "-" if share is None else f"{100 * share:.1f}"

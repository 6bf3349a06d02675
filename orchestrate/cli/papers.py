"""Commands about the papers' tables: papers, papers run, papers show."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrate.cli.common import RunsOption, table, warn
from orchestrate.cli.sweeping import ClusterOption, ConcurrencyOption, run_sweep
from orchestrate.runs import Runs, locate
from training.errors import UserError

if TYPE_CHECKING:
    from orchestrate.papers.sheet import Row, Sheet
    from orchestrate.papers.verdict import Compared


def complete_sheet(incomplete: str) -> list[str]:
    """Names of sheets."""
    from orchestrate.papers import sheet

    return [name for name in sheet.names() if name.startswith(incomplete)]


SheetArgument = Annotated[
    str, typer.Argument(metavar="SHEET", help="Like hat/table2.", autocompletion=complete_sheet)
]
RowsOption = Annotated[
    str | None,
    typer.Option(
        "--rows", metavar="ROWS", help="Only these: groups or rows, like cifar10 or cifar10/hat,svhn."
    ),
]

app = typer.Typer(
    help="The papers' results tables: run their rows, and see ours beside what is printed.",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def papers(
    ctx: typer.Context,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="PAPER", help="One paper or sheet, like hat or hat/table2."),
    ] = None,
    runs: RunsOption = None,
) -> None:
    """List the results tables of the five papers, row by row: published, ours, difference, runs, verdict."""
    if ctx.invoked_subcommand is not None:
        if only is not None:
            raise UserError(f"--only: is for the list; papers {ctx.invoked_subcommand} takes a sheet's name")
        if runs is not None:
            ctx.default_map = {name: {"runs": runs} for name in ("run", "show")}
        return
    from orchestrate.papers import ours, sheet, tables, verdict

    names = [name for name in sheet.names() if only is None or f"{name}/".startswith(f"{only.strip('/')}/")]
    if not names:
        raise UserError(f"--only: no paper or sheet '{only}'; papers: {', '.join(sheet.PAPERS)}")
    sheets = [sheet.read(name) for name in names]
    found = ours.find(locate(runs), sheets)
    verdicts: dict[str, int] = {}
    count = 0
    for one in sheets:
        columns = tables.shown_columns(one)
        compared = [verdict.compare(one, row, found.get(row.id, [])) for row in one.rows]
        print(f"\n{one.title}  ({' / '.join(one.content.columns[name].title for name in columns)})")
        table(tables.HEADER, tables.lines(compared, columns))
        count += len(compared)
        for row in compared:
            kind = row.verdict.partition(":")[0].partition(" (")[0]
            verdicts[kind] = verdicts.get(kind, 0) + 1
    counted = ", ".join(f"{number} {kind}" for kind, number in verdicts.items())
    print(f"\n{len(sheets)} sheets, {count} rows: {counted}")
    print("All columns of one: parapet papers show SHEET. Run one: parapet papers run SHEET --dry-run")


@app.command()
def run(
    name: SheetArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIELD=VALUE]...",
            help="Override fields, like data.root=PATH; what changes a row makes it scaled-down: data=digits",
        ),
    ] = None,
    rows: RowsOption = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, metavar="N", help="Seeds 0 to N - 1.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run; start nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again what is there already.")] = False,
    cluster: ClusterOption = None,
    concurrency: ConcurrencyOption = None,
    runs: RunsOption = None,
) -> int:
    """Run rows of a table as a sweep, and show them beside what is printed.

    A row that was run already, by whatever sweep, is not run again. With overrides that change what is trained or how
    it is judged the rows are marked scaled-down, and never count as a reproduction.
    """
    from orchestrate.papers import hours, planned, sheet

    store = locate(runs)
    given = [*(overrides or []), *([f"concurrency={concurrency}"] if concurrency else [])]
    chosen = sheet.read(name)
    plan = planned.plan(chosen, chosen.select(rows), seeds, given, rows or "")
    for sentence in planned.together(plan.left_out):
        warn(f"left out: {sentence}")
    whole = [row for row in plan.rows if row not in plan.scaled]
    if plan.scaled:
        print(f"scaled-down, so no reproduction: {len(plan.scaled)} of {len(plan.rows)} rows")
    if plan.narrow:
        print(
            f"on digits: {planned.DIGITS_MODEL} in place of the printed networks, and {planned.DIGITS_JUDGED} test"
            " images, where model= and evaluate.images= say nothing else"
        )
    if whole:
        print(
            f"about {hours.total(whole, seeds):.1f} GPU-hours of training in all on an {hours.CARD}, with helper"
            " networks and without evaluations"
        )
    code = run_sweep(plan.sweep, store, cluster, dry_run=dry_run, fresh=fresh)
    if not dry_run:
        _show(store, chosen, plan.rows)
    return code


@app.command()
def show(
    name: SheetArgument,
    rows: RowsOption = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="Print the table in LaTeX, and nothing else.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="For the picture. Default: RUNS/papers."),
    ] = None,
    runs: RunsOption = None,
) -> None:
    """Show one table with all its columns, and draw it: an arrow from each baseline to the method, printed and ours."""
    from orchestrate.papers import ours, sheet, tables, verdict

    store = locate(runs)
    chosen = sheet.read(name)
    if latex:
        found = ours.find(store, [chosen])
        print(
            tables.latex(
                chosen, [verdict.compare(chosen, r, found.get(r.id, [])) for r in chosen.select(rows)]
            )
        )
        return
    if output is not None and not output.is_dir():
        raise UserError(f"--output: there is no folder {output}")
    _show(store, chosen, chosen.select(rows), output)


def _show(store: Runs, chosen: Sheet, rows: Sequence[Row], output: Path | None = None) -> None:
    """The table in full, what rows gain over their baselines, notes, and the picture."""
    from orchestrate.papers import hours, ours, picture, tables, verdict

    found = ours.find(store, [chosen])
    compared = [verdict.compare(chosen, row, found.get(row.id, [])) for row in rows]
    print(f"\n{chosen.title}")
    for text in (chosen.content.says, chosen.content.chosen):
        print(textwrap.fill(" ".join(text.split()), 118, initial_indent="  ", subsequent_indent="  "))
    lines: list[tuple[str, ...]] = []
    for one in compared:
        cost = hours.of(one.row)
        name = f"{one.row.group}/{one.row.name}"
        first = (name, str(one.runs or "-"), "-" if cost is None else f"{cost:.2f}")
        for number, cells in enumerate(tables.cells_of(one, chosen.content.columns)):
            lines.append((*(first if not number else ("", "", "")), *cells))
    print()
    table(("row", "runs", "GPU-hours", "measure", "published", "ours", "difference", "verdict"), lines)
    gained = list(tables.gains(chosen, compared))
    if gained:
        print()
        table(tables.GAINS, gained)
    print()
    for sentence in _legend(chosen, compared):
        print(textwrap.fill(sentence, 118, subsequent_indent="  "))
    for one in compared:
        if one.row.given.note:
            note = f"{one.row.group}/{one.row.name}: {' '.join(one.row.given.note.split())}"
            print(textwrap.fill(note, 118, subsequent_indent="  "))
    print(f"GPU-hours: of one training on an {hours.CARD}, from seconds per epoch in {hours.SOURCE}")
    if chosen.content.axes is not None:
        try:
            png, page = picture.draw(chosen, compared, output or store.path / "papers")
        except UserError as error:
            print(f"no picture: {error}")
        else:
            print(f"picture: {png}\npage: {page}")


def _legend(chosen: Sheet, compared: Sequence[Compared]) -> Iterator[str]:
    """What the table's short words stand for."""
    for column in chosen.content.columns.values():
        if column.not_yet:
            yield f"not yet: {column.title} is {column.not_yet}"
    rows: dict[str, list[str]] = {}
    for one in compared:
        name = f"{one.row.group}/{one.row.name}"
        for reason in (
            *([one.scaled] if one.scaled else ()),
            *(f"{text} (not shown)" for text in one.hidden),
        ):
            rows.setdefault(reason, []).append(name)
    for reason, names in rows.items():
        several = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"scaled-down: {reason}: {names[0]}{several}"
    spread = chosen.content.spread
    kinds = {
        "sd": "standard deviation of",
        "population-sd": "standard deviation of",
        "interval95": "95 % interval of",
    }
    printed = f"published ±: {kinds[spread.kind]} {spread.runs} runs; " if spread.kind in kinds else ""
    yield f"{printed}ours ±: half a 95 % interval over seeds and test images"

"""A sheet's rows as text: for the screen, and in LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrate.papers.sheet import Column, Sheet
from orchestrate.papers.verdict import Cell, Compared

NONE = "-"
HEADER = ("row", "published", "ours", "difference", "runs", "verdict")


def lines(compared: Iterable[Compared], columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """One line per row, with the numbers of ``columns`` between slashes; as :data:`HEADER`."""
    for one in compared:
        cells = [one.cells[name] for name in columns]
        yield (
            one.row.id,
            " / ".join(NONE if c.printed is None else f"{c.printed.value:.2f}" for c in cells),
            _joined(_ours(c) for c in cells),
            NONE if one.scaled else _joined(_difference(c) for c in cells),
            str(one.runs or NONE),
            one.verdict,
        )


def _joined(cells: Iterable[str]) -> str:
    """Between slashes, or one dash where none says anything."""
    texts = list(cells)
    return NONE if set(texts) <= {NONE} else " / ".join(texts)


def shown_columns(sheet: Sheet) -> tuple[str, ...]:
    """The columns of a list of many sheets: those that are drawn, else the first two that can be measured."""
    columns = sheet.content.columns
    measured = tuple(name for name, column in columns.items() if not column.not_yet)
    return sheet.content.axes or (measured or tuple(columns))[:2]


def cells_of(compared: Compared, columns: Mapping[str, Column]) -> Iterator[tuple[str, str, str, str, str]]:
    """One line per column of one row: its title, published, ours, difference, what it says."""
    for name, column in columns.items():
        cell = compared.cells[name]
        if cell.printed is None and cell.ours is None:
            continue
        printed = NONE if cell.printed is None else str(cell.printed)
        unit = "" if column.unit == "%" else f" {column.unit}"
        ours = _with_interval(cell)
        difference = NONE if compared.scaled else _difference(cell)
        yield column.title, f"{printed}{unit}", ours, difference, _says(compared, cell)


GAINS = ("row", "over", "measure", "published", "ours")


def gains(sheet: Sheet, compared: Sequence[Compared]) -> Iterator[tuple[str, ...]]:
    """One line per drawn column of each row that is compared with another: what it gains over that, as :data:`GAINS`.

    Rows of a comparison are of one recipe; ours are compared only where both are repetitions, or both scaled alike.
    """
    by_id = {one.row.id: one for one in compared}
    for one in compared:
        base = by_id.get(one.row.compared_with or "")
        if base is None:
            continue
        for name in shown_columns(sheet):
            mine, theirs = one.cells[name], base.cells[name]
            printed = ours = None
            if mine.printed is not None and theirs.printed is not None:
                printed = mine.printed.value - theirs.printed.value
            if mine.ours is not None and theirs.ours is not None and one.scaled == base.scaled:
                ours = mine.ours - theirs.ours
            if printed is None and ours is None:
                continue
            mark = " (scaled-down)" if ours is not None and one.scaled else ""
            yield (
                f"{one.row.group}/{one.row.name}",
                base.row.name,
                sheet.content.columns[name].title,
                NONE if printed is None else f"{printed:+.2f}",
                NONE if ours is None else f"{ours:+.2f}{mark}",
            )


def latex(sheet: Sheet, compared: Sequence[Compared]) -> str:
    """A table of what is printed and what came out, for a document with booktabs; scaled-down rows have a dagger."""
    columns = sheet.content.columns
    heads = [f"\\multicolumn{{2}}{{c}}{{{_escaped(_head(column))}}}" for column in columns.values()]
    out = [
        f"% {sheet.title}; published and ours, with half its 95 % interval",
        f"\\begin{{tabular}}{{l{'rr' * len(columns)}}}",
        "\\toprule",
        " & ".join(["", *heads]) + r" \\",
        " & ".join(["", *["published", "ours"] * len(columns)]) + r" \\",
    ]
    group = ""
    for one in compared:
        if one.row.group != group:
            group = one.row.group
            title = sheet.content.groups[group].title or group
            out += ["\\midrule", f"\\multicolumn{{{1 + 2 * len(columns)}}}{{l}}{{{_escaped(title)}}} \\\\"]
        mark = r"\textsuperscript{\dag}" if one.scaled else ""
        parts = [_escaped(one.row.label) + mark]
        for name in columns:
            cell = one.cells[name]
            parts += [
                "--" if cell.printed is None else str(cell.printed),
                _with_interval(cell).replace(NONE, "--"),
            ]
        out.append(" & ".join(parts).replace(" ± ", r"\,$\pm$\,") + r" \\")
    out += ["\\bottomrule", "\\end{tabular}"]
    if any(one.scaled for one in compared):
        out.append("% \\dag: scaled-down, no reproduction")
    return "\n".join(out)


def _head(column: Column) -> str:
    return column.title if column.unit == "%" else f"{column.title} ({column.unit})"


def _ours(cell: Cell) -> str:
    if cell.ours is not None:
        return f"{cell.ours:.2f}"
    return "not yet" if cell.not_yet else NONE


def _with_interval(cell: Cell) -> str:
    return _ours(cell) if cell.ours is None else f"{cell.ours:.2f} ± {cell.half:.2f}"


def _difference(cell: Cell) -> str:
    return NONE if cell.difference is None else f"{cell.difference:+.2f}"


def _says(compared: Compared, cell: Cell) -> str:
    if cell.not_yet:
        return "not yet"
    if cell.ours is None:
        return "not run" if compared.row.sections is not None else "not trained here"
    if compared.scaled:
        return "scaled-down"
    if cell.agrees is None:
        return NONE
    one = " (one seed)" if cell.runs == 1 else ""
    word = "too few to tell" if cell.loose else "within" if cell.agrees else "outside"
    return f"{word} ±{cell.tolerance:.2f}{one}"


def _escaped(text: str) -> str:
    """Text that LaTeX takes as it is."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)

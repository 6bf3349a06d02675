"""A sheet on the accuracy-robustness plane: arrows from baselines to methods, as printed and as they came out."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.figures import COLOURS, FAINT, INK, SOFT, STYLE
from evaluation.files import write_whole
from orchestrate.papers.sheet import Sheet
from orchestrate.papers.verdict import Compared
from training.errors import UserError

PRINTED, OURS = SOFT, COLOURS[0]
ACROSS = 3  # panels side by side
Place = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One row: where it is printed to be, where it came out (None: nowhere yet), and where its baseline did."""

    label: str
    printed: Place | None
    ours: Place | None
    from_printed: Place | None
    from_ours: Place | None
    scaled: bool
    hover: str


def draw(sheet: Sheet, compared: Sequence[Compared], folder: Path) -> tuple[Path, Path]:
    """Write ``PAPER-TABLE.png`` and ``.html`` (which needs no network); one panel per group of rows.

    Raises UserError for a sheet whose columns make no plane, OSError naming a file that cannot be written.
    """
    if sheet.content.axes is None:
        raise UserError(f"{sheet.name}: has no two columns of accuracy and robustness to draw")
    panels = {group: _marks(sheet, compared, group) for group in sheet.content.groups}
    panels = {group: marks for group, marks in panels.items() if marks}
    if not panels:
        raise UserError(f"{sheet.name}: no row of it has both numbers that would be drawn")
    png, page = (folder / f"{sheet.name.replace('/', '-')}.{end}" for end in ("png", "html"))
    write_whole(png, _png(sheet, panels))
    write_whole(page, _page(sheet, panels).encode())
    return png, page


def _marks(sheet: Sheet, compared: Sequence[Compared], group: str) -> list[Mark]:
    by_id = {one.row.id: one for one in compared}
    marks = []
    for one in compared:
        if one.row.group != group:
            continue
        base = by_id.get(one.row.compared_with or "")
        mark = Mark(
            one.row.label,
            _printed(sheet, one),
            _ours(sheet, one),
            _printed(sheet, base) if base else None,
            # What was changed in one and not in the other must not look like a gain.
            _ours(sheet, base) if base and base.scaled == one.scaled else None,
            bool(one.scaled),
            _hover(sheet, one),
        )
        if mark.printed or mark.ours:
            marks.append(mark)
    return marks


def _printed(sheet: Sheet, one: Compared) -> Place | None:
    x, y = (one.cells[axis].printed for axis in sheet.content.axes or ())
    return None if x is None or y is None else (x.value, y.value)


def _ours(sheet: Sheet, one: Compared) -> Place | None:
    x, y = (one.cells[axis].ours for axis in sheet.content.axes or ())
    return None if x is None or y is None else (x, y)


def _hover(sheet: Sheet, one: Compared) -> str:
    lines = [f"<b>{html.escape(one.row.label)}</b>", html.escape(one.row.id)]
    for name, column in sheet.content.columns.items():
        cell = one.cells[name]
        if cell.printed is not None or cell.ours is not None:
            ours = "" if cell.ours is None else f", ours {cell.ours:.2f} ± {cell.half:.2f}"
            lines.append(f"{html.escape(column.title)}: published {cell.printed or 'nothing'}{ours}")
    return "<br>".join([*lines, html.escape(one.verdict)])


def _titles(sheet: Sheet) -> tuple[str, str]:
    x, y = sheet.content.axes or ("", "")
    return f"{sheet.content.columns[x].title} (%)", f"{sheet.content.columns[y].title} (%)"


def _png(sheet: Sheet, panels: dict[str, list[Mark]]) -> bytes:
    import io

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    x_title, y_title = _titles(sheet)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(5.2, 3.7 * across), 0.9 + 3.3 * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        figure.suptitle(sheet.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        for axes, (group, marks) in zip(grid.flat, panels.items(), strict=False):
            axes.set_title(sheet.content.groups[group].title or group, loc="left", fontsize=9)
            axes.set(xlabel=x_title, ylabel=y_title)
            axes.margins(0.16, 0.16)
            for mark in marks:
                _draw_mark(axes, mark)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        legend = [
            grid[0, 0].plot([], [], color=PRINTED, marker="o", mfc="white", ls="-", label="published")[0],
            grid[0, 0].plot([], [], color=OURS, marker="o", ls="-", label="ours")[0],
        ]
        if any(mark.scaled and mark.ours for marks in panels.values() for mark in marks):
            legend += grid[0, 0].plot(
                [], [], color=OURS, marker="X", alpha=0.5, ls=":", label="ours, scaled-down: no reproduction"
            )
        figure.legend(handles=legend, loc="outside lower left", ncols=3, frameon=False, fontsize=8)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=170)
    return out.getvalue()


def _draw_mark(axes, mark: Mark) -> None:  # type: ignore[no-untyped-def]  # matplotlib's Axes
    arrow = {"arrowstyle": "-|>", "linewidth": 1.1, "shrinkA": 4, "shrinkB": 4}
    if mark.printed:
        axes.plot(*mark.printed, "o", color=PRINTED, mfc="white", markersize=6, zorder=3)
        axes.annotate(
            mark.label, mark.printed, (4, 4), textcoords="offset points", fontsize=7.5, color=INK, zorder=5
        )
        if mark.from_printed:
            axes.annotate("", mark.printed, mark.from_printed, arrowprops=arrow | {"color": FAINT})
    if mark.ours:
        look = {"alpha": 0.5, "marker": "X"} if mark.scaled else {"marker": "o"}
        axes.plot(*mark.ours, color=OURS, ls="none", markersize=6, zorder=4, **look)
        if mark.printed is None or mark.scaled:
            axes.annotate(
                mark.label, mark.ours, (4, -9), textcoords="offset points", fontsize=7.5, color=OURS
            )
        if mark.from_ours:
            style = {"color": OURS, "linestyle": ":" if mark.scaled else "-"}
            axes.annotate("", mark.ours, mark.from_ours, arrowprops=arrow | style)


def _page(sheet: Sheet, panels: dict[str, list[Mark]]) -> str:
    from plotly.subplots import make_subplots

    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    titles = [html.escape(sheet.content.groups[group].title or group) for group in panels]
    figure = make_subplots(down, across, subplot_titles=titles)
    x_title, y_title = (html.escape(title) for title in _titles(sheet))
    for number, marks in enumerate(panels.values()):
        at = {"row": number // across + 1, "col": number % across + 1}
        for what, colour in (("printed", PRINTED), ("ours", OURS)):
            own = [m for m in marks if getattr(m, what)]
            scaled = [what == "ours" and m.scaled for m in own]
            figure.add_scatter(
                x=[getattr(m, what)[0] for m in own],
                y=[getattr(m, what)[1] for m in own],
                mode="markers+text",
                text=[html.escape(m.label) for m in own],
                textposition="top right",
                textfont={"size": 9},
                name="published" if what == "printed" else "ours (cross: scaled-down, no reproduction)",
                legendgroup=what,
                showlegend=number == 0,
                marker={
                    "color": colour,
                    "size": 9,
                    "symbol": [
                        "x" if s else "circle-open" if what == "printed" else "circle" for s in scaled
                    ],
                },
                hovertext=[m.hover for m in own],
                hoverinfo="text",
                **at,
            )
            for mark in own:
                tail, tip = getattr(mark, f"from_{what}"), getattr(mark, what)
                if tail:
                    axis = "" if number == 0 else str(number + 1)
                    figure.add_annotation(
                        x=tip[0],
                        y=tip[1],
                        ax=tail[0],
                        ay=tail[1],
                        xref=f"x{axis}",
                        yref=f"y{axis}",
                        axref=f"x{axis}",
                        ayref=f"y{axis}",
                        showarrow=True,
                        arrowhead=2,
                        arrowcolor=colour,
                        standoff=5,
                        text="",
                    )
        figure.update_xaxes(title=x_title, **at)
        figure.update_yaxes(title=y_title, **at)
    figure.update_layout(
        title={"text": f"<b>{html.escape(sheet.title)}</b>"},
        template="plotly_white",
        height=140 + 430 * down,
        hoverlabel={"align": "left"},
    )
    page: str = figure.to_html(include_plotlyjs=True, config={"displaylogo": False})
    return page

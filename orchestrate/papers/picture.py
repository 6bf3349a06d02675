"""A sheet on the accuracy-robustness plane: arrows from baselines to methods, as printed and as they came out."""

from __future__ import annotations

import html
import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluation.figures import COLOURS, INK, SOFT, STYLE
from evaluation.files import write_whole
from evaluation.naming import FAINT, Name, name_points
from orchestrate.papers.sheet import Sheet
from orchestrate.papers.verdict import Compared
from training.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOT_ROBUST = 2.0  # %: below it a network has no robustness to speak of
PRINTED, OURS = SOFT, COLOURS[0]
ACROSS = 3  # panels side by side
TITLE_WIDTH = 44  # characters
Place = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One row in one panel: where it is printed to be, where it came out, and where its baseline did."""

    label: str
    printed: Place | None
    ours: Place | None
    from_printed: Place | None
    from_ours: Place | None
    hover: str

    @property
    def places(self) -> list[Place]:
        """Where it has a point."""
        return [place for place in (self.printed, self.ours) if place]


@dataclass(frozen=True)
class Panel:
    """Rows on one plane. What was scaled down has a plane of its own: its numbers are of something else."""

    title: str
    marks: tuple[Mark, ...]
    scaled: bool

    @property
    def in_sight(self) -> tuple[Mark, ...]:
        """Without networks that are not robust at all, beside which all others would look alike."""
        robust = [mark for mark in self.marks if max(place[1] for place in mark.places) >= NOT_ROBUST]
        return tuple(robust) if len(robust) > 1 else self.marks

    @property
    def remark(self) -> str:
        """What is out of sight."""
        out = [mark for mark in self.marks if mark not in self.in_sight]
        named = ", ".join(f"{m.label} ({m.places[-1][0]:.1f}, {m.places[-1][1]:.1f})" for m in out)
        return f"not in sight: {named}" if named else ""


def draw(sheet: Sheet, compared: Sequence[Compared], folder: Path) -> tuple[Path, Path]:
    """Write ``PAPER-TABLE.png`` and ``.html`` (which needs no network); a panel or two per group of rows.

    Raises UserError for a sheet whose columns make no plane, OSError naming a file that cannot be written.
    """
    if sheet.content.axes is None:
        raise UserError(f"{sheet.name}: has no two columns of accuracy and robustness to draw")
    panels = [panel for group in sheet.content.groups for panel in _panels(sheet, compared, group)]
    if not panels:
        raise UserError(f"{sheet.name}: no row of it has both numbers that would be drawn")
    png, page = (folder / f"{sheet.name.replace('/', '-')}.{end}" for end in ("png", "html"))
    write_whole(png, _png(sheet, panels))
    write_whole(page, _page(sheet, panels).encode())
    return png, page


def _panels(sheet: Sheet, compared: Sequence[Compared], group: str) -> list[Panel]:
    """What is printed with our repetitions, and a panel for each way in which rows were scaled down."""
    title = sheet.content.groups[group].title or group
    rows = [one for one in compared if one.row.group == group]
    panels = [Panel(title, _marks(sheet, rows, ""), False)]
    for scaled in dict.fromkeys(one.scaled for one in rows if one.scaled):
        words = textwrap.fill(scaled, TITLE_WIDTH)
        panels.append(Panel(f"{title}: scaled-down\n{words}", _marks(sheet, rows, scaled), True))
    return [panel for panel in panels if panel.marks]


def _marks(sheet: Sheet, rows: Sequence[Compared], scaled: str) -> tuple[Mark, ...]:
    by_id = {one.row.id: one for one in rows}
    marks = []
    for one in rows:
        base = by_id.get(one.row.compared_with or "")
        mark = Mark(
            one.row.label,
            None if scaled else _printed(sheet, one),
            _ours(sheet, one, scaled),
            _printed(sheet, base) if base and not scaled else None,
            _ours(sheet, base, scaled) if base else None,
            _hover(sheet, one),
        )
        if mark.places:
            marks.append(mark)
    return tuple(marks)


def _printed(sheet: Sheet, one: Compared) -> Place | None:
    x, y = (one.cells[axis].printed for axis in sheet.content.axes or ())
    return None if x is None or y is None else (x.value, y.value)


def _ours(sheet: Sheet, one: Compared, scaled: str) -> Place | None:
    x, y = (one.cells[axis].ours for axis in sheet.content.axes or ())
    return None if x is None or y is None or one.scaled != scaled else (x, y)


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


def _png(sheet: Sheet, panels: Sequence[Panel]) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(5.2, 3.9 * across), 0.9 + 3.5 * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        figure.suptitle(sheet.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        handles = [
            grid[0, 0].plot([], [], color=PRINTED, marker="o", mfc="white", ls="-", label="published")[0],
            grid[0, 0].plot([], [], color=OURS, marker="o", ls="-", label="ours")[0],
        ]
        if any(panel.scaled for panel in panels):
            handles += grid[0, 0].plot(
                [], [], color=OURS, marker="X", alpha=0.6, ls=":", label="ours, scaled-down: no reproduction"
            )
        figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=8)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, sheet, panel)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        figure.draw_without_rendering()  # settles the layout, and with it where names have room
        figure.set_layout_engine("none")
        for axes, panel in zip(grid.flat, panels, strict=False):
            _name_marks(axes, panel)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=170)
    return out.getvalue()


def _draw_panel(axes: Axes, sheet: Sheet, panel: Panel) -> None:
    x_title, y_title = _titles(sheet)
    axes.set_title(panel.title, loc="left", fontsize=8.5)
    axes.set(xlabel=f"{x_title}\n{panel.remark}" if panel.remark else x_title, ylabel=y_title)
    axes.margins(0.22, 0.16)
    arrow = {"arrowstyle": "-|>", "linewidth": 1.1, "shrinkA": 4, "shrinkB": 4}
    seen = {place for mark in panel.in_sight for place in mark.places}
    for mark in panel.in_sight:
        if mark.printed:
            axes.plot(*mark.printed, "o", color=PRINTED, mfc="white", markersize=6, zorder=3)
            if mark.from_printed in seen:
                axes.annotate("", mark.printed, mark.from_printed, arrowprops=arrow | {"color": FAINT})
        if mark.ours:
            marker, alpha, line = ("X", 0.6, ":") if panel.scaled else ("o", 1.0, "-")
            axes.plot(*mark.ours, color=OURS, ls="none", marker=marker, alpha=alpha, markersize=6, zorder=4)
            if mark.from_ours in seen:
                look = arrow | {"color": OURS, "linestyle": line}
                axes.annotate("", mark.ours, mark.from_ours, arrowprops=look)


def _name_marks(axes: Axes, panel: Panel) -> None:
    """Each row's name once: beside what is printed, else beside what came out."""
    places = [place for mark in panel.in_sight for place in mark.places]
    half = 3.5 * axes.figure.dpi / 72
    dots = axes.transData.transform(places)
    names = [
        Name(mark.places[0], mark.label, INK if mark.printed else OURS)
        for mark in sorted(panel.in_sight, key=lambda mark: mark.places[0])
    ]
    name_points(axes, names, np.hstack([dots - half, dots + half]), 7.5)


def _page(sheet: Sheet, panels: Sequence[Panel]) -> str:
    from plotly.subplots import make_subplots

    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    titles = [html.escape(panel.title).replace("\n", "<br>") for panel in panels]
    figure = make_subplots(down, across, subplot_titles=titles)
    x_title, y_title = (html.escape(title) for title in _titles(sheet))
    for number, panel in enumerate(panels):
        at = {"row": number // across + 1, "col": number % across + 1}
        axis = str(number + 1) if number else ""
        for what, colour in (("printed", PRINTED), ("ours", OURS)):
            own = [(m, place) for m in panel.marks if (place := getattr(m, what))]
            figure.add_scatter(
                x=[x for _, (x, _) in own],
                y=[y for _, (_, y) in own],
                mode="markers+text",
                text=[html.escape(m.label) for m, _ in own],
                textposition="top right",
                textfont={"size": 9},
                name="published" if what == "printed" else "ours (cross: scaled-down, no reproduction)",
                legendgroup=what,
                showlegend=number == 0,
                marker={
                    "color": colour,
                    "size": 9,
                    "symbol": "circle-open" if what == "printed" else "x" if panel.scaled else "circle",
                },
                hovertext=[m.hover for m, _ in own],
                hoverinfo="text",
                **at,
            )
            for mark, tip in own:
                tail = getattr(mark, f"from_{what}")
                if tail:
                    ends = {"x": tip[0], "y": tip[1], "ax": tail[0], "ay": tail[1]}
                    on = {f"{name}ref": f"{name[-1]}{axis}" for name in ends}
                    look = {
                        "showarrow": True,
                        "arrowhead": 2,
                        "arrowcolor": colour,
                        "standoff": 5,
                        "text": "",
                    }
                    figure.add_annotation(**ends, **on, **look)
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

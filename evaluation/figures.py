"""Pictures: the front of a sweep for a paper (PNG, SVG) and for a browser (HTML), and a trial's learning curves."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evaluation.files import write_whole
from evaluation.front import Point, hypervolume
from evaluation.naming import FAINT, Line, Name, name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours that hold up on white, told apart with every common colour blindness. Their number and
# that of the markers (matplotlib's, plotly's) share no factor, so 42 methods get pairs of their own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("P", "cross"),
    ("X", "x"),
)
INK, SOFT = "#222222", "#555555"
LEGEND_COLUMNS = 6
LONGEST_LABEL = 32  # characters beside a point
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "parapet",  # the same points make the same file
}


def draw(points: Sequence[Point], folder: Path, title: str, attack: str = "all attacks") -> tuple[Path, ...]:
    """Write ``front.png``, ``front.svg`` and ``front.html`` (which needs no network); returns their paths.

    Args:
        points: as :func:`evaluation.front.summarise` gives them; there may be none.
        attack: what "robust" means, as in "AutoAttack, Linf, eps = 8/255".

    Raises:
        OSError: naming the file.
    """
    from matplotlib import rc_context

    png, svg, page = (folder / f"front.{end}" for end in ("png", "svg", "html"))
    with rc_context(STYLE):
        figure = _front(points, title, attack)
        write_whole(png, _bytes(figure, "png"))
        write_whole(svg, _bytes(figure, "svg"))
    write_whole(page, _page(points, title, attack).encode())
    return png, svg, page


def curves(epochs: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Learning curves of one trial as a PNG: accuracy on the validation split, and the loss with its terms.

    Args:
        epochs: its ``epoch`` events (``epoch``, ``metrics``, ``best``), in order.

    Raises:
        OSError: naming the file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.0))  # no layout engine: it would draw everything twice
        places = {"left": 0.075, "right": 0.99, "bottom": 0.15, "top": 0.96, "wspace": 0.25}
        left, right = figure.subplots(1, 2, gridspec_kw=places)
        for colour, name in zip(COLOURS, ("val/clean", "val/robust"), strict=False):
            at, values = _series(epochs, name)
            left.plot(at, 100 * values, color=colour, marker=".", label=name.removeprefix("val/"))
        best = [e["epoch"] + 1 for e in epochs if e.get("best")]
        if best:
            left.axvline(best[-1], color=FAINT, linewidth=0.9, linestyle=":", label="best epoch")
        left.set(ylabel="validation accuracy (%)", ylim=(-2, 102))
        terms = sorted({name for e in epochs for name in e["metrics"] if name.startswith("loss/")})
        for i, name in enumerate(["loss", *terms]):
            at, values = _series(epochs, name)
            colour = COLOURS[(i - 1) % len(COLOURS)] if i else INK
            right.plot(at, values, color=colour, marker=".", label=name.removeprefix("loss/"))
        right.set(ylabel="training loss and its terms")
        for axes in (left, right):
            axes.set(xlabel="epochs")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(frameon=False, fontsize=8)
        write_whole(file, _bytes(figure, "png"))


def _series(epochs: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Epochs done, and a metric's values, where it was measured."""
    there = [(e["epoch"] + 1, float(e["metrics"][name])) for e in epochs if name in e["metrics"]]
    return [at for at, _ in there], np.array([value for _, value in there])


def _bytes(figure: Figure, form: str) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)
    return out.getvalue()


def _front(points: Sequence[Point], title: str, attack: str) -> Figure:
    """Clean against robust accuracy in %; dominated points are lighter and smaller."""
    from matplotlib.figure import Figure

    looks = _looks(points)
    rows = math.ceil(len(looks) / LEGEND_COLUMNS)
    figure = Figure(figsize=(6.8, 4.9))
    axes = figure.add_axes((0.09, 0.1, 0.89, 0.75 - 0.045 * rows))
    axes.set(xlabel="clean accuracy (%)", ylabel="robust accuracy (%)")
    axes.set(xlim=_limits([(p.clean, p.clean_sd) for p in points], beyond=0.2))
    axes.set(ylim=_limits([(p.robust, p.robust_sd) for p in points], beyond=0.1))
    axes.set_xticks(
        [tick for tick in axes.get_xticks() if 0 <= tick <= 100 and _between(tick, axes.get_xlim())]
    )
    axes.set_yticks(
        [tick for tick in axes.get_yticks() if 0 <= tick <= 100 and _between(tick, axes.get_ylim())]
    )
    figure.text(0.09, 0.95, title, fontsize=12, fontweight="bold")
    figure.text(
        0.09, 0.935, "\n".join(_caption(points, attack)), fontsize=8, color=SOFT, verticalalignment="top"
    )
    if not points:
        axes.text(0.5, 0.5, "no finished evaluation", transform=axes.transAxes, ha="center", color=FAINT)
        return figure
    (left, _), (low, _) = axes.get_xlim(), axes.get_ylim()
    x, y = _staircase(points, left, low)
    axes.plot(x, y, color=SOFT, linewidth=1.1, zorder=1.5)
    axes.fill_between(x, y, low, color=SOFT, alpha=0.06, linewidth=0, zorder=0.5)
    for front in (False, True):
        for method, (colour, marker, _) in looks.items():
            own = [p for p in points if p.method == method and p.front == front]
            axes.errorbar(
                [100 * p.clean for p in own],
                [100 * p.robust for p in own],
                xerr=[100 * (p.clean_sd or 0) for p in own],
                yerr=[100 * (p.robust_sd or 0) for p in own],
                fmt=marker,
                color=colour if front else _tint(colour),
                markersize=7.5 if front else 5,
                markeredgecolor="white",
                markeredgewidth=0.6,
                elinewidth=0.9,
                zorder=4 if front else 3,
            )
            if not front:
                axes.plot([], [], color=colour, marker=marker, linestyle="none", markersize=6, label=method)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.015, 1.0),
        ncols=math.ceil(len(looks) / rows),
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
        columnspacing=1.4,
    )
    _name_front(axes, points)
    return figure


def _caption(points: Sequence[Point], attack: str) -> tuple[str, ...]:
    """What the numbers are: the attack, the images and seeds behind them, and the area under the front."""
    if not points:
        return (attack,)
    area = hypervolume([(p.clean, p.robust) for p in points])
    images = " or ".join(f"{n:,}" for n in sorted({p.images for p in points}))
    seeds = sorted({len(p.seeds) for p in points})
    if seeds == [1]:
        many = "one seed each"
    else:
        several = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
        many = f"mean and standard deviation over {several} seeds"
    chosen = any(p.selection == "test" for p in points)
    return (
        f"robust: {attack}, on {images} test images" + (" (some selected on them)" if chosen else ""),
        f"{many}; hypervolume {area:.3f} above (0, 0)",
    )


def _looks(points: Sequence[Point]) -> dict[str, tuple[str, str, str]]:
    """Per method, in alphabetical order: colour, matplotlib's marker, plotly's marker."""
    methods = sorted({p.method for p in points})
    return {
        method: (COLOURS[i % len(COLOURS)], *MARKERS[i % len(MARKERS)]) for i, method in enumerate(methods)
    }


def _tint(colour: str) -> tuple[float, ...]:
    """A colour, lighter. Unlike transparency it does not let lines shine through."""
    from matplotlib.colors import to_rgb

    return tuple(1 - 0.45 * (1 - channel) for channel in to_rgb(colour))


def _limits(values: Sequence[tuple[float, float | None]], beyond: float) -> tuple[float, float]:
    """An axis in % that holds means and spreads, at least 4 points wide, with a share ``beyond`` for names."""
    if not values:
        return 0.0, 100.0
    low = min(100 * (mean - (sd or 0)) for mean, sd in values)
    high = max(100 * (mean + (sd or 0)) for mean, sd in values)
    width = max(high - low, 4.0)
    low = max((low + high - width) / 2, min(low, 0.0))
    return low - 0.06 * width, low + (1 + beyond) * width


def _between(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _staircase(points: Sequence[Point], left: float, low: float) -> tuple[Line, Line]:
    """The border, in %, of what is reached in both accuracies at once: corners from the left to the bottom edge."""
    steps = sorted({(100 * p.clean, 100 * p.robust) for p in points if p.front})
    clean, robust = np.array(steps).T
    return np.r_[left, np.repeat(clean, 2)], np.r_[np.repeat(robust, 2), low]


def _name_front(axes: Axes, points: Sequence[Point]) -> None:
    """Name the members of the front beside them."""
    members: dict[tuple[float, float], list[Point]] = {}
    for p in sorted(points, key=lambda p: p.clean):
        if p.front:
            members.setdefault((100 * p.clean, 100 * p.robust), []).append(p)
    looks = _looks(points)
    names = []
    for at, here in members.items():
        name = _short(here[0].label) + (f" and {len(here) - 1} more" if len(here) > 1 else "")
        names.append(Name(at, name, looks[here[0].method][0]))
    name_points(axes, names, _covered(axes, points, 4 * axes.figure.dpi / 72))


def _short(label: str) -> str:
    """A label that fits beside its point: without its parameters where they are long (the table has them)."""
    return label if len(label) <= LONGEST_LABEL else label.partition(" ")[0]


def _covered(axes: Axes, points: Sequence[Point], half: float) -> Line:
    """Boxes [N, 4] (x0, y0, x1, y1, in pixels) over the markers and over the bars of the front's members."""
    dots = axes.transData.transform([(100 * p.clean, 100 * p.robust) for p in points])
    boxes = [np.hstack([dots - half, dots + half])]
    for p in points:
        if p.front and p.clean_sd is not None and p.robust_sd is not None:
            centre, sd = 100 * np.array((p.clean, p.robust)), 100 * np.array((p.clean_sd, p.robust_sd))
            bars = [[centre - sd * along, centre + sd * along] for along in np.eye(2)]
            boxes.append(axes.transData.transform(np.reshape(bars, (4, 2))).reshape(2, 4))
    return np.vstack(boxes)


def _page(points: Sequence[Point], title: str, attack: str) -> str:
    """The front as one HTML page; hovering shows method, parameters, seeds and keys."""
    from plotly import graph_objects as go

    figure = go.Figure()
    xlim = _limits([(p.clean, p.clean_sd) for p in points], beyond=0.2)
    ylim = _limits([(p.robust, p.robust_sd) for p in points], beyond=0.1)
    if points:
        x, y = _staircase(points, xlim[0], ylim[0])
        line = {"color": "#666666", "width": 1.5}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name="front", hoverinfo="skip")
    for method, (colour, _, symbol) in _looks(points).items():
        own = [p for p in points if p.method == method]
        figure.add_scatter(
            x=[100 * p.clean for p in own],
            y=[100 * p.robust for p in own],
            error_x=_bars([p.clean_sd for p in own], colour),
            error_y=_bars([p.robust_sd for p in own], colour),
            mode="markers",
            name=html.escape(method),
            marker={
                "color": colour,
                "symbol": symbol,
                "size": [12 if p.front else 8 for p in own],
                "opacity": [1.0 if p.front else 0.45 for p in own],
            },
            hovertext=[_hover(p) for p in own],
            hoverinfo="text",
        )
    caption = "; ".join(_caption(points, attack))
    figure.update_layout(
        title={"text": f"<b>{html.escape(title)}</b><br><sup>{html.escape(caption)}</sup>"},
        xaxis={"title": "clean accuracy (%)", "range": xlim},
        yaxis={"title": "robust accuracy (%)", "range": ylim},
        template="plotly_white",
        hoverlabel={"align": "left"},
    )
    page: str = figure.to_html(include_plotlyjs=True, config={"displaylogo": False})
    return page


def _bars(spreads: Sequence[float | None], colour: str) -> dict[str, Any]:
    return {"array": [100 * (sd or 0) for sd in spreads], "color": colour, "thickness": 1, "width": 0}


def _hover(p: Point) -> str:
    def measured(mean: float, sd: float | None, interval: tuple[float, float]) -> str:
        spread = "" if sd is None else f" ± {100 * sd:.2f}"
        return f"{100 * mean:.2f}{spread} % (95 %: {100 * interval[0]:.1f} to {100 * interval[1]:.1f})"

    lines = {
        "": f"<b>{html.escape(p.label)}</b>",
        "method": html.escape(p.method),
        "loss": html.escape(p.formula),
        **{html.escape(name): html.escape(str(value)) for name, value in p.parameters.items()},
        "clean": measured(p.clean, p.clean_sd, p.clean_interval),
        "robust": measured(p.robust, p.robust_sd, p.robust_interval),
        "images": str(p.images),
        "seeds": ", ".join(map(str, p.seeds)),
        "keys": ", ".join(p.keys),
        "remarks": html.escape("; ".join(p.remarks)),
    }
    return "<br>".join(f"{name}: {value}" if name else value for name, value in lines.items() if value)

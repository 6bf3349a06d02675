"""Pictures: the front of a sweep for a paper (PNG, SVG) and for a browser (HTML), and a trial's learning curves."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.files import write_whole
from evaluation.front import Point, hypervolume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours that hold up on white, told apart with every common colour blindness. Their number and
# that of the markers share no factor, so 42 methods get pairs of their own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = (("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"), ("P", "cross"))
MARKERS += (("v", "triangle-down"), ("X", "x"))
INK, FAINT = "#222222", "#8A8A8A"
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
    """Write ``front.png``, ``front.svg`` and ``front.html`` (needs no network); returns their paths.

    Args:
        points: as :func:`evaluation.front.summarise` gives them; there may be none.
        attack: what "robust" means, as in "AutoAttack, Linf, eps = 8/255".

    Raises:
        OSError: naming the file.
    """
    png, svg, page = (folder / f"front.{end}" for end in ("png", "svg", "html"))
    figure = _front(points, title, attack)
    write_whole(png, _bytes(figure, "png"))
    write_whole(svg, _bytes(figure, "svg"))
    write_whole(page, _page(points, title, attack).encode())
    return png, svg, page


def curves(epochs: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Learning curves of one trial as a PNG: accuracies on the validation split, and the loss with its terms.

    Args:
        epochs: its ``epoch`` events (``epoch``, ``metrics``, ``best``), in order.

    Raises:
        OSError: naming the file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for i, name in enumerate(("val/clean", "val/robust")):
            at, values = _series(epochs, name)
            left.plot(at, 100 * values, color=COLOURS[i], marker=".", label=f"{name.removeprefix('val/')}")
        best = [e["epoch"] for e in epochs if e.get("best")]
        if best:
            left.axvline(best[-1] + 1, color=FAINT, linewidth=0.8, linestyle=":", label="best")
        left.set(ylabel="validation accuracy (%)", ylim=(-2, 102))
        terms = sorted({name for e in epochs for name in e["metrics"] if name.startswith("loss/")})
        for i, name in enumerate(["loss", *terms]):
            at, values = _series(epochs, name)
            colour = INK if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
            right.plot(at, values, color=colour, marker=".", label=name.removeprefix("loss/"))
        right.set(ylabel="training loss and its terms (nats)")
        for axes in (left, right):
            axes.set(xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(frameon=False, fontsize=8)
        write_whole(file, _bytes(figure, "png"))


def _series(epochs: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], np.ndarray[Any, Any]]:
    """Epochs counted from 1, and a metric's values, where it was measured."""
    there = [(e["epoch"] + 1, e["metrics"][name]) for e in epochs if name in e["metrics"]]
    return [at for at, _ in there], np.array([float(value) for _, value in there])


def _front(points: Sequence[Point], title: str, attack: str) -> Figure:
    """Clean against robust accuracy in %."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(6.6, 4.8))
        axes = figure.add_axes((0.1, 0.11, 0.87, 0.73))
        axes.set(xlabel="clean accuracy (%)", ylabel="robust accuracy (%)")
        left, right = _limits([100 * p.clean for p in points], [100 * (p.clean_sd or 0) for p in points])
        low, high = _limits([100 * p.robust for p in points], [100 * (p.robust_sd or 0) for p in points])
        axes.set(xlim=(left, right), ylim=(low, high))
        _staircase(axes, points)
        looks = _looks(points)
        for method, (colour, marker, _) in looks.items():
            own = [p for p in points if p.method == method]
            axes.plot([], [], color=colour, marker=marker, linestyle="none", markersize=6, label=method)
            for p in own:
                _point(axes, p, colour, marker)
        figure.text(0.1, 0.945, title, fontsize=12, fontweight="bold")
        figure.text(0.1, 0.895, _caption(points, attack), fontsize=8, color="#555555")
        if looks:
            axes.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none", fontsize=8)
        else:
            axes.text(0.5, 0.5, "no finished evaluation", transform=axes.transAxes, ha="center", color=FAINT)
        _label(axes, points, looks)
        return figure


def _limits(values: Sequence[float], spreads: Sequence[float]) -> tuple[float, float]:
    """An axis that shows all values with their spreads and room for labels, not narrower than 4 points."""
    if not values:
        return 0.0, 100.0
    low = min(v - s for v, s in zip(values, spreads, strict=True))
    high = max(v + s for v, s in zip(values, spreads, strict=True))
    room = max(0.08 * (high - low), 1.0)
    missing = max(0.0, 4.0 - (high - low) - 2 * room) / 2
    return low - room - missing, high + room + missing


def _staircase(axes: Axes, points: Sequence[Point]) -> None:
    """The border of what some point reaches in both accuracies, and the region below it."""
    steps = sorted({(100 * p.clean, 100 * p.robust) for p in points if p.front})
    if not steps:
        return
    (left, _), (low, _) = axes.get_xlim(), axes.get_ylim()
    clean, robust = np.array(steps).T
    x = np.r_[left, np.repeat(clean, 2)]
    y = np.r_[np.repeat(robust, 2), low]
    axes.plot(x, y, color="#555555", linewidth=1.1, zorder=1.5)
    axes.fill_between(x, y, low, color="#555555", alpha=0.05, linewidth=0, zorder=0.5)


def _point(axes: Axes, p: Point, colour: str, marker: str) -> None:
    """A point with its spread over seeds; lighter and smaller when another dominates it."""
    axes.errorbar(
        100 * p.clean,
        100 * p.robust,
        xerr=None if p.clean_sd is None else 100 * p.clean_sd,
        yerr=None if p.robust_sd is None else 100 * p.robust_sd,
        fmt=marker,
        color=colour,
        markersize=7 if p.front else 5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        elinewidth=0.9,
        capsize=0,
        alpha=1.0 if p.front else 0.4,
        zorder=4 if p.front else 3,
    )


def _label(axes: Axes, points: Sequence[Point], looks: Mapping[str, tuple[str, str, str]]) -> None:
    """Name the members of the front, where there is room; a name that moved away gets a line to its point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    members = sorted((p for p in points if p.front), key=lambda p: p.clean)
    if not members:
        return
    canvas = FigureCanvasAgg(axes.figure)
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    scale = axes.figure.dpi / 72
    dots = axes.transData.transform([(100 * p.clean, 100 * p.robust) for p in points])
    taken = [Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in dots]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    seen: set[tuple[float, float]] = set()
    for p in members:
        if (p.clean, p.robust) in seen:
            continue
        seen.add((p.clean, p.robust))
        same = [q.label for q in members if (q.clean, q.robust) == (p.clean, p.robust)]
        text = axes.annotate(
            same[0] if len(same) == 1 else f"{same[0]} (+{len(same) - 1})",
            (100 * p.clean, 100 * p.robust),
            textcoords="offset points",
            fontsize=8,
            color=looks[p.method][0],
            zorder=6,
        )
        best = None
        for reach in (7, 16, 28, 42, 60):
            for dx, dy, across, up in PLACES:
                text.set(position=(reach * dx, reach * dy), horizontalalignment=across, verticalalignment=up)
                box = text.get_window_extent(renderer).padded(1.0)
                if not (frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)):
                    continue
                if not any(box.overlaps(other) for other in taken):
                    best = (reach, dx, dy, across, up)
                    break
            if best:
                break
        if best is None:
            text.remove()
            continue
        taken.append(text.get_window_extent(renderer))

"""Names beside the points of a picture, which cover neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT = "#8A8A8A"
NEAR = 8  # printer's points from a point to its name, beyond which a line joins them
Line = npt.NDArray[np.float64]  # coordinates [N]


class Name(NamedTuple):
    """What is written beside the point ``at``, in the axes' data coordinates."""

    at: tuple[float, float]
    text: str
    colour: str


def name_points(axes: Axes, names: Sequence[Name], taken: Line, size: float = 8) -> None:
    """Write names beside their points, whose axes have their final limits.

    A name without room nearby moves away and a line leads to it; one without room anywhere is left out.

    Args:
        taken: boxes [N, 4] (x0, y0, x1, y1, in pixels) that no name may cover.
        size: of the letters.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    frame = axes.get_window_extent(renderer)
    unit = axes.figure.dpi / 72  # a printer's point
    for at, name, colour in names:
        centre = axes.transData.transform(at)
        text = axes.text(*at, name, fontsize=size, color=colour, zorder=6)
        for dx, dy, across, up in _places():
            end = centre + unit * np.array((dx, dy))
            text.set(position=axes.transData.inverted().transform(end), ha=across, va=up)
            box = text.get_window_extent(renderer)
            away = math.hypot(dx, dy) > NEAR
            # A line to a name is as good as a row of dots, as far as covering goes.
            line = np.linspace(centre, end, 9)[3:-1] if away else np.zeros((0, 2))
            cover = np.vstack([box.extents, np.hstack([line - unit, line + unit])])
            within = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if within and not _overlap(cover, taken):
                taken = np.vstack([taken, cover])
                if away:
                    axes.plot(
                        *zip(at, text.get_position(), strict=True), color=FAINT, linewidth=0.5, zorder=2
                    )
                break
        else:
            text.remove()


def _overlap(some: Line, others: Line) -> bool:
    """Does any box of ``some`` [N, 4] overlap any of ``others`` [M, 4]?"""
    a, b = some[:, None], others[None]
    return bool(((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])).all(axis=2).any())


def _places() -> Iterator[tuple[float, float, str, str]]:
    """Offsets of a name from its point, in printer's points, nearest first; beyond the front before behind it."""
    for reach in (6, 14, 24, 36, 50, 66):
        yield reach * 0.7, reach * 0.7, "left", "bottom"
        yield reach, 0, "left", "center"
        yield 0, reach, "center", "bottom"
        yield reach, reach * 0.5, "left", "bottom"
        yield reach * 0.5, reach, "left", "bottom"
    for reach in (6, 14, 24, 36, 50):
        yield -reach * 0.7, -reach * 0.7, "right", "top"
        yield -reach, 0, "right", "center"

"""Is what came out here what was printed? Both are intervals, and what is compared is whether they agree.

Printed: a mean of n trainings with their standard deviation s (its 95 % interval is t(n-1) s / sqrt(n)), or with a
95 % interval of its own, or a number alone. Ours: the mean over seeds, with a 95 % interval of two parts that are
added in quadrature: between seeds, t(m-1) s / sqrt(m), and over test images drawn anew, Wilson's interval. One
seed says nothing of the spread between seeds; then the paper's own spread stands in, where it prints one. They agree
where the difference is no larger than both intervals in quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from evaluation.front import wilson
from orchestrate.papers.ours import Ours
from orchestrate.papers.sheet import Printed, Row, Sheet, Spread


@dataclass(frozen=True)
class Cell:
    """One column of one row, in %: what is printed, and what came out here (None: nothing, or ``not_yet``)."""

    printed: Printed | None
    ours: float | None = None
    sd: float | None = None  # between our seeds
    half: float = 0.0  # half our interval
    tolerance: float = 0.0  # the largest difference that still agrees
    runs: int = 0
    images: int = 0
    not_yet: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus printed."""
        return None if self.ours is None or self.printed is None else self.ours - self.printed.value

    @property
    def agrees(self) -> bool | None:
        """Within the spread? None where there is nothing to compare."""
        return None if self.difference is None else abs(self.difference) <= self.tolerance


@dataclass(frozen=True)
class Compared:
    """One row: its repetitions by column, or, where there is none, its scaled-down runs, which prove nothing."""

    row: Row
    cells: Mapping[str, Cell]
    runs: int
    scaled: tuple[str, ...] = ()  # what was other in the runs that are shown; empty: they are repetitions

    @property
    def verdict(self) -> str:
        """``within the spread``, ``not: ...``, ``not run``, ``scaled-down: ...``, ``not yet`` or ``not trained``."""
        if self.row.given.untrained:
            return "not trained here"
        if self.scaled:
            return f"scaled-down: {'; '.join(self.scaled)}"
        compared = {name: cell for name, cell in self.cells.items() if cell.agrees is not None}
        if compared:
            off = {name: cell for name, cell in compared.items() if not cell.agrees}
            if not off:
                return "within the spread"
            return "not: " + ", ".join(f"{name} {cell.difference:+.2f}" for name, cell in off.items())
        printed = [cell for cell in self.cells.values() if cell.printed is not None]
        if self.runs:
            return "not evaluated so"
        if not printed:
            return "not run (nothing legible is printed)"
        if all(cell.not_yet for cell in printed):
            return "not run (no column can be measured yet)"
        if self.row.given.needs:
            return f"not run (needs {', '.join(self.row.given.needs)})"
        return "not run"


def compare(sheet: Sheet, row: Row, found: Sequence[Ours]) -> Compared:
    """A row beside its repetitions; without any, beside its scaled-down runs."""
    content = sheet.content
    measured = {
        name: [
            (ours, one)
            for ours in found
            if (one := ours.measured(column, sheet.checkpoint_of(row))) is not None
        ]
        for name, column in content.columns.items()
    }
    whole = {o.key for m in measured.values() for o, one in m if not o.scaled and one.whole}
    cells: dict[str, Cell] = {}
    reasons: dict[str, None] = {}
    shown: set[str] = set()
    for name, column in content.columns.items():
        printed = row.given.published.get(name)
        taken = []
        for ours, one in measured[name]:
            repetition = not ours.scaled and one.whole
            if repetition != bool(whole):
                continue
            taken.append(one)
            shown.add(ours.key)
            if not repetition:
                reasons[ours.scaled or f"{one.images} test images"] = None
        if taken:
            values, images = [m.value for m in taken], min(m.images for m in taken)
            cells[name] = cell(printed, row.spread if whole else Spread(), values, images)
        else:
            cells[name] = Cell(printed, not_yet=column.not_yet or "")
    return Compared(row, cells, len(shown), tuple(reasons))


def cell(printed: Printed | None, spread: Spread, values: Sequence[float], images: int) -> Cell:
    """What one column says, of values in % (one per seed) on ``images`` test images each."""
    mean = fmean(values)
    sd = stdev(values) if len(values) > 1 else None
    seeds = 0.0
    if sd is not None:
        seeds = _t(len(values) - 1) * sd / math.sqrt(len(values))
    elif printed is not None and (theirs := per_run_sd(printed, spread)) is not None:
        seeds = _t(spread.runs - 1) * theirs
    low, high = wilson(mean / 100, images)
    drawn = 50 * (high - low)
    half = math.hypot(seeds, drawn)
    tolerance = math.hypot(half, half_of(printed, spread)) if printed else half
    return Cell(printed, mean, sd, half, tolerance, len(values), images)


def half_of(printed: Printed, spread: Spread) -> float:
    """Half the 95 % interval of a printed mean; 0 where nothing is printed that would tell."""
    if printed.spread is None or spread.kind == "none":
        return 0.0
    if spread.kind == "interval95":
        return printed.spread
    return _t(spread.runs - 1) * printed.spread / math.sqrt(spread.runs)


def per_run_sd(printed: Printed, spread: Spread) -> float | None:
    """The standard deviation between the paper's trainings, as far as it prints it."""
    if printed.spread is None or spread.kind == "none":
        return None
    if spread.kind == "sd":
        return printed.spread
    return printed.spread * math.sqrt(spread.runs) / _t(spread.runs - 1)


def _t(freedom: int) -> float:
    """Student's t, two-sided 95 %."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))

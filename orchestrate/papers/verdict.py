"""Is what came out here what was printed? Both are intervals, and what is compared is whether they agree.

Printed: a mean of n trainings with their standard deviation, or with a 95 % interval of its own, or a number alone.
Ours: the mean over m seeds. The deviation between trainings is pooled from the paper's and ours, as far as either is
there; each mean then has an interval of t s / sqrt(count), Student's t of all the degrees of freedom together. Ours has
that of test images drawn anew (Wilson) besides, added in quadrature. They agree where the difference is no larger than
both intervals in quadrature; an agreement that loose data would allow almost anything is none (:data:`LOOSE`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from evaluation.front import wilson
from orchestrate import configuration
from orchestrate.papers.measure import Measured, measure
from orchestrate.papers.ours import Ours
from orchestrate.papers.sheet import Printed, Row, Sheet, Spread

LOOSE = 3.0  # points: what methods are apart


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

    @property
    def loose(self) -> bool:
        """Does it agree only because almost anything would?"""
        return bool(self.agrees) and self.tolerance > LOOSE


@dataclass(frozen=True)
class Compared:
    """One row: its repetitions by column, or, where there is none, its scaled-down runs, which prove nothing."""

    row: Row
    cells: Mapping[str, Cell]
    runs: int
    scaled: str = ""  # what was other in the runs that are shown; empty: they are repetitions
    hidden: tuple[str, ...] = ()  # what was other in further runs, which are not shown

    @property
    def verdict(self) -> str:
        """What a list says of the row: ``within the spread``, ``outside: ...``, ``incomplete: ...``, ..."""
        if self.row.given.untrained:
            return "not trained here"
        if self.scaled:
            return f"scaled-down: {self.scaled}"
        if not self.runs:
            return self._why_not_run()
        # Nobody can tell whether a file that the user gave is the paper's.
        return self._compared() + (" (with the files that were given)" if self.row.given.needs else "")

    def _compared(self) -> str:
        printed = {name: cell for name, cell in self.cells.items() if cell.printed is not None}
        off = [f"{name} {cell.difference:+.2f}" for name, cell in printed.items() if cell.agrees is False]
        lacking = [name for name, cell in printed.items() if cell.ours is None and not cell.not_yet]
        loose = [f"{name} ±{cell.tolerance:.1f}" for name, cell in printed.items() if cell.loose]
        if off:
            return f"outside: {', '.join(off)}"
        if lacking:
            return f"incomplete: {', '.join(lacking)} not evaluated"
        if loose:
            return f"too few to tell: {', '.join(loose)}"
        return "within the spread" if any(cell.agrees for cell in printed.values()) else "nothing to compare"

    def _why_not_run(self) -> str:
        printed = [cell for cell in self.cells.values() if cell.printed is not None]
        if not printed:
            return "not run (nothing legible is printed)"
        if all(cell.not_yet for cell in printed):
            return "not run (no column can be measured yet)"
        if self.row.given.needs:
            return f"not run (needs {', '.join(self.row.given.needs)})"
        return "not run"


def compare(sheet: Sheet, row: Row, found: Sequence[Ours]) -> Compared:
    """A row beside its repetitions; without any, beside those of its scaled-down runs that are like the last one."""
    spec = row.spec()
    resolved = configuration.of(spec)[0] if spec is not None else None
    measured: dict[str, list[tuple[Ours, Measured]]] = {name: [] for name in sheet.content.columns}
    for name, column in sheet.content.columns.items():
        for ours in found if resolved else ():
            assert resolved is not None
            one = measure(ours.outcomes, column, sheet.checkpoint_of(row), resolved, bool(ours.scaled))
            if one is not None:
                measured[name].append((ours, one))
    reasons = {(ours.began, _reason(ours, one)) for several in measured.values() for ours, one in several}
    scaled = "" if any(not reason for _, reason in reasons) else max(reasons, default=(0, ""))[1]
    cells: dict[str, Cell] = {}
    shown: set[str] = set()
    for name, column in sheet.content.columns.items():
        printed = row.given.published.get(name)
        taken = [(ours, one) for ours, one in measured[name] if _reason(ours, one) == scaled]
        shown |= {ours.key for ours, _ in taken}
        if taken:
            values, images = [one.value for _, one in taken], min(one.images for _, one in taken)
            cells[name] = cell(printed, Spread() if scaled else row.spread, values, images)
        else:
            cells[name] = Cell(printed, not_yet=column.not_yet or "")
    hidden = dict.fromkeys(
        reason for _, reason in sorted(reasons, reverse=True) if reason not in ("", scaled)
    )
    return Compared(row, cells, len(shown), scaled, tuple(hidden))


def _reason(ours: Ours, one: Measured) -> str:
    """Why a number is of a scaled-down run; empty for a repetition's."""
    return ours.scaled or ("" if one.whole else f"{one.images} test images")


def cell(printed: Printed | None, spread: Spread, values: Sequence[float], images: int) -> Cell:
    """What one column says, of values in % (one per seed) on ``images`` test images each."""
    mean, sd = fmean(values), stdev(values) if len(values) > 1 else None
    low, high = wilson(mean / 100, images)
    theirs = per_run_sd(printed, spread) if printed else None
    known = [(n - 1, s) for n, s in ((spread.runs, theirs), (len(values), sd)) if s is not None]
    freedom = sum(n for n, _ in known)
    reach = _t(freedom) * math.sqrt(sum(n * s * s for n, s in known) / freedom) if known else 0.0
    half = math.hypot(reach / math.sqrt(len(values)), 50 * (high - low))
    printed_half = reach / math.sqrt(spread.runs) if theirs is not None else 0.0
    return Cell(printed, mean, sd, half, math.hypot(half, printed_half), len(values), images)


def per_run_sd(printed: Printed, spread: Spread) -> float | None:
    """The standard deviation between the paper's trainings (of n - 1 degrees of freedom), as far as it prints one."""
    n = spread.runs
    match printed.spread, spread.kind:
        case None, _:
            return None
        case s, "sd":
            return s
        case s, "population-sd":
            return s * math.sqrt(n / (n - 1))
        case s, "interval95":
            return s * math.sqrt(n) / _t(n - 1)
    return None


def _t(freedom: int) -> float:
    """Student's t, two-sided 95 %."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))

"""The points of a front as tables: for people, for spreadsheets (CSV) and for programs (Parquet)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.files import write_whole
from evaluation.front import Point

HEADER = ("front", "configuration", "clean %", "robust %", "seeds", "images", "keys")


def write(points: Sequence[Point], folder: Path) -> tuple[Path, Path]:
    """Write ``front.csv`` and ``front.parquet``: one row per point, accuracies in [0, 1]; returns their paths.

    A parameter ``beta`` is the column ``parameter.beta``, empty where a configuration has none. The CSV separates the
    items of a list by blanks. Raises OSError naming the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(points)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    parquet = folder / "front.parquet"
    write_whole(parquet, sink.getvalue().to_pybytes())

    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    spreadsheet = folder / "front.csv"
    write_whole(spreadsheet, text.getvalue().encode())
    return spreadsheet, parquet


def rows_for_display(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """A row of texts per point under :data:`HEADER`: mean and standard deviation in %, keys cut to 8 digits."""
    return [
        (
            "*" if p.front else "",
            p.label,
            _percent(p.clean, p.clean_sd),
            _percent(p.robust, p.robust_sd),
            str(len(p.seeds)),
            str(p.images),
            " ".join(key[:8] for key in p.keys),
        )
        for p in points
    ]


def _columns(points: Sequence[Point]) -> dict[str, list[Any]]:
    names = sorted({name for p in points for name in p.parameters})
    return {
        "front": [p.front for p in points],
        "label": [p.label for p in points],
        "method": [p.method for p in points],
        "formula": [p.formula for p in points],
        **{f"parameter.{name}": _one_type([p.parameters.get(name) for p in points]) for name in names},
        "clean": [p.clean for p in points],
        "clean_sd": [p.clean_sd for p in points],
        "clean_low": [p.clean_interval[0] for p in points],
        "clean_high": [p.clean_interval[1] for p in points],
        "robust": [p.robust for p in points],
        "robust_sd": [p.robust_sd for p in points],
        "robust_low": [p.robust_interval[0] for p in points],
        "robust_high": [p.robust_interval[1] for p in points],
        "images": [p.images for p in points],
        "selection": [p.selection for p in points],
        "seeds": [list(p.seeds) for p in points],
        "keys": [list(p.keys) for p in points],
        "remarks": ["; ".join(p.remarks) for p in points],
    }


def _one_type(values: list[Any]) -> list[Any]:
    """Values that one Parquet column can hold: as they are when of one kind, else as JSON texts."""
    there = [v for v in values if v is not None]
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in there):
        return [None if v is None else float(v) for v in values]
    if all(isinstance(v, bool) for v in there) or all(isinstance(v, str) for v in there):
        return values
    return [None if v is None else json.dumps(v) for v in values]


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _percent(mean: float, sd: float | None) -> str:
    return f"{100 * mean:.1f}" if sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f}"

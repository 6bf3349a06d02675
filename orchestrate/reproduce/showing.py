"""A comparison as a table, as Markdown, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from orchestrate.reproduce.compare import TIMES, Comparison
from orchestrate.reproduce.fetch import Original
from orchestrate.reproduce.prepare import Reproduction
from orchestrate.reproduce.quantity import Part

COLUMNS = ("compared", "equal", "verdict", "furthest", "first unequal")


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row per quantity, and one per thing that could not be compared."""
    found: list[tuple[str, ...]] = [
        (
            q.name,
            f"{q.compared - q.unequal} of {q.compared}",
            q.verdict,
            f"{q.furthest.where}: {q.furthest.far}" if q.furthest else "-",
            f"{q.first.where}: {q.first.text}" if q.first else "-",
        )
        for q in comparison.quantities
    ]
    return found + [(sentence, "-", "not compared", "-", "-") for sentence in comparison.lacking]


def markdown(comparison: Comparison, original: Original, made: Reproduction) -> str:
    """For people who open it in MLflow."""
    lines = [
        f"# {original.label}: {comparison.verdict}",
        "",
        comparison.sentence,
        "",
        f"Run {original.run}, key {original.key}, reproduced from the tracking store alone."
        f" Tolerance: {comparison.tolerance}."
        f" Left out, since they measure the machine: {', '.join(TIMES)}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows(comparison)),
        "",
        *(f"- {name}: {sentence}" for name, sentence in made.told.items()),
        "",
        *(f"Doubt: {sentence}\n" for sentence in made.doubts),
    ]
    return "\n".join(lines)


def facts(comparison: Comparison, original: Original, made: Reproduction) -> dict[str, Any]:
    """For programs. Infinite distances and limits are null."""
    return {
        "reproduces": original.run,
        "key": original.key,
        "label": original.label,
        "verdict": comparison.verdict,
        "sentence": comparison.sentence,
        "tolerance": asdict(comparison.tolerance),
        "quantities": [
            {
                "name": q.name,
                "compared": q.compared,
                "unequal": q.unequal,
                "verdict": q.verdict,
                "first": _part(q.first),
                "furthest": _part(q.furthest),
                "beyond": _part(q.beyond),
            }
            for q in comparison.quantities
        ],
        "not_compared": list(comparison.lacking),
        "told": dict(made.told),
        "doubts": list(made.doubts),
        "environment": list(made.environment),
    }


def _part(part: Part | None) -> Mapping[str, Any] | None:
    if part is None:
        return None
    facts = part._asdict()
    return facts | {
        name: facts[name] if math.isfinite(facts[name]) else None for name in ("distance", "limit")
    }

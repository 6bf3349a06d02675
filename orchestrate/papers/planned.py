"""Rows of a sheet as a sweep: one trial each, tagged with its row, and whether it repeats the row or is scaled down."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evaluation.spec import EvaluationSpec
from orchestrate import configuration, sweep_file
from orchestrate.papers.ours import FULL, configuration_of, tag_of
from orchestrate.papers.sheet import UNKNOWN, Row, Sheet
from orchestrate.sweep_file import Sweep
from training.errors import UserError
from training.spec import TrialSpec, flatten

NOTHING_ASKED = {"attacks": ["pgd"]}  # where no column can be measured yet: something that costs little
ELSEWHERE = ("data.root=", "concurrency=", "resources.", "limits.", "project=")  # where and how, not what
# A wide network is not made for 8x8 images, and mirrored digits are none.
DIGITS = ("data=digits", "data.name=digits")
DIGITS_DATA = {"name": "digits", "augment": "none", "size": None, "extra": None}
DIGITS_MODEL, DIGITS_JUDGED = "small-cnn", 200


@dataclass(frozen=True)
class Planned:
    """A sweep of rows, and what was left out of it, in sentences."""

    sweep: Sweep
    rows: tuple[Row, ...]
    scaled: tuple[Row, ...]  # those of them that do not repeat what is printed
    narrow: bool  # with data=digits: a small network, and few test images, where nothing else was said
    left_out: tuple[str, ...]


def plan(
    sheet: Sheet, rows: Sequence[Row], seeds: int, overrides: Sequence[str], picked: str = ""
) -> Planned:
    """The sweep that runs ``rows``, each with seeds 0 to ``seeds`` - 1.

    Args:
        overrides: ``key=value``, laid over every row; what changes a row's configuration, or how it is evaluated,
            makes it a scaled-down one.
        picked: what the user asked for, which names the sweep.

    Raises:
        UserError: a wrong override, or none of the rows can be run.
    """
    able = [row for row in rows if row.sections is not None]
    left_out = [f"{row.id}: {row.given.untrained}" for row in rows if row.sections is None]
    if not able:
        raise UserError(f"{sheet.name}: none of these rows can be trained here: {'; '.join(left_out)}")
    source = f"parapet papers run {sheet.name}"
    named = any(text.startswith("name=") for text in overrides)
    words = [] if named else [f"name={_name(sheet, picked, overrides)}"]
    digits = bool({*DIGITS} & {*overrides})
    for text in overrides:
        if text.partition("=")[0].strip() == "trials":
            raise UserError(
                f"{text}: the trials are the sheet's rows; override their fields, or choose with --rows"
            )
    content = _content(sheet, able, seeds)
    if digits:
        content |= {"trials": [_narrow(trial) for trial in content["trials"]]}
        content["evaluate"] |= {"images": DIGITS_JUDGED}
    sweep = sweep_file.build(content, source, [*(text for text in overrides if text not in DIGITS), *words])
    _refuse_spaces(sweep, source)
    kept = []
    for index, row in enumerate(able):
        said = flatten(sweep.template(index))  # paths are absolute by now
        if digits and _needs_extra(row):
            left_out.append(f"{row.id}: its method trains on extra images, and digits have none")
            continue
        lacking = [field for field in row.given.needs if Path(str(said.get(field, ""))).name == UNKNOWN]
        if lacking:
            left_out += [f"{row.id}: needs {field}=FILE ({row.given.needs[field]})" for field in lacking]
        else:
            kept.append(index)
    if not kept:
        raise UserError(f"{source}: nothing can be run: {'; '.join(together(left_out))}")
    asked, done = (
        {_plain(one) for one in several} for several in (sheet.evaluations(able), sweep.evaluate.specs())
    )
    evaluated = asked <= done  # all, and on all test images
    told = " ".join(text for text in overrides if not text.startswith("name=")) or "other attacks"
    trials, scaled = [], []
    for index in kept:
        row = able[index]
        repeats = evaluated and _configuration(sweep, index) == configuration_of(row)
        scaled += [] if repeats else [row]
        trials.append(dict(sweep.trials[index]) | {"tags": {tag_of(row.id): FULL if repeats else told}})
    return Planned(
        sweep.model_copy(update={"trials": tuple(trials)}),
        tuple(able[index] for index in kept),
        tuple(scaled),
        digits,
        tuple(left_out),
    )


def _content(sheet: Sheet, rows: Sequence[Row], seeds: int) -> dict[str, Any]:
    first, *more = [_said(one) for one in sheet.evaluations(rows)] or [NOTHING_ASKED]
    return {
        "name": "rows",
        "seeds": list(range(seeds)),
        "trials": [dict(row.sections or {}) for row in rows],
        "evaluate": {"checkpoint": sheet.content.checkpoint} | first | ({"also": more} if more else {}),
    }


def _narrow(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a row with a small network, and LBGAT's second network like the first."""
    method = sections["method"]
    added = method.get("with", {})
    if method["name"] == "lbgat":
        method = method | {"model": None, "parameters": None}
    if "lbgat" in added:
        method = method | {"with": added | {"lbgat": added["lbgat"] | {"model": None, "parameters": None}}}
    return dict(sections) | {"method": method, "model": {"name": DIGITS_MODEL}, "data": DIGITS_DATA}


def together(left_out: Sequence[str]) -> list[str]:
    """Sentences ``ROW: why`` with the rows of each reason counted."""
    rows: dict[str, list[str]] = {}
    for row, _, why in (sentence.partition(": ") for sentence in left_out):
        rows.setdefault(why, []).append(row)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {why}"
        for why, names in rows.items()
    ]


def _needs_extra(row: Row) -> bool:
    """Can its method not be trained without extra images?"""
    from training.recipes import build

    spec = row.spec()
    assert spec is not None
    resolved = configuration.of(spec)[0]
    return build(resolved.method, resolved.attack).extra


def _plain(evaluation: EvaluationSpec) -> EvaluationSpec:
    """An evaluation but for how many images are attacked at once."""
    return evaluation.model_copy(update={"batch_size": 1})


def _said(evaluation: EvaluationSpec) -> dict[str, Any]:
    """What an evaluation says beyond the defaults, and always its attacks and checkpoint."""
    said = evaluation.model_dump(mode="json", exclude_defaults=True)
    return said | {"attacks": list(evaluation.attacks), "checkpoint": evaluation.checkpoint}


def _configuration(sweep: Sweep, index: int) -> str:
    """What a trial of the sweep computes, but for seed and images. Raises UserError naming the field."""
    try:
        return configuration.of(TrialSpec.model_validate(sweep.template(index)))[1]
    except ValidationError as error:
        loc, problem = sweep_file.explain(error, TrialSpec)
        raise UserError(f"{sweep.where(index, sweep_file.dotted(loc))}: {problem}") from None
    except UserError as error:
        path, _, problem = str(error).partition(": ")
        raise UserError(f"{sweep.where(index, path)}: {problem}" if problem else str(error)) from None


def _refuse_spaces(sweep: Sweep, source: str) -> None:
    for index in range(len(sweep.trials)):
        for path in sweep.dimensions(index):
            raise UserError(
                f"{sweep.where(index, path)}: a row is one training; write a sweep file to search"
            )
    if sweep.search.name != "grid":
        raise UserError(f"{source}: search.name: rows are run as they are, got {sweep.search.name}")


def _name(sheet: Sheet, picked: str, overrides: Sequence[str]) -> str:
    """``hat-table2-cifar10``, and with overrides a few digits that stand for them."""
    words = [sheet.name, picked] if picked else [sheet.name]
    name = re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower()).strip("-")[:80]
    other = sorted(text for text in overrides if not text.startswith(ELSEWHERE))
    if other:
        name += "-" + hashlib.sha256(" ".join(other).encode()).hexdigest()[:6]
    return name

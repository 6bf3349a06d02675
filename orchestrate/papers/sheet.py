"""A sheet: one results table of a paper, with what was printed and, for each row, the spec that should repeat it.

::

    table: Table 2
    title: HAT and other defenses, ResNet-18
    says: ...                        # what the paper says of it
    chosen: ...                      # what was decided where the paper is silent; where text and program differ
    spread: {kind: sd, runs: 3}      # what a printed +- is: sd, population-sd, interval95 of the mean, or none
    columns:
      clean: {title: Clean}                                   # accuracy on clean images
      robust: {title: AutoAttack, attacks: [autoattack]}
      cw: {title: CW, not_yet: PGD on the CW loss, 40 steps}  # nothing here measures it yet
    axes: [clean, robust]            # the columns that are drawn
    base: {setup: hat/cifar10}       # sections of a spec that all rows have in common
    groups:
      cifar10:
        title: CIFAR-10
        base: {data: {name: cifar10}}
        rows:
          trades: {method: trades, published: {clean: 82.73 +- 0.21, robust: 48.80}}
          hat: {method: hat, from: trades, published: {clean: 84.90, robust: 49.08}}

A row's spec is its own sections laid over its group's ``base``, laid over the sheet's, laid over the setup. Rows are
called ``hat/table2/cifar10/hat``. Files that only the user can have stand there as ``?`` and are explained under
``needs: {data.extra.path: one million images of ...}``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from evaluation.spec import EvaluationSpec
from orchestrate.runs import read_yaml
from orchestrate.sweep_file import dotted, explain
from training.errors import UserError
from training.registry import nearest
from training.spec import Part, TrialSpec, flatten, overlay, spelt_out

FOLDER = Path(__file__).parent
UNKNOWN = "?"  # a file that only the user can have
NAME = re.compile(r"^[a-z0-9][a-z0-9.+-]*$")
PAPERS = {
    "hat": "Rade and Moosavi-Dezfooli 2022: Reducing Excessive Margin (HAT)",
    "he": "Pang et al. 2020: Boosting Adversarial Training with Hypersphere Embedding (HE)",
    "adr": "Wu et al. 2024: Annealing Self-Distillation Rectification (ADR)",
    "lbgat": "Cui et al. 2021: Learnable Boundary Guided Adversarial Training (LBGAT)",
    "st": "Li et al. 2023: Squeeze Training (ST)",
}


class Printed(Part):
    """A number as printed, in the column's unit, and the number after its +-, if any."""

    value: float
    spread: float | None = Field(None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, given: Any) -> Any:
        """``84.90``, or ``84.90 +- 0.13``."""
        if isinstance(given, str):
            value, sign, spread = given.partition("+-")
            return {"value": value.strip(), "spread": spread.strip() if sign else None}
        return {"value": given} if isinstance(given, int | float) else given

    def __str__(self) -> str:
        return (
            _places(self.value) if self.spread is None else f"{_places(self.value)} ± {_places(self.spread)}"
        )


def _places(value: float) -> str:
    """Two decimal places, and more where more are printed."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"


class Spread(Part):
    """What a printed +- is, and over how many trainings the printed value is a mean."""

    kind: Literal["none", "sd", "population-sd", "interval95"] = "none"
    runs: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _of_several(self) -> Self:
        if self.kind != "none" and self.runs < 2:
            raise ValueError(f"{self.kind} is of 2 runs or more")
        return self


class Column(Part):
    """What a column measures: ``attacks`` (none: accuracy on clean images), or why nothing does yet."""

    title: str
    attacks: tuple[str, ...] = ()
    pgd_steps: int | None = None
    pgd_step_size: Annotated[Any, Field(description="default: eps / 4")] = None
    pgd_restarts: int | None = None
    checkpoint: Literal["best", "last"] | None = Field(None, description="default: the sheet's")
    not_yet: str | None = Field(None, description="the measure in words, where there is none of it here yet")
    unit: str = "%"

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.not_yet and self.attacks:
            raise ValueError("a measure that is not there yet has no attacks")
        if not self.not_yet and self.unit != "%":
            raise ValueError("what is measured here is in %")
        return self

    def evaluation(self, checkpoint: str) -> EvaluationSpec | None:
        """The evaluation on all test images that fills this column; None for clean accuracy and what is not there."""
        if not self.attacks:
            return None
        facts = {"attacks": self.attacks, "checkpoint": self.checkpoint or checkpoint}
        given = {
            "pgd_steps": self.pgd_steps,
            "pgd_step_size": self.pgd_step_size,
            "pgd_restarts": self.pgd_restarts,
        }
        named = {name: value for name, value in given.items() if value is not None}
        return EvaluationSpec.model_validate(facts | named)


class RowSpec(Part):
    """One row as the file says it: sections of a spec beside what is printed. See :class:`Row` for the whole."""

    label: str | None = Field(None, description="as the paper calls it; default: the row's name")
    from_: str | None = Field(None, alias="from", description="the row of its group that it is compared with")
    published: dict[str, Printed] = Field(
        description="by column; none where nothing legible is printed, with a note"
    )
    checkpoint: Literal["best", "last"] | None = Field(None, description="default: the sheet's")
    spread: Spread | None = None
    note: str | None = None
    untrained: str | None = Field(None, description="why parapet cannot train it; then it has no method")
    needs: dict[str, str] = Field(
        default_factory=dict,
        description="files that nobody can make here, by the field that names them (then '?'), and what they are",
    )
    setup: str | None = None
    method: Annotated[Any, BeforeValidator(spelt_out)] = None
    data: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    train: dict[str, Any] | None = None
    attack: dict[str, Any] | None = None
    selection: str | None = None
    helpers: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _trained_or_not(self) -> Self:
        if self.untrained and self.method is not None:
            raise ValueError("a row that is untrained has no method")
        if not self.published and not self.note:
            raise ValueError("without published numbers it needs a note that says why")
        return self

    def sections(self) -> dict[str, Any]:
        """The sections of a spec that the row sets."""
        names = ("setup", "method", "data", "model", "train", "attack", "selection", "helpers")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Group(Part):
    """Rows that are printed together: of one data set, network or extra data."""

    title: str = ""
    base: dict[str, Any] = Field(default_factory=dict)
    rows: dict[str, RowSpec] = Field(min_length=1)


class Content(Part):
    """The file."""

    table: str = Field(description="as the paper calls it: Table 2")
    title: str
    says: str
    chosen: str = ""
    spread: Spread = Spread()
    columns: dict[str, Column] = Field(min_length=1)
    axes: tuple[str, str] | None = None
    checkpoint: Literal["best", "last"] = "best"
    base: dict[str, Any] = Field(default_factory=dict)
    groups: dict[str, Group] = Field(min_length=1)


@dataclass(frozen=True)
class Row:
    """One row of a sheet, whole. ``sections`` are a spec's, and None for a row that cannot be trained here."""

    sheet: str
    group: str
    name: str
    given: RowSpec
    sections: Mapping[str, Any] | None
    spread: Spread

    @property
    def id(self) -> str:
        """``hat/table2/cifar10/hat``."""
        return f"{self.sheet}/{self.group}/{self.name}"

    @property
    def label(self) -> str:
        """What the paper calls it."""
        return self.given.label or self.name

    @property
    def compared_with(self) -> str | None:
        """The id of the row that it is compared with."""
        return f"{self.sheet}/{self.group}/{self.given.from_}" if self.given.from_ else None

    def spec(self) -> TrialSpec | None:
        """The checked spec of its training, without seed; None for a row that cannot be trained here."""
        return None if self.sections is None else TrialSpec.model_validate(self.sections)


@dataclass(frozen=True)
class Sheet:
    """One table: ``hat/table2``."""

    name: str
    content: Content
    rows: tuple[Row, ...]

    @property
    def paper(self) -> str:
        """``hat``."""
        return self.name.partition("/")[0]

    @property
    def title(self) -> str:
        """``HAT Table 2: ...``."""
        return f"{self.paper.upper()} {self.content.table}: {self.content.title}"

    def checkpoint_of(self, row: Row) -> Literal["best", "last"]:
        """Which epoch of a row is evaluated, where its columns do not say."""
        return row.given.checkpoint or self.content.checkpoint

    def evaluations(self, rows: Sequence[Row]) -> tuple[EvaluationSpec, ...]:
        """Every evaluation that some column of some row needs, the drawn column's first."""
        content = self.content
        first = [content.axes[1]] if content.axes else []
        checkpoints = dict.fromkeys(self.checkpoint_of(row) for row in rows)
        found = [
            content.columns[name].evaluation(checkpoint)
            for name in [*first, *content.columns]
            for checkpoint in checkpoints
        ]
        return tuple(dict.fromkeys(one for one in found if one is not None))

    def select(self, patterns: str | None) -> tuple[Row, ...]:
        """The rows whose ``GROUP/NAME`` is, or begins with, one of ``patterns``: ``cifar10,svhn/hat``.

        Raises UserError for a pattern that fits none.
        """
        if not patterns:
            return self.rows
        chosen: dict[str, Row] = {}
        for pattern in (part.strip().strip("/") for part in patterns.split(",")):
            fits = [
                r for r in self.rows if f"{r.group}/{r.name}/".startswith(f"{pattern}/") or r.name == pattern
            ]
            if not fits:
                known = dict.fromkeys(name for r in self.rows for name in (r.group, f"{r.group}/{r.name}"))
                raise UserError(
                    f"--rows: {self.name} has no row '{pattern}'{nearest(pattern, known)}; groups:"
                    f" {', '.join(self.content.groups)}"
                )
            chosen |= {r.id: r for r in fits}
        return tuple(r for r in self.rows if r.id in chosen)


def names() -> list[str]:
    """All sheets, paper by paper, in the order of their tables."""
    found = [str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.glob("*/*.yaml")]
    return sorted(found, key=_order)


def read(name: str) -> Sheet:
    """The sheet of that name. Raises UserError with the nearest name where there is none."""
    if name not in names():
        raise UserError(f"no sheet '{name}'{nearest(name, names())} (parapet papers lists them)")
    return _read(name)


def _order(name: str) -> tuple[int, int, str, int]:
    """Paper by paper, tables before figures, ``table10`` after ``table9``."""
    paper, _, table = name.partition("/")
    kind, number = re.fullmatch(r"(\D*)(\d*).*", table).groups()  # type: ignore[union-attr]  # it always fits
    return list(PAPERS).index(paper), kind != "table", kind, int(number or 0)


def all_sheets() -> Iterator[Sheet]:
    """Every sheet."""
    return map(_read, names())


@functools.cache
def _read(name: str) -> Sheet:
    return build(name, read_yaml(FOLDER / f"{name}.yaml"), f"{name}.yaml")


def build(name: str, tree: Any, source: str) -> Sheet:
    """A sheet of a file's content, checked. Raises UserError naming the file and the field."""
    try:
        content = Content.model_validate(tree)
    except ValidationError as error:
        loc, problem = explain(error, Content)
        raise UserError(f"{source}: {dotted(loc)}: {problem}") from None
    rows = []
    for group, held in content.groups.items():
        for row, given in held.rows.items():
            at = f"{source}: groups.{group}.rows.{row}"
            _check(content, held, given, at)
            sections: dict[str, Any] | None = None
            if not given.untrained:
                base = overlay(_spelt(content.base), _spelt(held.base))
                sections = overlay(base, given.sections())
                _check_needs(given, sections, at)
                _check_spec(sections, at)
            rows.append(Row(name, group, row, given, sections, given.spread or content.spread))
            if not NAME.match(row) or not NAME.match(group):
                raise UserError(f"{at}: names are of small letters, digits and . + -")
    return Sheet(name, content, tuple(rows))


def _check(content: Content, group: Group, row: RowSpec, at: str) -> None:
    for column in row.published:
        if column not in content.columns:
            raise UserError(f"{at}.published: no column '{column}'{nearest(column, content.columns)}")
    if row.from_ is not None and row.from_ not in group.rows:
        raise UserError(f"{at}.from: no row '{row.from_}'{nearest(row.from_, group.rows)} in its group")
    for axis in content.axes or ():
        if axis not in content.columns:
            raise UserError(f"{at.partition(':')[0]}: axes: no column '{axis}'")


def _check_needs(row: RowSpec, sections: Mapping[str, Any], at: str) -> None:
    """Each ``?`` has its sentence, and each sentence its ``?``."""
    open_fields = {path for path, value in flatten(dict(sections)).items() if value == UNKNOWN}
    for path in open_fields ^ row.needs.keys():
        raise UserError(
            f"{at}: needs.{path}: " + ("is missing" if path in open_fields else f"is no '{UNKNOWN}'")
        )


def _check_spec(sections: Mapping[str, Any], at: str) -> None:
    try:
        TrialSpec.model_validate(sections)
    except ValidationError as error:
        loc, problem = explain(error, TrialSpec)
        raise UserError(f"{at}: {dotted(loc)}: {problem}") from None


def _spelt(base: Mapping[str, Any]) -> dict[str, Any]:
    return {**base, "method": spelt_out(base["method"])} if "method" in base else dict(base)

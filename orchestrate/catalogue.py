"""What methods there are, and what each is made of, in words: from the very objects that training runs.

Imports the recipes, and so PyTorch.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrate import overrides as over
from orchestrate.labels import head
from orchestrate.results import NORM_NAMES, in_words
from orchestrate.sweep_file import Sweep, dotted, explain
from training.errors import UserError
from training.method import Method
from training.recipes import MODIFIERS, RECIPES, build
from training.registry import Entry
from training.resolve import resolve
from training.spec import TrialSpec
from training.stages import PGD, Stage
from training.updates import descend

Row = tuple[str, ...]
# What a method is shown with; data and model are only there because a trial has them.
AROUND: dict[str, Any] = {
    "data": {"name": "digits", "extra": {"path": "FILE", "share": 0.5}},
    "model": {"name": "mlp"},
    "attack": {"norm": "linf", "eps": "8/255"},
}
STARTS = {
    "clean": "x",
    "gaussian": "x + 0.001 N(0, I)",
    "positive": "x + 0.001 U[0, 1)",
    "uniform": "a uniform draw from the ball",
    "given": "where it is",
}
ANNEALED = "{cosine: [a, b]}, {linear: [a, b]}, {steps: [[epoch, a], ...]}"


def recipes() -> Iterator[Row]:
    """Name, loss with the recipe's defaults, parameters with their defaults, source and summary of each."""
    for name, entry in RECIPES.entries.items():
        try:
            formula = _built(_spec(name)).formula
        except UserError as error:  # it has no defaults for everything
            formula = f"({error})"
        yield name, formula, _defaults(entry), _source(entry), _plain(entry.summary)


def modifiers() -> Iterator[Row]:
    """Name, what the loss becomes, parameters with their defaults, source and summary of each."""
    for name, entry in MODIFIERS.entries.items():
        yield name, _added_to(name), _defaults(entry), _source(entry), _plain(entry.summary)


def _added_to(modifier: str) -> str:
    """``trades: LOSS`` with the modifier, on the first of some methods that admits it; where the loss stays, so."""
    for recipe in ("trades", "pgd-at", *RECIPES.entries):
        try:
            plain, added = _built(_spec(recipe)), _built(_spec(f"{recipe}+{modifier}"))
        except UserError:
            continue
        return "(as it is)" if added.objective == plain.objective else f"{recipe}: {added.formula}"
    return "(it has no defaults for everything)"


def _defaults(entry: Entry) -> str:
    """``beta=6, start=gaussian``."""
    given = ((name, parameter.default) for name, parameter in entry.parameters.items())
    return ", ".join(f"{n}={'...' if v is inspect.Parameter.empty else _value(v)}" for n, v in given) or "-"


@dataclass(frozen=True)
class Description:
    """One method, composed: ``facts`` are (what, in words), ``parameters`` (path, value, allowed values)."""

    name: str
    about: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    parameters: tuple[Row, ...]


def describe(name: str, overrides: Sequence[str] = ()) -> Description:
    """What a method with its modifiers is made of, ``method.*`` and ``attack.*`` overridden.

    Raises:
        UserError: there is no such method or parameter, or it makes no sense.
    """
    spec = _spec(name, overrides)
    method = _built(spec)
    chosen = spec.method
    entries = [
        (RECIPES.get(chosen.name, "method.name"), "method", chosen.parameters),
        *((MODIFIERS.get(m, "method.with"), f"method.with.{m}", p) for m, p in chosen.with_.items()),
    ]
    return Description(
        head(chosen.name, chosen.with_),
        tuple(f"{entry.name}: {_plain(entry.summary)} [{_source(entry)}]" for entry, _, _ in entries),
        tuple(_facts(spec, method)),
        tuple(row for entry, path, given in entries for row in _parameters(entry, path, given)),
    )


def describe_modifier(name: str) -> Description:
    """A modifier alone: what it adds, and its parameters."""
    entry = MODIFIERS.get(name, "method.with")
    about = f"{_plain(entry.summary)} [{_source(entry)}]"
    rows = _parameters(entry, f"method.with.{name}", {n: p.default for n, p in entry.parameters.items()})
    return Description(f"...+{name}", (about,), (), tuple(rows))


def _spec(name: str, overrides: Sequence[str] = ()) -> TrialSpec:
    given = [over.parse(text, Sweep) for text in (f"method={name}", *overrides)]
    for override in given:
        if override.path[0] not in ("method", "attack"):
            raise UserError(
                f"{override.text}: what a method is made of depends on method.* and attack.* alone"
            )
    tree = over.apply({"base": AROUND}, given)["base"]
    try:
        return resolve(TrialSpec.model_validate(tree), where="")
    except ValidationError as error:
        loc, problem = explain(error, TrialSpec)
        raise UserError(f"{dotted(loc)}: {problem}") from None


def _built(spec: TrialSpec) -> Method:
    return build(spec.method, spec.attack)


def _source(entry: Entry) -> str:
    return (
        "; ".join(part for part in (entry.source, entry.origin.name if entry.origin else "") if part) or "-"
    )


def _facts(spec: TrialSpec, method: Method) -> Iterator[tuple[str, str]]:
    attack = spec.attack
    yield "loss", method.formula
    if method.stages:
        yield "ball", f"{NORM_NAMES[attack.norm]}, eps {in_words(attack.eps)}"
    for stage in method.stages:
        yield "search" if stage.passes > 1 else "then", _stage(stage)
    if not method.stages:
        yield "search", "none"
    yield "update", "one gradient step on the loss" if method.update is descend else _part(method.update)
    yield from _further(method)
    for name, guide in method.guides.items():
        yield "beside it", f"{name}: {_part(guide, ('helpers', 'trains'), named=False)}"
    selected = "validation PGD" if method.select == "robust" else "clean validation accuracy"
    yield "evaluated", f"{method.evaluate} network, at its best epoch by {selected}"
    for helper in method.helpers:
        own = f"a trial of its own by {helper.method}, seed {helper.seed}"
        yield "helper", f"{helper.name}: {own}, unless helpers.{helper.name} says otherwise"
    yield "cost", f"{method.passes} network passes per image (a forward is one, a backward two)"


def _further(method: Method) -> Iterator[tuple[str, str]]:
    """What few methods have."""
    if method.replays > 1:
        yield "replays", f"each minibatch is trained on {method.replays} times"
    for points in method.together:
        yield "together", f"{' and '.join(points)} are one batch to BatchNorm"
    if method.untracked:
        yield (
            "untracked",
            f"{', '.join(sorted(method.untracked))}: BatchNorm's running statistics do not see it",
        )
    if method.head is not None:
        yield "head", _part(method.head)
    if method.start is not None:
        yield "start", f"the weights of helper {method.start.name}"
    if method.extra:
        yield "data", "reads data.extra too"


def _stage(stage: Stage) -> str:
    """A search in one sentence; any other stage by its own words and settings."""
    if not isinstance(stage, PGD):
        return _part(stage, leave_out=("ball",))
    step = stage.step_size
    size = repr(step) if callable(step) else in_words(step)
    sentence = (
        f"{stage.point}: {stage.steps} steps of {size} up {stage.objective!r}, from {STARTS[stage.start]}"
    )
    if stage.clip_start:
        sentence += " clipped to [0, 1]"
    if stage.patience is not None:
        sentence += f", and no further than {_value(stage.patience)} moves after an image is misclassified"
    return f"{sentence}; BatchNorm {stage.batchnorm}"


def _part(part: Any, leave_out: Sequence[str] = (), named: bool = True) -> str:
    """A part of a method by its name, the first sentence of its docstring, and its settings."""
    described = part if inspect.isfunction(part) else type(part)
    about = _plain((inspect.getdoc(described) or "").partition("\n")[0])
    first = re.split(r"\. (?=[A-Z])", about)[0].rstrip(".:")
    fields = dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
    settings = [
        f"{field.name} {_setting(field.name, getattr(part, field.name))}"
        for field in fields
        if field.name not in leave_out
    ]
    words = ": ".join(word for word in (described.__name__ if named else "", first) if word)
    return f"{words} ({', '.join(settings)})" if settings else words


def _setting(name: str, value: Any) -> str:
    return in_words(value) if name == "step_size" and isinstance(value, float) else _value(value)


def _plain(text: str) -> str:
    return text.replace("``", "")


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_value(v)}" for name, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(v) for v in value)}]"
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else repr(value)


def _parameters(entry: Entry, path: str, values: Mapping[str, Any]) -> Iterator[Row]:
    for name, parameter in entry.parameters.items():
        default, value = parameter.default, values[name]
        required = default is inspect.Parameter.empty
        shown = "(needed)" if value is inspect.Parameter.empty else _value(value)
        if not required and value != default and _value(value) != _value(default):
            shown += f" (default {_value(default)})"
        yield f"{path}.{name}", shown, allowed(entry.hints[name])


def allowed(hint: Any) -> str:
    """The values of an annotation in words: ``a number, at least 0``."""
    return _allowed(TypeAdapter(hint).json_schema())


def _allowed(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_allowed(option) for option in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(_value(value) for value in schema["enum"])
    if "const" in schema:
        return _value(schema["const"])
    match schema.get("type"):
        case "number" | "integer" as kind:
            return ", ".join(["a number" if kind == "number" else "a whole number", *_limits(schema)])
        case "boolean":
            return "true, false"
        case "string":
            return "a text"
        case "null":
            return "null"
        case "array":
            return f"a list of {_allowed(schema['items'])}" if schema.get("items") else "a list"
        case "object" if _lists(schema):
            return ANNEALED
    return "a section"


def _lists(schema: Mapping[str, Any]) -> bool:
    """Is it the form of an annealed value (:mod:`training.annealing`): lists by name?"""
    values = schema.get("additionalProperties")
    return isinstance(values, dict) and values.get("type") == "array"


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    for limit, words in (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    ):
        if limit in schema:
            yield f"{words} {schema[limit]:g}"

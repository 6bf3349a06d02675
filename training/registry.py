"""Named things that a spec can ask for (recipes, modifiers, models, schedules), and their parameters.

A registered thing is a plain function. Its keyword-only parameters are what a spec may set; their annotations
are how a value is checked and their defaults are the only place where a default lives.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from training.errors import UserError


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for a misspelt word, or an empty string when nothing is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


PLAINER = {  # than pydantic's words, for people who write YAML
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "string_type": "should be a text",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "string_pattern_mismatch": (
        "should begin with a letter or digit and hold only letters, digits, '.', '_' and '-'"
    ),
}


def in_words(error: ErrorDetails) -> str:
    """What is wrong with a value, in words for the person who wrote it: ``should be a number, got 'x'``."""
    message = PLAINER.get(error["type"], error["msg"].removeprefix("Value error, ").removeprefix("Input "))
    given = repr(error["input"])
    got = (
        "" if error["type"] == "value_error" else f", got {given if len(given) <= 60 else f'{given[:57]}...'}"
    )
    return f"{message[0].lower()}{message[1:]}{got}"


def refuse_truth(value: Any, hint: Any) -> None:
    """Raise ValueError for a yes or no where a number belongs: YAML reads those, and pydantic makes them 1 and 0."""
    if any(isinstance(part, bool) for part in _leaves(value)):
        kinds = set(_kinds(hint))
        if kinds & {int, float} and not kinds & {bool, Any}:
            raise ValueError(f"should be a number, got {value!r}")


def _leaves(value: Any) -> Iterator[Any]:
    """A value, or all that a list or a section of them holds (an annealed number's, say)."""
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(part)
    else:
        yield value


def _kinds(hint: Any) -> Iterator[Any]:
    """What an annotation allows, also as one of several or in a list."""
    yield hint
    if get_origin(hint) in (Union, UnionType, Annotated, tuple, list):
        for part in get_args(hint):
            yield from _kinds(part)


class Origin(NamedTuple):
    """A user's own file: its name, and the SHA-256 of its contents."""

    name: str
    digest: str


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)  # the file that is being loaded


@dataclass(frozen=True)
class Entry:
    """One registered function: what it builds, where it comes from, and the parameters a spec may set.

    ``origin`` is the user's own file that registered it; None for what parapet has itself.
    """

    name: str
    build: Callable[..., Any]
    source: str = ""
    helpers: tuple[str, ...] = ()
    parameters: Mapping[str, inspect.Parameter] = field(default_factory=dict)
    hints: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin | None = None

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]

    def resolve(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Every parameter with its checked value, defaults filled in.

        ``where`` is the dotted path of the thing in the user's file, for messages. Raises UserError.
        """
        for name in given:
            if name not in self.parameters:
                hint = nearest(name, self.parameters)
                known = ", ".join(self.parameters) or "none"
                raise UserError(f"{where}.{name}: '{self.name}' has no such parameter{hint}; it has: {known}")
        values = {}
        for name, parameter in self.parameters.items():
            value = given.get(name, parameter.default)
            if value is inspect.Parameter.empty:
                raise UserError(f"{where}.{name}: '{self.name}' needs this parameter")
            try:
                refuse_truth(value, self.hints[name])
                values[name] = TypeAdapter(self.hints[name]).validate_python(value)
            except ValidationError as error:
                raise UserError(f"{where}.{name}: {in_words(error.errors()[0])}") from None
            except ValueError as error:
                raise UserError(f"{where}.{name}: {error}") from None
        return values


class Registry:
    """All things of one kind (``what`` is its singular noun), by name."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.entries: dict[str, Entry] = {}

    def register(
        self, name: str, *, source: str = "", helpers: tuple[str, ...] = ()
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator. The function stays as it was. Raises UserError for a name that is taken."""

        def enter(build: Callable[..., Any]) -> Callable[..., Any]:
            if name in self.entries:
                taken = self.entries[name]
                by = taken.origin.name if taken.origin else taken.build.__module__
                raise UserError(f"{self.what} '{name}' is registered already, by {by}; choose another name")
            hints = get_type_hints(build, include_extras=True)
            parameters = {
                p.name: p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY
            }
            self.entries[name] = Entry(name, build, source, helpers, parameters, hints, ORIGIN.get())
            return build

        return enter

    def get(self, name: str, where: str) -> Entry:
        """The entry of that name; UserError with the nearest right name when there is none."""
        if name not in self.entries:
            hint = nearest(name, self.entries)
            raise UserError(f"{where}: no {self.what} '{name}'{hint}; there are: {', '.join(self.entries)}")
        return self.entries[name]

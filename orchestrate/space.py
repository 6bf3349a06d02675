"""Search spaces: values that a search chooses, written in place of a value in a sweep file.

======================= ====================================================================
``{grid: [1, 3, 6]}``    every one of them (grid search), or one of them (random, optuna)
``{choice: [a, b]}``     the same
``{uniform: [a, b]}``    a number between a and b
``{loguniform: [a, b]}`` a number between a and b > a > 0, evenly spread over magnitudes
``{int: [a, b]}``        a whole number from a to b, both included
======================= ====================================================================

A space may stand anywhere below ``base`` or a trial; its dotted path is its name in a configuration.
"""

from __future__ import annotations

import copy
import difflib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from training.errors import UserError
from training.spec import fraction, is_annealed

if TYPE_CHECKING:
    import optuna

LISTED = ("grid", "choice")
RANGES = ("uniform", "loguniform", "int")
KINDS = (*LISTED, *RANGES)
Tree = dict[str, Any]


@dataclass(frozen=True)
class Listed:
    """Some values, written out. Each is a number, a text, a truth value, null, a list or a section without spaces."""

    path: str
    kind: str
    values: tuple[Any, ...]

    def probes(self) -> tuple[Any, ...]:
        """What has to be valid for the whole space to be valid."""
        return self.values

    def sample(self, rng: random.Random) -> Any:
        return self.values[rng.randrange(len(self.values))]

    def holds(self, value: Any) -> bool:
        """Can this space choose the value? (``True`` is not 1, 1 is 1.0.)"""
        return any(_same(value, v) for v in self.values)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Over positions in the list: Optuna's own choices cannot be lists, and confuse 1 with True."""
        import optuna

        return optuna.distributions.CategoricalDistribution(range(len(self.values)))

    def encode(self, value: Any) -> Any:
        """The value as Optuna knows it."""
        return next(i for i, v in enumerate(self.values) if _same(value, v))

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Let Optuna choose."""
        return self.values[trial.suggest_categorical(name, range(len(self.values)))]


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included."""

    path: str
    kind: str
    low: float
    high: float

    def probes(self) -> tuple[Any, ...]:
        """What has to be valid for the whole space to be valid: both ends."""
        return (self.low, self.high)

    def sample(self, rng: random.Random) -> Any:
        if self.kind == "int":
            return rng.randint(int(self.low), int(self.high))
        if self.kind == "uniform":
            return self.low + (self.high - self.low) * rng.random()
        drawn = math.exp(math.log(self.low) + math.log(self.high / self.low) * rng.random())
        return min(max(drawn, self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Can this space choose the value?"""
        number = isinstance(value, int) if self.kind == "int" else isinstance(value, int | float)
        return number and not isinstance(value, bool) and self.low <= value <= self.high

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """The same range in Optuna's terms."""
        import optuna

        if self.kind == "int":
            return optuna.distributions.IntDistribution(int(self.low), int(self.high))
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.kind == "loguniform")

    def encode(self, value: Any) -> Any:
        """The value as Optuna knows it."""
        return value

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Let Optuna choose."""
        if self.kind == "int":
            return trial.suggest_int(name, int(self.low), int(self.high))
        return trial.suggest_float(name, self.low, self.high, log=self.kind == "loguniform")


Dimension = Listed | Range


def is_space(value: Any) -> bool:
    """Does this stand for a choice, rather than for itself?"""
    return isinstance(value, Mapping) and any(kind in value for kind in KINDS)


def find(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Dimension]:
    """Every space below ``tree``, by its dotted path, in written order.

    Raises:
        UserError: beginning with the path of a space that is malformed or misspelt.
    """
    found: dict[str, Dimension] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if is_space(value):
            found[path] = _read(value, path)
        elif _is_section(value):
            _suspect(value, path)
            found |= find(value, f"{path}.")
    return found


def place(tree: Mapping[str, Any], values: Mapping[str, Any]) -> Tree:
    """A copy of ``tree`` with the space at each path replaced by its value."""
    placed = copy.deepcopy(dict(tree))
    for path, value in values.items():
        *above, last = path.split(".")
        section = placed
        for name in above:
            section = section[name]
        section[last] = copy.deepcopy(value)
    return placed


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """``over`` laid on ``base``, section by section; lists and spaces are values.

    A section that names another thing (method, model, schedule) replaces the one below, whose parameters belong
    to the other thing. Naming other data keeps what was said about splits and sizes.
    """
    merged = copy.deepcopy(dict(base))
    for name, given in over.items():
        below = merged.get(name, {})
        if not _is_section(given) or not _is_section(below):
            merged[name] = copy.deepcopy(given)
        elif name != "data" and "name" in given and given["name"] != below.get("name", given["name"]):
            merged[name] = copy.deepcopy(dict(given))
        else:
            merged[name] = merge(below, given)
    return merged


def _is_section(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and not is_space(value) and not is_annealed(value)


def _read(value: Mapping[str, Any], path: str) -> Dimension:
    if len(value) != 1:
        raise UserError(f"{path}: a search space has one key ({', '.join(KINDS)}), not {', '.join(value)}")
    ((kind, given),) = value.items()
    if not isinstance(given, list) or not given:
        example = "[1, 3, 6]" if kind in LISTED else "[1, 6]"
        raise UserError(f"{path}: {kind} takes a list, like {{{kind}: {example}}}, got {given!r}")
    if kind in LISTED:
        if any(isinstance(v, Mapping) and (is_space(v) or find(v)) for v in given):
            raise UserError(f"{path}: a search space inside a search space; write one trial for each instead")
        if any(_same(v, w) for i, v in enumerate(given) for w in given[:i]):
            raise UserError(f"{path}: {kind} names a value twice: {given}")
        return Listed(path, kind, tuple(given))
    ends = [fraction(end) for end in given]
    if len(ends) != 2 or any(isinstance(e, bool) or not isinstance(e, int | float) for e in ends):
        raise UserError(f"{path}: {kind} takes two numbers, [lowest, highest], got {given!r}")
    low, high = ends
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{path}: {kind} needs a lowest value below its highest, got {given!r}")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"{path}: loguniform needs a lowest value above 0, got {given!r}")
    if kind == "int" and any(not isinstance(end, int) for end in ends):
        raise UserError(f"{path}: int needs two whole numbers, got {given!r}")
    return Range(path, kind, low, high)


def _suspect(value: Mapping[str, Any], path: str) -> None:
    """A section whose only key looks like a space and holds a list was meant as one."""
    if len(value) == 1:
        ((name, given),) = value.items()
        near = difflib.get_close_matches(str(name), KINDS, n=1, cutoff=0.75)
        if isinstance(given, list) and near:
            hint = f"(did you mean '{near[0]}'?); there are: {', '.join(KINDS)}"
            raise UserError(f"{path}: no search space '{name}' {hint}")


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)

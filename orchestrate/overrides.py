"""``key=value`` on the command line: the user's last word on any field of a sweep file.

Two kinds of key:

- A field of a trial (``train.epochs=2``, ``attack.eps=8/255``, ``method=hat+awp``, ``method.beta=3``,
  ``data.root=PATH``, ``data=digits``; the last name alone where only one section has it: ``eps=8/255``) is set for
  *every* trial: in ``base``, and in each trial of the file that says otherwise. A parameter of the method that some
  trials set is set in those trials only, since other methods may not have it; and one of a modifier in those that
  have the modifier.
- A field of the file (``name=x``, ``seeds=[0,1]``, ``search.samples=8``, ``base.train.epochs=2``,
  ``trials.0.method.beta=4``) is set exactly there.

Values are YAML: ``[0, 1]``, ``true``, ``null``, ``{grid: [1, 3]}``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrate.runs import parse_yaml
from orchestrate.space import Tree, is_space, merge
from training.errors import UserError
from training.registry import nearest
from training.spec import Choice, TrialSpec, spelt_out


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section as a file calls them."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    if model is TrialSpec:
        fields.pop("imports")  # the planner's: which of the sweep's files a trial needs
        fields["setup"] = FieldInfo(
            annotation=str, description="a paper's training recipe, below all that is said"
        )
    return fields


SECTIONS = tuple(name for name in fields_of(TrialSpec) if name != "seed")
NAMED = (("data",), ("model",))  # sections that may be given by name alone
REFERENCES = ("path", "run", "key")  # where a helper network is, instead of how it is trained
Path = tuple[str, ...]


@dataclass(frozen=True)
class Override:
    """One ``key=value``; ``path`` is its key with shorthand and list positions spelt out."""

    text: str
    path: Path
    value: Any

    @property
    def everywhere(self) -> bool:
        """Is it a field of every trial, rather than one place in the file?"""
        return self.path[0] in SECTIONS


def parse(text: str, file: type[BaseModel]) -> Override:
    """Read one override of a file with the fields of ``file``.

    Raises:
        UserError: naming the override, and the nearest right field.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{text}: an override is written field=value, like train.epochs=2")
    path = tuple(re.sub(r"\[(\d+)\]", r".\1", key.strip()).split("."))
    if len(path) == 1 and path[0] not in fields_of(file) and path[0] not in SECTIONS:
        path = _in_its_section(path[0], text, file)
    problem = unknown(path, file)
    if problem:
        raise UserError(f"{text}: {problem}")
    read = parse_yaml(value, text)
    if path in NAMED and isinstance(read, str):
        read = {"name": read}  # data=digits: that data set, and nothing that was said of another
    return Override(text, path, read)


def apply(tree: Tree, overrides: Sequence[Override]) -> Tree:
    """A copy of the file's content with the overrides laid over it, in order, and short names of methods spelt out.

    Raises:
        UserError: when an override would have to reach into something that is not a section.
    """
    tree = copy.deepcopy(tree)
    _spell_methods(tree)
    for override in overrides:
        if override.everywhere:
            _everywhere(tree, override)
        else:
            _put(tree, override.path, override)
        _spell_methods(tree)  # what comes next may reach into a method that this one named
    return tree


def unknown(path: Path, file: type[BaseModel]) -> str | None:
    """Why ``path`` cannot be a field of a file, or of its trials, with the nearest that is; None when it can."""
    if path[0] == "base":
        return _unknown(path[1:], TrialSpec)
    if path[0] == "trials" and len(path) > 1:
        if not path[1].isdigit():
            return f"'trials' is a list: write trials.0, trials.1, ..., not trials.{path[1]}"
        return None if path[2:3] in (("seeds",), ("tags",)) else _unknown(path[2:], TrialSpec)
    if path[0] in SECTIONS:
        return _unknown(path, TrialSpec)
    if path[0] not in fields_of(file):
        return f"unknown field '{path[0]}'{nearest(path[0], [*fields_of(file), *SECTIONS])}"
    return _unknown(path, file)


def _unknown(path: Path, model: type[BaseModel], above: str = "") -> str | None:
    if not path:
        return None
    name, rest = path[0], path[1:]
    fields = fields_of(model)
    if name not in fields:
        if issubclass(model, Choice):
            return None  # a parameter: only the registry of the named thing knows
        return f"unknown field '{above}{name}'{nearest(name, fields)}"
    if name == "helpers":
        overlaid = len(rest) > 1 and rest[1] not in REFERENCES
        return _unknown(rest[1:], TrialSpec, f"helpers.{rest[0]}.") if overlaid else None
    kind = model_of(fields[name].annotation)
    if not rest or kind is dict:
        return None
    if kind is None:
        return f"'{above}{name}' is a value and has no field '{rest[0]}'"
    return _unknown(rest, kind, f"{above}{name}.")


def model_of(annotation: Any) -> Any:
    """The section that a field holds (or may hold), ``dict`` for an open one, or None for a plain value."""
    for option in get_args(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return dict if get_origin(annotation) is dict else None


def _in_its_section(name: str, text: str, file: type[BaseModel]) -> Path:
    """``eps`` as ``attack.eps``: the one section of a trial that has a field of this name."""
    homes: list[Path] = []
    names = [*fields_of(file), *SECTIONS]
    for section, field in TrialSpec.model_fields.items():
        kind = model_of(field.annotation)
        if kind not in (None, dict) and not issubclass(kind, Choice):
            names += kind.model_fields
            homes += [(section, name)] if name in kind.model_fields else []
    if len(homes) == 1:
        return homes[0]
    raise UserError(f"{text}: unknown field '{name}'{nearest(name, names)}")


def _everywhere(tree: Tree, override: Override) -> None:
    path, value = override.path, override.value
    base = tree.get("base")
    trials = [t for t in _listed(tree.get("trials")) if isinstance(t, dict)]
    owner = path[:3] if path[:2] == ("method", "with") else path  # of a modifier's parameter: the modifier
    saying = [t for t in trials if _has(t, owner)]
    if len(path) > 3 and owner != path and not saying and not _has(base, owner):
        raise UserError(
            f"{override.text}: no trial has the modifier '{path[2]}'; add it by name, as in method=NAME+{path[2]}, or"
            f" to all with method.with.{path[2]}={{}}"
        )
    if path[:2] == ("method", "with") and not saying and not _has(base, ("method",)):
        saying = [
            t for t in trials if _has(t, ("method",))
        ]  # modifiers are applied in written order: it is the last
    if path[0] == "method" and saying and not _has(base, owner):
        for trial in saying:
            _put(trial, path, override)
        return
    if base is None:
        base = tree["base"] = {}
    _put(base, path, override)
    for trial in trials:
        if not _has(merge(base, trial), path) or _get(merge(base, trial), path) != value:
            _put(trial, path, override)


def _spell_methods(tree: Any) -> None:
    """Spell out, in place, the methods of a file, or of one trial and its helpers."""
    if not isinstance(tree, dict):
        return
    if "method" in tree:
        tree["method"] = spelt_out(tree["method"])
    helpers = tree.get("helpers")
    parts = [tree.get("base"), *_listed(tree.get("trials"))]
    for part in [*parts, *(helpers.values() if isinstance(helpers, dict) else ())]:
        _spell_methods(part)


def _put(tree: Any, path: Path, override: Override) -> None:
    """Set the value, making sections on the way; lists are entered by position."""
    section = tree
    for depth, name in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(section, list) and name.isdigit():
            if int(name) >= len(section):
                raise UserError(f"{override.text}: the file has {len(section)} trials, counted from 0")
            if last:
                section[int(name)] = copy.deepcopy(override.value)
                return
            section = section[int(name)]
        elif isinstance(section, dict) and not is_space(section):
            if last:
                section[name] = copy.deepcopy(override.value)
                return
            if section.get(name) is None:
                section[name] = {}
            section = section[name]
        else:
            above = ".".join(path[:depth])
            if is_space(section):
                raise UserError(
                    f"{override.text}: '{above}' is a search space in the file; write its values as trials of"
                    f" their own, or override '{above}' itself"
                )
            raise UserError(
                f"{override.text}: '{above}' is {section!r} in the file; override '{above}' itself"
            )


def _has(tree: Any, path: Path) -> bool:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return False
        tree = tree[name]
    return True


def _get(tree: Mapping[str, Any], path: Path) -> Any:
    value: Any = tree
    for name in path:
        value = value[name]
    return value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

"""JSON Schema of the sweep file, for editors: completion, hover texts and red lines while one types.

Made from what checks the file: the models of :mod:`orchestrate.sweep_file` and the registries of methods, modifiers,
models, schedules and data sets. What a program can say about a file and an editor cannot (that two fields do not go
together, that a file is missing) is left to ``parapet sweep FILE --dry-run``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from orchestrate.space import KINDS, LISTED
from orchestrate.sweep_file import Sweep
from training.registry import Entry, Registry
from training.spec import TrialSpec

Schema = dict[str, Any]

FRACTION = {
    "type": "string",
    "pattern": r"^\s*[-+0-9.eE]+\s*/\s*[-+0-9.eE]+\s*$",
    "description": "like 8/255",
}
NUMBER = {"anyOf": [{"type": "number"}, FRACTION]}
TWO_NUMBERS = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
ANNEALED_VALUE: Schema = {
    "type": "object",
    "description": "changes while the network is trained: {cosine: [a, b]}, {linear: [a, b]}, {steps: [[epoch, a]]}",
    "properties": {
        "cosine": TWO_NUMBERS,
        "linear": TWO_NUMBERS,
        "steps": {"type": "array", "items": TWO_NUMBERS, "minItems": 1},
    },
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}


def document() -> Schema:
    """The whole schema, of what is registered now. Imports the registries, and so PyTorch."""
    whole = Sweep.model_json_schema(by_alias=True)
    parts = TrialSpec.model_json_schema(by_alias=True)
    definitions: dict[str, Schema] = whole["$defs"] | {
        name: _section(part)
        for name, part in parts["$defs"].items()
        if name not in ("Choice", "MethodChoice")
    }
    fields = {
        name: _spaced(field) for name, field in parts["properties"].items() if name not in ("seed", "imports")
    }
    fields |= _named_things(definitions) | {"helpers": _helpers(), "setup": _setup()}
    trial: Schema = {"type": "object", "properties": fields, "additionalProperties": False}
    definitions |= {"Trial": trial, "Space": _space()}
    seeds = whole["properties"]["seeds"]
    tags = {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "tags that its runs get in MLflow",
    }
    one = trial | {"properties": fields | {"seeds": _one_or_many(seeds, "integer"), "tags": tags}}
    whole["$defs"] = definitions
    whole["properties"] |= {
        "base": _described(whole["properties"]["base"], {"$ref": "#/$defs/Trial"}),
        "trials": _described(whole["properties"]["trials"], {"type": "array", "minItems": 1, "items": one}),
        "seeds": _one_or_many(seeds, "integer"),
        "import": _imports(whole["properties"]["import"]),
    }
    attacks = definitions["Evaluate"]["properties"]["attacks"]
    definitions["Evaluate"]["properties"]["attacks"] = _one_or_many(attacks, "string")
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "parapet sweep file"} | whole


def _named_things(definitions: dict[str, Schema]) -> dict[str, Schema]:
    """``method`` and ``model`` with the parameters of every registered one; schedules and data sets put in place."""
    from training.data import DATASETS
    from training.models import MODELS
    from training.recipes import MODIFIERS, RECIPES
    from training.schedules import SCHEDULES

    definitions["TrainSpec"]["properties"]["schedule"] = _one_of(SCHEDULES)
    definitions["DataSpec"]["properties"]["name"] = _or_space(_names(DATASETS))
    return {"method": _method(RECIPES, MODIFIERS), "model": _one_of(MODELS)}


def _method(recipes: Registry, modifiers: Registry) -> Schema:
    """A name, short (``hat+awp``) or plain, or a section that begins with one."""
    added = {
        "type": "object",
        "description": "what is added to the method, in written order",
        "properties": {name: _parameters(entry) for name, entry in modifiers.entries.items()},
        "additionalProperties": False,
    }
    adding = "|".join(re.escape(name) for name in modifiers.entries)
    one_of_them = "|".join(re.escape(name) for name in recipes.entries)
    short = {
        "type": "string",
        "pattern": rf"^({one_of_them})(\s*\+\s*({adding}))+$",
        "description": "a method and its modifiers, like trades+awp",
    }
    section = _one_of(recipes, {"with": added}, short)
    name = {"anyOf": [_names(recipes), short]}
    return {"if": {"type": "string"}, "then": name, "else": section}


def _one_of(
    registry: Registry, further: Mapping[str, Schema] | None = None, short: Schema | None = None
) -> Schema:
    """A section whose ``name`` decides which other fields it has; ``short`` are other names, that begin with one."""
    rules = []
    for name, entry in registry.entries.items():
        then = _parameters(entry)
        then["properties"] |= {"name": {"description": entry.summary}} | dict(further or {})
        named: Schema = {"const": name}
        if short:
            named = {"anyOf": [named, {"type": "string", "pattern": rf"^{re.escape(name)}\s*\+"}]}
        rules.append({"if": {"properties": {"name": named}, "required": ["name"]}, "then": then})
    names = _names(registry)
    known = {"anyOf": [names, short], "description": names["description"]} if short else names
    section = {"type": "object", "properties": {"name": _or_space(known)}, "allOf": rules}
    spaces: list[Schema] = [{"required": [kind]} for kind in KINDS]
    return {"if": {"anyOf": spaces}, "then": {"$ref": "#/$defs/Space"}, "else": section}


def _imports(field: Schema) -> Schema:
    file = {"type": "string", "pattern": r"\.py$"}
    kept = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    many: list[Schema] = [{"type": "array", "items": file}, {"type": "object", "additionalProperties": kept}]
    return _described(field, {"anyOf": [file, *many]})


def _setup() -> Schema:
    from training.setups import names, read

    about = "a paper's training recipe, below all that is said here"
    told = [f"{name}: {' '.join(str(read(name).get('about', '')).split())}" for name in names()]
    return _or_space({"enum": [None, *names()], "description": "\n".join([about, *told])})


def _names(registry: Registry) -> Schema:
    about = "\n".join(f"{name}: {entry.summary}" for name, entry in registry.entries.items())
    return {"enum": list(registry.entries), "description": about}


def _parameters(entry: Entry) -> Schema:
    properties = {}
    for name, parameter in entry.parameters.items():
        field = _with_annealing(TypeAdapter(entry.hints[name]).json_schema())
        if parameter.default is not inspect.Parameter.empty:
            field["default"] = parameter.default
        properties[name] = _or_space(field)
    return {
        "type": "object",
        "description": entry.summary,
        "properties": properties,
        "additionalProperties": False,
    }


def _with_annealing(field: Schema) -> Schema:
    """A parameter that may be annealed takes its kinds, and no other section: a misspelt space is none of them."""
    options = [
        ANNEALED_VALUE if option.get("type") == "object" and _lists_only(option) else option
        for option in field.get("anyOf", [])
    ]
    return field | {"anyOf": options} if options else field


def _lists_only(option: Schema) -> bool:
    values = option.get("additionalProperties")
    return isinstance(values, dict) and values.get("type") == "array"


def _section(part: Schema) -> Schema:
    """A section of which any part may be given, and in which spaces may stand."""
    whole = {name: value for name, value in part.items() if name != "required"}
    return whole | {"properties": {name: _spaced(field) for name, field in part["properties"].items()}}


def _spaced(field: Schema) -> Schema:
    """A field that may also be a space, unless it is a section itself; numbers may be fractions."""
    if "$ref" in field:
        return field
    return _or_space(_with_fractions(field))


def _with_fractions(field: Schema) -> Schema:
    if field.get("type") == "number":
        about = {name: field[name] for name in ("description", "default") if name in field}
        return about | {"anyOf": [field, FRACTION]}
    if "anyOf" in field:
        return field | {"anyOf": [_with_fractions(option) for option in field["anyOf"]]}
    return field


def _or_space(field: Schema) -> Schema:
    about = {name: field[name] for name in ("description", "default") if name in field}
    return about | {"anyOf": [field, {"$ref": "#/$defs/Space"}]}


def _space() -> Schema:
    """A search space: one key, and a list."""
    whole_ends = TWO_NUMBERS | {"items": {"type": "integer"}}
    listed = {"type": "array", "minItems": 1}
    kinds: dict[str, Schema] = dict.fromkeys(LISTED, listed)
    kinds |= {"uniform": TWO_NUMBERS, "loguniform": TWO_NUMBERS, "int": whole_ends}
    return {
        "description": "values that the search chooses",
        "oneOf": [
            {"type": "object", "properties": {kind: of}, "required": [kind], "additionalProperties": False}
            for kind, of in kinds.items()
        ],
    }


def _helpers() -> Schema:
    places = {
        "path": "a checkpoint file",
        "run": "the id of a tracked run",
        "key": "the key of a trial in this store",
    }
    given = [
        {
            "type": "object",
            "properties": {name: {"type": "string", "description": about}},
            "required": [name],
            "additionalProperties": False,
        }
        for name, about in places.items()
    ]
    return {
        "type": "object",
        "description": "networks that methods need: overrides of their own training, or where they are",
        "additionalProperties": {"anyOf": [*given, {"$ref": "#/$defs/Trial"}]},
    }


def _one_or_many(field: Schema, kind: str) -> Schema:
    return _described(
        field, {"anyOf": [{"type": kind}, {"type": "array", "items": {"type": kind}, "minItems": 1}]}
    )


def _described(field: Schema, schema: Schema) -> Schema:
    about = {name: field[name] for name in ("description", "title") if name in field}
    return about | schema

"""JSON Schema of the sweep file, for editors: completion, hover texts and red lines while one types.

Made from what checks the file: the models of :mod:`orchestrate.sweep_file` and the registries of methods, modifiers,
models, schedules and data sets. What a program can say about a file and an editor cannot (that two fields do not go
together, that a file is missing) is left to ``parapet sweep FILE --dry-run``.
"""

from __future__ import annotations

import inspect
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


def document() -> Schema:
    """The whole schema. Imports the registries, and so PyTorch."""
    whole = Sweep.model_json_schema(by_alias=True)
    parts = TrialSpec.model_json_schema(by_alias=True)
    definitions: dict[str, Schema] = whole["$defs"] | {
        name: _section(part)
        for name, part in parts["$defs"].items()
        if name not in ("Choice", "MethodChoice")
    }
    fields = {name: _spaced(field) for name, field in parts["properties"].items() if name != "seed"}
    fields |= _named_things(definitions) | {"helpers": _helpers()}
    trial: Schema = {"type": "object", "properties": fields, "additionalProperties": False}
    definitions |= {"Trial": trial, "Space": _space()}
    seeds = whole["properties"]["seeds"]
    one = trial | {"properties": fields | {"seeds": _one_or_many(seeds, "integer")}}
    whole["$defs"] = definitions
    whole["properties"] |= {
        "base": _described(whole["properties"]["base"], {"$ref": "#/$defs/Trial"}),
        "trials": _described(whole["properties"]["trials"], {"type": "array", "minItems": 1, "items": one}),
        "seeds": _one_or_many(seeds, "integer"),
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

    modifiers = {
        "type": "object",
        "description": "what is added to the method, in written order",
        "properties": {name: _parameters(entry) for name, entry in MODIFIERS.entries.items()},
        "additionalProperties": False,
    }
    definitions["TrainSpec"]["properties"]["schedule"] = _one_of(SCHEDULES)
    definitions["DataSpec"]["properties"]["name"] = _or_space(_names(DATASETS))
    return {"method": _one_of(RECIPES, {"with": modifiers}), "model": _one_of(MODELS)}


def _one_of(registry: Registry, further: Mapping[str, Schema] | None = None) -> Schema:
    """A section whose ``name`` decides which other fields it has."""
    rules = []
    for name, entry in registry.entries.items():
        then = _parameters(entry)
        then["properties"] |= {"name": {"const": name, "description": entry.summary}} | dict(further or {})
        rules.append({"if": {"properties": {"name": {"const": name}}, "required": ["name"]}, "then": then})
    section = {"type": "object", "properties": {"name": _or_space(_names(registry))}, "allOf": rules}
    spaces: list[Schema] = [{"required": [kind]} for kind in KINDS]
    return {"if": {"anyOf": spaces}, "then": {"$ref": "#/$defs/Space"}, "else": section}


def _names(registry: Registry) -> Schema:
    about = "\n".join(f"{name}: {entry.summary}" for name, entry in registry.entries.items())
    return {"enum": list(registry.entries), "description": about}


def _parameters(entry: Entry) -> Schema:
    properties = {}
    for name, parameter in entry.parameters.items():
        field = TypeAdapter(entry.hints[name]).json_schema()
        if parameter.default is not inspect.Parameter.empty:
            field["default"] = parameter.default
        properties[name] = _or_space(field)
    return {
        "type": "object",
        "description": entry.summary,
        "properties": properties,
        "additionalProperties": False,
    }


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
    ends = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
    whole_ends = ends | {"items": {"type": "integer"}}
    listed = {"type": "array", "minItems": 1}
    kinds: dict[str, Schema] = dict.fromkeys(LISTED, listed)
    kinds |= {"uniform": ends, "loguniform": ends, "int": whole_ends}
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

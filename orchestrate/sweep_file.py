"""The sweep file: what to train, how to search, how to judge, with what, in one YAML file.

:func:`load` finds every mistake that can be found without the recipes (shapes, ranges, misspelt fields, spaces);
:class:`orchestrate.plan.Planner` finds the rest (parameters of methods and models, data, helpers). Both before
anything starts. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from orchestrate import overrides as over
from orchestrate import space
from orchestrate.runs import read_yaml
from orchestrate.sections import Evaluate, Limits, Resources, Scheduler, Search
from training.errors import UserError
from training.registry import in_words, nearest
from training.spec import Choice, Part, TrialSpec

BESIDE_THE_SPEC = ("seeds", "tags")  # fields of a trial of the file that are no part of what it computes
TAG = re.compile(r"^(?!parapet\.|mlflow\.)[\w\-. :/]{1,200}$")  # names that MLflow takes and nobody else uses
Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(lambda v: [v] if isinstance(v, int) else v)]


def _python_files(given: Any) -> Any:
    """One file, a list of them, or digests by name: told in one sentence what is wrong with it."""
    files = [given] if isinstance(given, str) else given
    if isinstance(files, dict):
        for name, digest in files.items():
            if not re.fullmatch(r"[^/]+\.py", str(name)) or not re.fullmatch("[0-9a-f]{64}", str(digest)):
                raise ValueError(f"should be files, or {{NAME.py: SHA256}}, got {{{name}: {digest}}}")
        return files
    if not isinstance(files, list | tuple):
        raise ValueError(f"should be a list of Python files, got {files!r}")
    for file in files:
        if not isinstance(file, str) or not file.endswith(".py"):
            raise ValueError(f"should be a list of Python files, and {file!r} is none: its name ends in .py")
    return files


class Sweep(Part):
    """A whole sweep file. ``base`` and ``trials`` are sections of a trial's spec, in which spaces may stand."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    project: str = Field("parapet", min_length=1, description="the MLflow experiment")
    seeds: Seeds = Field((0,), min_length=1)
    base: dict[str, Any] = Field(default_factory=dict, description="what all trials have in common")
    trials: tuple[dict[str, Any], ...] = Field(({},), min_length=1, description="each is laid over base")
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    evaluate: Evaluate = Evaluate()
    resources: Resources = Resources()
    concurrency: int = Field(16, ge=1, description="so many trials at once, at most")
    limits: Limits = Limits()
    imports: Annotated[tuple[str, ...] | dict[str, str], BeforeValidator(_python_files)] = Field(
        (),
        alias="import",
        description="Python files of your own that register methods, models, data sets, ... (docs/extend.md);"
        " or {NAME: SHA256} of files that RUNS/imports keeps",
    )

    _source: str = PrivateAttr("sweep")
    _overrides: tuple[over.Override, ...] = PrivateAttr(())

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is there twice")
        return seeds

    def dump(self) -> dict[str, Any]:
        """Plain data, as written to ``sweep.yaml`` and read back by :func:`load`: overrides are in it."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def source(self) -> str:
        """What messages call the file."""
        return self._source

    def template(self, index: int) -> dict[str, Any]:
        """The spec of a trial of the file, laid over base, with its spaces still in it and without a seed."""
        trial = {name: given for name, given in self.trials[index].items() if name not in BESIDE_THE_SPEC}
        return space.merge(self.base, trial)

    def dimensions(self, index: int) -> dict[str, space.Dimension]:
        """The spaces of one trial of the file (those of base included), by path."""
        return space.find(self.template(index))

    def seeds_of(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """The seeds that a configuration runs with: its trial's own, else the sweep's."""
        own = self.trials[config["trial"]].get("seeds", self.seeds)
        return (own,) if isinstance(own, int) else tuple(own)

    def tags_of(self, config: Mapping[str, Any]) -> dict[str, str]:
        """The tags that runs of a configuration get in MLflow."""
        return dict(self.trials[config["trial"]].get("tags") or {})

    def where(self, index: int, path: str) -> str:
        """How messages name a field of a trial (or of the file): the override that set it, its place, or its setup."""
        parts = tuple(re.sub(r"\[(\d+)\]", r".\1", path).split("."))
        if parts[0] in over.fields_of(type(self)):
            override = _responsible((parts,), self._overrides)
            return override.text if override else f"{self.source}: {path}"
        said = _says(self.trials[index], parts)
        place = ("trials", str(index)) if said else ("base",)
        override = _responsible((parts, (*place, *parts)), self._overrides)
        if override:
            return override.text
        if not said and not _says(self.base, parts) and self.template(index).get("setup") and path != "setup":
            return f"{self.where(index, 'setup')} ({path})"
        return f"{self.source}: {f'trials[{index}]' if said else 'base'}.{path}"


def load(file: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file, lay ``key=value`` overrides over it, and check it.

    Raises:
        UserError: one line naming the file (or the override) and the field, and what would be right.
    """
    return build(read_yaml(file), str(file), overrides)


def build(content: Any, source: str, overrides: Sequence[str] = ()) -> Sweep:
    """:func:`load` for content that is already there; ``source`` is how messages call it."""
    if not isinstance(content, dict):
        raise UserError(f"{source}: a sweep file holds fields (name, base, trials, ...), got {content!r:.60}")
    given = tuple(over.parse(text, Sweep) for text in overrides)
    tree = over.apply(content, given)
    trials = tree.get("trials")
    for part in (tree.get("base"), *(trials if isinstance(trials, list) else ())):
        _anchor(part)
    if isinstance(files := tree.get("import"), str | list):
        tree["import"] = [_absolute(file) for file in ([files] if isinstance(files, str) else files)]
    try:
        sweep = Sweep.model_validate(tree)
    except ValidationError as error:
        loc, problem = explain(error, Sweep)
        override = _responsible([tuple(str(part) for part in loc)], given) if loc else None
        raise UserError(f"{override.text if override else f'{source}: {dotted(loc)}'}: {problem}") from None
    sweep._source, sweep._overrides = source, given
    for index in range(len(sweep.trials)):
        _check(sweep, index)
    return sweep


def probes(sweep: Sweep, index: int) -> Iterator[dict[str, Any]]:
    """Configurations that together hold every listed value and both ends of every range of one trial of the file.

    When they are right, so is every configuration in between, as long as fields are checked one by one.
    """
    dimensions = sweep.dimensions(index)
    first = {path: d.probes()[0] for path, d in dimensions.items()}
    yield {"trial": index} | first
    for path, dimension in dimensions.items():
        for value in dimension.probes()[1:]:
            yield {"trial": index} | first | {path: value}


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[tuple[str | int, ...], str]:
    """Where the first mistake is, and what it is, in words for the person who wrote the file."""
    # A misspelt field is also a missing one: the former says what to mend.
    first = min(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
    loc, given, kind = first["loc"], first["input"], first["type"]
    if not loc and model is TrialSpec and kind == "value_error":
        loc = ("setup",)  # what else is read before the fields are
    if kind == "extra_forbidden":
        return loc, f"unknown field{nearest(str(loc[-1]), _fields_at(loc[:-1], model))}"
    if kind == "missing":
        return loc, "is missing"
    if kind in ("model_type", "dict_type"):
        section = _model_at(loc, model)
        named = section is not None and issubclass(section, Choice) and isinstance(given, str)
        example = f"{{name: {given}}}" if named else "field: value below it"
        return loc, f"should be a section ({example}), got {given!r}"
    return loc, in_words(first)


def _anchor(part: Any) -> None:
    """Make the paths in a trial's sections absolute: they are the current directory's, and trials run elsewhere."""
    if not isinstance(part, dict):
        return
    data, helpers = part.get("data"), part.get("helpers")
    extra = data.get("extra") if isinstance(data, dict) else None
    for section, field in ((data, "root"), (extra, "path")):
        if isinstance(section, dict) and field in section:
            section[field] = _absolute(section[field])
    for helper in helpers.values() if isinstance(helpers, dict) else ():
        _anchor(helper)
        if isinstance(helper, dict) and "path" in helper:
            helper["path"] = _absolute(helper["path"])


def _absolute(value: Any) -> Any:
    """A path, or each of a space's paths; whatever else it is, others complain about."""
    if isinstance(value, str):
        return str(Path(value).expanduser().absolute())
    if space.is_space(value):
        return {kind: [_absolute(path) for path in paths] for kind, paths in value.items()}
    return value


def _check(sweep: Sweep, index: int) -> None:
    """One trial of the file, with every space at its ends."""
    source = f"{sweep.source}: trials[{index}]"
    trial = sweep.trials[index]
    if "seeds" in trial:
        try:
            Sweep.model_validate({"name": "x", "seeds": trial["seeds"]})
        except ValidationError as error:
            loc, problem = explain(error, Sweep)
            raise UserError(f"{source}.{dotted(loc)}: {problem}") from None
    _check_tags(trial.get("tags") or {}, f"{source}.tags")
    for place, tree in ((f"{sweep.source}: base", sweep.base), (source, trial)):
        if "seed" in tree:
            raise UserError(
                f"{place}.seed: seeds are set by 'seeds', for the sweep or for a trial of the file"
            )
        if "imports" in tree:
            raise UserError(f"{place}.imports: the whole sweep says which files it needs: import: [FILE.py]")
    try:
        dimensions = sweep.dimensions(index)
    except UserError as error:
        path, _, problem = str(error).partition(": ")
        raise UserError(f"{sweep.where(index, path)}: {problem}") from None
    if sweep.search.name == "grid":
        for dimension in dimensions.values():
            if dimension.kind in space.RANGES:
                raise UserError(
                    f"{sweep.where(index, dimension.path)}: {dimension.kind} cannot be searched as a grid; list"
                    " values with {grid: [...]}, or search with {name: random, samples: 8} or optuna"
                )
    template = sweep.template(index)
    for config in probes(sweep, index):
        values = {path: value for path, value in config.items() if path != "trial"}
        try:
            TrialSpec.model_validate(space.place(template, values))
        except ValidationError as error:
            loc, problem = explain(error, TrialSpec)
            raise UserError(f"{sweep.where(index, dotted(loc))}: {problem}") from None
    for field in _paths({"helpers": template.get("helpers") or {}}):
        wrong = over.unknown(field, Sweep)
        if wrong:
            raise UserError(f"{sweep.where(index, '.'.join(field))}: {wrong}")


def _check_tags(tags: Any, at: str) -> None:
    if not isinstance(tags, dict):
        raise UserError(f"{at}: should be a section of texts, got {tags!r:.60}")
    for name, text in tags.items():
        if not TAG.match(str(name)):
            raise UserError(
                f"{at}: '{name}' cannot be a tag's name: letters, digits and - _ . : / only, and not beginning with"
                " 'parapet.' or 'mlflow.'"
            )
        if not isinstance(text, str):
            raise UserError(f"{at}.{name}: should be a text, got {text!r:.60}")


def _paths(tree: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, value in tree.items():
        yield (str(name),)
        if isinstance(value, Mapping) and not space.is_space(value):
            yield from ((str(name), *path) for path in _paths(value))


def _says(trial: Mapping[str, Any], parts: tuple[str, ...]) -> bool:
    """Does a trial of the file speak about this field (or, where it is missing, about the section around it)?"""
    at: Any = trial
    for depth, part in enumerate(parts):
        if not isinstance(at, Mapping) or space.is_space(at):
            return True
        if part not in at:
            return depth == len(parts) - 1 and depth > 0
        at = at[part]
    return True


def _responsible(places: Sequence[tuple[str, ...]], given: Sequence[over.Override]) -> over.Override | None:
    """The last override of any of these fields, of a section around one, or of something inside one."""
    for override in reversed(given):
        for place in places:
            size = min(len(override.path), len(place))
            if override.path[:size] == place[:size]:
                return override
    return None


def dotted(loc: tuple[str | int, ...]) -> str:
    """A place in a file as people write it: ``trials[1].method.beta``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _model_at(loc: Sequence[str | int], model: type[BaseModel]) -> type[BaseModel] | None:
    """The section that stands at a place, if one does."""
    for part in loc:
        field = over.fields_of(model).get(str(part))
        kind = over.model_of(field.annotation) if field else None
        if kind in (None, dict):
            return None
        model = kind
    return model


def _fields_at(loc: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    section = _model_at(loc, model)
    return list(over.fields_of(section)) if section else []

"""A user's own Python files: methods, modifiers, models, data sets and schedules that parapet does not have.

A file registers what it adds (``@RECIPES.register("name")``, ...) when it is loaded, once per process. It is known by
its SHA-256: that goes into the spec, and so into the key, of every trial that uses something of it. It stands alone:
trials load a copy, from another place. Nothing is ever loaded because a checkpoint names it (:func:`expect`).
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from training.errors import UserError
from training.registry import ORIGIN, Entry, Origin, Registry
from training.spec import TrialSpec

_loaded: dict[str, Origin] = {}  # by digest


def registries() -> tuple[Registry, ...]:
    """Everything that a file may add to. Imports PyTorch."""
    from training.data import DATASETS
    from training.models import MODELS
    from training.recipes import MODIFIERS, RECIPES
    from training.schedules import SCHEDULES

    return RECIPES, MODIFIERS, MODELS, DATASETS, SCHEDULES


def digest_of(content: bytes) -> str:
    """What a file is known by."""
    return hashlib.sha256(content).hexdigest()


def read(file: Path) -> bytes:
    """The contents of a user's file. Raises UserError when it is none, is not there, or cannot be read."""
    if file.suffix != ".py":
        raise UserError(f"{file}: is no Python file: its name ends in .py")
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def load(file: Path, content: bytes | None = None) -> Origin:
    """Run a file, unless one of the same contents has been, so that what it registers is there.

    Args:
        content: of the file, where the caller has read it.

    Raises:
        UserError: naming the file, and the line in it that went wrong; it registers nothing, or a name that is taken.
            Nothing of the file then stays registered.
    """
    content = read(file) if content is None else content
    origin = Origin(file.name, digest_of(content))
    if origin.digest in _loaded:
        return _loaded[origin.digest]
    ours = (
        registries()
    )  # before the file runs: what is ours is not the file's, and is there to be clashed with
    name = f"parapet_import_{origin.digest[:16]}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    token = ORIGIN.set(origin)
    try:
        exec(compile(content, str(file), "exec", dont_inherit=True), module.__dict__)
        if not any(True for _ in _of(origin, ours)):
            raise UserError("registers nothing: no method, modifier, model, data set or schedule")
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        for registry, entry in list(_of(origin, ours)):
            del registry.entries[entry.name]
        raise UserError(f"{file}{_line(error, str(file))}: {_reason(error)}") from error
    finally:
        ORIGIN.reset(token)
    _loaded[origin.digest] = origin
    return origin


def load_all(imports: Mapping[str, str], folder: Path) -> None:
    """Load the files that a spec names, from the copies that a store keeps: ``folder/DIGEST/NAME``.

    Raises:
        UserError: a copy is gone, or is not what it was; or as :func:`load`.
    """
    for name, digest in imports.items():
        if digest not in _loaded:
            load(folder / digest / name, kept(name, digest, folder))


def kept(name: str, digest: str, folder: Path) -> bytes:
    """The contents of a copy that a store keeps. Raises UserError when it is gone, or is not what it was."""
    file = folder / digest / name
    content = read(file)
    if digest_of(content) != digest:
        raise UserError(
            f"{file}: is not what it was: its SHA-256 is {digest_of(content)[:12]}..., not {digest[:12]}...;"
            f" put the file back that was imported, or remove this one and import it again"
        )
    return content


def are_loaded(imports: Mapping[str, str]) -> bool:
    """Has everything been loaded that a spec names?"""
    return all(digest in _loaded for digest in imports.values())


def expect(imports: Mapping[str, str], source: str) -> None:
    """Raise UserError unless everything is loaded that ``source`` (a checkpoint, a trial) names.

    A checkpoint may come from anywhere, so its word is not enough to run a file.
    """
    for name, digest in imports.items():
        if digest not in _loaded:
            other = [origin for origin in _loaded.values() if origin.name == name]
            if other:
                raise UserError(
                    f"{source}: was trained with a {name} of SHA-256 {digest[:12]}..., and the one that was imported is"
                    f" another, {other[0].digest[:12]}..."
                )
            raise UserError(
                f"{source}: was trained with a file of its user's own, {name} (SHA-256 {digest[:12]}...), which is"
                f" not run unasked: name it with --import {name} (in a sweep file: import: [{name}])"
            )


def used_by(spec: TrialSpec) -> dict[str, str]:
    """The digests, by name, of the loaded files that registered what a resolved spec names."""
    from training.guides import Joint
    from training.recipes import build

    recipes, modifiers, models, data, schedules = registries()
    method = build(spec.method, spec.attack)
    guides = method.guides.values()
    names = [
        (recipes, spec.method.name),
        *((modifiers, name) for name in spec.method.with_),
        *((recipes, helper.method) for helper in method.helpers),
        (models, spec.model.name),
        *((models, guide.model) for guide in guides if isinstance(guide, Joint) and guide.model),
        (data, spec.data.name),
        (schedules, spec.train.schedule.name),
    ]
    entries = (registry.entries.get(name) for registry, name in names)
    return dict(sorted(entry.origin for entry in entries if entry and entry.origin))


def _of(origin: Origin, among: Iterable[Registry]) -> Iterator[tuple[Registry, Entry]]:
    for registry in among:
        for entry in registry.entries.values():
            if entry.origin == origin:
                yield registry, entry


def _line(error: BaseException, file: str) -> str:
    """``, line 3``: the last line of the file that was on its way when it happened."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""


def _reason(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(said.split())}" if said else type(error).__name__

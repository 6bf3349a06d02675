"""The papers' training recipes as data, one YAML file each: ``setup: hat/cifar10`` in a spec.

A setup holds sections of a spec (``train``, ``attack``, ``data``, ``selection``), and of ``model`` what holds for any
network (whether it normalises its input); under ``methods``, parameters and modifiers of single methods; under
``modifiers``, parameters of modifiers where a method has them. All of it lies below what a spec says itself.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from training.registry import nearest

FOLDER = Path(__file__).parent
SECTIONS = {"train", "attack", "data", "selection"}


def names() -> list[str]:
    """All setups, like ``hat/cifar10``."""
    return sorted(str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.glob("*/*.yaml"))


@functools.cache
def read(name: str) -> dict[str, Any]:
    """The content of one setup; ValueError with the nearest name where there is none."""
    if name not in names():
        raise ValueError(f"no setup '{name}'{nearest(name, names())}; there are: {', '.join(names())}")
    content: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return content


def laid_over(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with ``setup: NAME`` as one without: its own sections laid over the setup's.

    Raises:
        ValueError: there is no such setup.
    """
    from training.spec import overlay, spelt_out

    own = {name: value for name, value in spec.items() if name != "setup"}
    if spec["setup"] is None:
        return own
    if not isinstance(spec["setup"], str):
        raise ValueError(f"setup is the name of one, like {names()[0]}, got {spec['setup']!r}")
    setup = read(spec["setup"])
    if isinstance(own.get("model"), Mapping):
        own["model"] = {**setup.get("model", {}), **own["model"]}
    method = spelt_out(own.get("method"))
    if isinstance(method, dict):
        method = overlay(setup.get("methods", {}).get(method.get("name")) or {}, method)
        below, asked = setup.get("modifiers", {}), method.get("with") or {}
        if isinstance(asked, dict):  # anything else is told when the spec is checked
            asked = {name: _under(below.get(name, {}), given) for name, given in asked.items()}
        own["method"] = method | {"with": asked}
    return overlay({name: setup[name] for name in setup.keys() & SECTIONS}, own)


def _under(setup: Mapping[str, Any], given: Any) -> Any:
    """A modifier's parameters, the setup's under those given."""
    from training.spec import overlay

    return overlay(setup, given or {}) if isinstance(given or {}, Mapping) else given

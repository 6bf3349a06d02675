"""Short names of trials for people: the method, and only what differs between the trials of a sweep."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrate import space
from orchestrate.sweep_file import Sweep, probes
from training.spec import flatten, is_annealed, spelt_out


class Labels:
    """``trades beta=3``, ``hat+wa beta=2.5 gamma=0.5``, ``pgd-at eps=8/255``.

    A field is shown in the trials of one method when they differ in it.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        values: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for index in range(len(sweep.trials)):
            for config in probes(sweep, index):
                tree = placed(sweep, config)
                values[tree["method"]["name"]].append(_fields(tree))
        self.shown = {method: _differing(trees) for method, trees in values.items()}
        self.names = _short({path for paths in self.shown.values() for path in paths})

    def of(self, config: Mapping[str, Any]) -> str:
        """The label of a configuration; seeds share one."""
        tree = placed(self.sweep, config)
        method = tree["method"]["name"]
        fields = _fields(tree)
        shown = [path for path in self.shown.get(method, ()) if path in fields]
        named = head(method, tree["method"].get("with") or {})
        return " ".join([named, *(f"{self.names[path]}={_text(fields[path])}" for path in shown)])


def head(method: str, modifiers: Iterable[str]) -> str:
    """``hat+awp+wa``: a method and its modifiers, as they may be written in a file too."""
    return "+".join([method, *modifiers])


def placed(sweep: Sweep, config: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's spec as the file and a configuration give it: not checked, no defaults, no seed, no short names."""
    values = {path: value for path, value in config.items() if path != "trial"}
    tree = space.place(sweep.template(config["trial"]), values)
    return tree | {"method": spelt_out(tree.get("method"))}


def _fields(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        path: value
        for path, value in flatten(_with_leaves(tree)).items()
        if path != "method.name" and value not in ({}, None)
    }


def _with_leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with ``{cosine: [a, b]}``, which is one value, as the text ``cosine[a, b]``."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if is_annealed(value):
            ((kind, given),) = value.items()
            leaves[name] = f"{kind}{json.dumps(given)}"
        else:
            leaves[name] = _with_leaves(value) if isinstance(value, Mapping) else value
    return leaves


def _differing(trees: list[dict[str, Any]]) -> list[str]:
    """Fields that are not the same in all of these, in written order, the method's own first."""
    paths = list(dict.fromkeys(path for tree in trees for path in tree))
    paths.sort(key=lambda path: not path.startswith("method."))
    return [path for path in paths if _differs(path, trees)]


def _differs(path: str, trees: list[dict[str, Any]]) -> bool:
    """Parameters of different models are not compared: that the models differ says it."""
    named = f"{path.rpartition('.')[0]}.name"
    values: dict[str, set[str]] = defaultdict(set)
    for tree in trees:
        values[_text(tree.get(named)) if named != path else ""].add(_text(tree.get(path)))
    return any(len(among) > 1 for among in values.values())


def _short(paths: set[str]) -> dict[str, str]:
    """The last part of each path, with the one before where that alone is ambiguous or says nothing."""
    parts = {path: path.removesuffix(".name").split(".") for path in paths}
    count = Counter(p[-1] for p in parts.values())
    return {path: p[-1] if count[p[-1]] == 1 else ".".join(p[-2:]) for path, p in parts.items()}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)

"""torchvision, also where its compiled operators do not fit the torch beside it.

The registry's torchvision is built against CUDA. On a CPU-only torch its library does not load, two operators stay
undefined, and ``import torchvision`` fails on their names. Data sets and transforms need neither.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

MISSING = "operator torchvision::nms does not exist"
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_kept: list[Any] = []  # an operator library lives as long as its handle


@functools.cache
def datasets() -> ModuleType:
    """The module ``torchvision.datasets``."""
    return _module("torchvision.datasets")


@functools.cache
def transforms() -> ModuleType:
    """The module ``torchvision.transforms``."""
    return _module("torchvision.transforms")


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
    for half_imported in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[half_imported]
    from torch.library import Library

    library = Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + SCHEMA)  # type: ignore[no-untyped-call]
    _kept.append(library)
    return importlib.import_module(name)

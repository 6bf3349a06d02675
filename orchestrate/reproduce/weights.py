"""Two checkpoints of one training: their weights by digest, and how far apart they are. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrate.reproduce.quantity import Part

if TYPE_CHECKING:
    from torch import Tensor

    State = Mapping[str, Tensor]


def compare(then: Path, now: Path, limit: float) -> tuple[Part, ...]:
    """Every network in two checkpoints.

    The distance of two networks is |now - then| / |then| in the Euclidean norm over all their floating-point numbers.

    Raises UserError when one of the files is damaged or is no checkpoint.
    """
    before, after = _networks(then), _networks(now)
    return tuple(
        _network(f"{then.name}, {name}", before.get(name, {}), after.get(name, {}), limit)
        for name in dict.fromkeys([*before, *after])
    )


def digest(state: State) -> str:
    """SHA-256 over names, types, shapes and bytes: equal for equal weights, however they were packed."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(_bytes(tensor))
    return sha.hexdigest()


def _networks(file: Path) -> dict[str, State]:
    from training import checkpoint

    content = checkpoint.load(file)
    networks: dict[str, State] = content.get("networks") or {"network": content.get("network", {})}
    return networks


def _network(where: str, then: State, now: State, limit: float) -> Part:
    digests = digest(then), digest(now)
    if digests[0] == digests[1]:
        return Part(where, 0.0, "relative", limit, f"SHA-256 {digests[0][:16]}", 0, len(then))
    names = list(dict.fromkeys([*then, *now]))
    unequal = [name for name in names if not _equal(then.get(name), now.get(name))]
    distance, largest, at = _apart(then, now, unequal)
    text = f"SHA-256 {digests[0][:16]} then, {digests[1][:16]} now"
    text += f"; one weight is {largest:.3g} off ({at})" if at else "; they are not alike"
    return Part(where, distance, "relative", limit, text, len(unequal), len(names))


def _apart(then: State, now: State, unequal: list[str]) -> tuple[float, float, str]:
    """The distance, and the largest difference of one number, with its tensor; infinite where there is none.

    Whole numbers count steps. They have no distance, and where only they are other ones, nothing has.
    """
    import torch

    squares, largest, at = 0.0, 0.0, ""
    for name in unequal:
        a, b = then.get(name), now.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            return math.inf, math.inf, ""
        if not a.is_floating_point():
            continue
        apart = (b.to(torch.float64) - a.to(torch.float64)).abs()
        squares += float(apart.square().sum())
        if not apart.isfinite().all():
            return math.inf, math.inf, ""
        if float(apart.max()) >= largest:
            largest, at = float(apart.max()), name
    floats = [tensor.to(torch.float64) for tensor in then.values() if tensor.is_floating_point()]
    length = math.sqrt(sum(float(tensor.square().sum()) for tensor in floats))
    return math.sqrt(squares) / length if length and at else math.inf, largest, at


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and digest({"": a}) == digest({"": b})


def _bytes(tensor: Tensor) -> bytes:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes())

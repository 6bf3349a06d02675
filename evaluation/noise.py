"""Noise for attacks that depends on the image and the attack, never on the batch it came in.

Each number is a hash of (seed, attack, restart, image index, place in the image), so a verdict is the same for any
batch size, order or shard, and on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from training.randomness import seed_of

GOLDEN = -7046029254386353131  # 2^64 / golden ratio, odd, as a signed 64-bit number


def uniform(seed: int, attack: str, restart: int, indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Numbers in [0, 1): float32 [N, *shape] for the images of ``indices`` (int64 [N]), on their device."""
    stream = seed_of(seed, f"evaluation/{attack}", step=restart)
    images = _mix(_mix(indices + 1) + stream)
    places = torch.arange(1, math.prod(shape) + 1, device=indices.device)
    bits = _mix(images[:, None] + places * GOLDEN)
    # The upper 24 bits, as many as a float32 holds exactly.
    return _shifted(bits, 40).to(torch.float32).mul_(2.0**-24).reshape(len(indices), *shape)


def normal(seed: int, attack: str, restart: int, indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers: float32 [N, *shape] (Box and Muller 1958)."""
    pairs = uniform(seed, attack, restart, indices, (2, *shape))
    radius = (-2 * (1 - pairs[:, 0]).log()).sqrt()
    return radius * (2 * math.pi * pairs[:, 1]).cos()


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), on int64 that wrap around."""
    x = (x ^ _shifted(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shifted(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Logical shift to the right: torch's own keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)

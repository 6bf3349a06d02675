"""Counter-based randomness: what is drawn depends on what it is for and when, never on what was drawn before.

So a resumed run equals an uninterrupted one bit for bit on the same device.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> int:
    """63 bits that stand for (seed, purpose, epoch, step)."""
    text = f"{seed}/{purpose}/{epoch}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def generator(
    seed: int, purpose: str, epoch: int = 0, step: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator on ``device`` for one purpose (initialisation, order, augmentation, attack) at one step."""
    return torch.Generator(device).manual_seed(seed_of(seed, purpose, epoch, step))

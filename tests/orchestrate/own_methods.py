"""Users' own files for tests, as texts: what somebody who extends parapet would write."""

HALVED = '''"""Half of TRADES, and a network without anything."""

from __future__ import annotations

from torch import nn

from training.annealing import Weight, annealed
from training.method import Method
from training.models import MODELS, Inputs, Network
from training.recipes import MODIFIERS, RECIPES, Threat
from training.terms import CE, KL


@RECIPES.register("halved", source="this test")
def halved(threat: Threat, *, beta: Weight = 3.0) -> Method:
    """TRADES with half a clean loss."""
    search = threat.search(KL("adv", "clean"), "gaussian")
    return Method((search,), 0.5 * CE("clean") + annealed(beta) * KL("adv", "clean"))


@MODIFIERS.register("untouched", source="this test")
def untouched(method: Method) -> Method:
    """Nothing at all."""
    return method


@MODELS.register("linear")
def linear(inputs: Inputs, *, dropout: float = 0.0) -> Network:
    """One linear layer."""
    channels, h, w = inputs.shape
    body = nn.Sequential(nn.Flatten(), nn.Dropout(dropout))
    return Network(inputs, "data", body, channels * h * w)
'''

STRIPES = '''"""A data set."""

from pathlib import Path

import numpy as np

from training.data import DATASETS
from training.data.raw import Raw, checked


@DATASETS.register("stripes", source="made up")
def stripes(root: Path | None) -> Raw:
    """Two classes of 8x8 images: stripes that lie, and stripes that stand."""
    rng = np.random.default_rng(0)
    lying = np.tile(np.array([[0], [255]], np.uint8), (4, 8))
    images = np.stack([lying if n % 2 == 0 else lying.T for n in range(300)])[:, None]
    noise = rng.integers(0, 60, images.shape)
    noisy = np.clip(images + noise - 30, 0, 255).astype(np.uint8)
    part = checked(noisy, np.arange(300) % 2, 2, "data.name: stripes")
    return Raw(part.first(200, ""), part.take(np.arange(300) >= 200), 2)
'''

"""A method, a stage, a network and a data set that parapet does not have. docs/extend.md walks through this file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from training.annealing import Weight, annealed
from training.data import DATASETS
from training.data.raw import Raw, checked, held_out
from training.method import Method
from training.models import MODELS, Inputs, Network
from training.recipes import MODIFIERS, RECIPES, Threat
from training.stages import Stage
from training.terms import CE, KL, objective
from training.views import Views

Sigma = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Noise(Stage):
    """The images with Gaussian noise, as the point ``noisy``."""

    sigma: float

    def __call__(self, views: Views) -> Views:
        x = views.points("clean")
        noise = torch.empty_like(x).normal_(0, self.sigma, generator=views.random("noise"))
        return views.move(noisy=(x + noise).clamp_(0, 1))


@MODIFIERS.register("stable", source="after Zheng et al. 2016, stability training")
def stable(method: Method, *, alpha: Weight = 1.0, sigma: Sigma = 0.1) -> Method:
    """And alpha times how far the prediction moves under Gaussian noise."""
    return dataclasses.replace(
        method,
        stages=(*method.stages, Noise(sigma)),
        objective=method.objective + annealed(alpha) * KL("noisy", "clean"),
    )


@RECIPES.register("stability", source="after Zheng et al. 2016, stability training")
def stability(threat: Threat, *, alpha: Weight = 1.0, sigma: Sigma = 0.1) -> Method:
    """Cross-entropy on clean images, and alpha times how far the prediction moves under Gaussian noise."""
    method: Method = stable(Method((), objective(CE("clean"))), alpha=alpha, sigma=sigma)
    return method


@MODELS.register("glance")
def glance(inputs: Inputs, *, width: Annotated[int, Field(ge=1)] = 16) -> Network:
    """One 5x5 convolution of stride 2 with BatchNorm, averaged over the image: 1,300 weights on colour images."""
    body = nn.Sequential(
        nn.Conv2d(inputs.shape[0], width, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Network(inputs, "data", body, width)


@DATASETS.register("photographs", source="sklearn.datasets.load_sample_images")
def photographs(root: Path | None) -> Raw:
    """Which of two photographs is a 16x16 piece from, the temple's or the flower's? 2,080 pieces, 500 for testing."""
    from sklearn.datasets import load_sample_images

    pieces = np.concatenate([_pieces(photograph) for photograph in load_sample_images().images])
    labels = np.arange(len(pieces)) * 2 // len(pieces)
    whole = checked(pieces, labels, 2, "data.name: photographs")
    test = held_out(whole.labels, 500, seed=0)
    return Raw(whole.take(~test), whole.take(test), 2)


def _pieces(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] as [N, 3, 16, 16], without what is left over at the edges."""
    h, w = (size // 16 for size in photograph.shape[:2])
    cut = photograph[: 16 * h, : 16 * w].reshape(h, 16, w, 16, 3)
    return cut.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 16, 16)

"""Handwritten digits and networks that are trained on them in a second."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


@dataclass(frozen=True)
class Pair:
    """Images (uint8 [N, C, H, W]) and labels (int64 [N]), as ``training.data.Images`` holds them."""

    images: Tensor
    labels: Tensor


def digits(classes: int = 10) -> tuple[Pair, Pair]:
    """Training and test digits below ``classes``, 1 x 8 x 8."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16 * 255).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    keep = labels < classes
    images, labels = images[keep], labels[keep]
    cut = int(0.7 * len(labels))
    return Pair(images[:cut], labels[:cut]), Pair(images[cut:], labels[cut:])


def train(network: nn.Module, data: Pair, epochs: int, eps: float = 0.0) -> nn.Module:
    """Plain SGD; with ``eps`` each batch moves one signed gradient step first, so that some robustness is learnt."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    x, y = data.images.float() / 255, data.labels
    for _ in range(epochs):
        for part in torch.randperm(len(y)).split(64):
            batch = x[part].requires_grad_()
            if eps:
                (grad,) = torch.autograd.grad(nn.functional.cross_entropy(network(batch), y[part]), batch)
                batch = (batch + eps * grad.sign()).clamp(0, 1).detach()
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch), y[part]).backward()
            optimizer.step()
    return network.eval()


def small_net(classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, classes),
    )

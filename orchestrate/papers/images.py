"""The data sets of the papers as they are published: what is known of them where the images are not at hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Images:
    """Shape [C, H, W] of an image, and how many there are; ``counted`` unless the choice of classes changes that."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    counted: bool = True


DATA = {
    "cifar10": Images((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": Images((3, 32, 32), 100, 50_000, 10_000),
    "svhn": Images((3, 32, 32), 10, 73_257, 26_032),
    "tiny-imagenet": Images((3, 64, 64), 200, 100_000, 10_000),
    "imagenet": Images((3, 224, 224), 1000, 1_281_167, 50_000),
    "imagenet-100": Images((3, 224, 224), 100, 128_334, 5_000, counted=False),
    "digits": Images((1, 8, 8), 10, 1_297, 500),
    "hat-toy": Images((1, 1, 3), 2, 2_000, 1_000),
}

"""The toy problem on which HAT shows what excessive margin is: two noisy circles that a third feature parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.raw import DATASETS, Raw, checked

TRAIN, TEST = 2000, 1000
SEED = 0
RADIUS = np.array([0.35, 1.0])  # rho of class 0 and 1
LOW, HIGH = np.array([0.65, 0.80]), np.array([0.70, 0.85])  # alpha and beta
SIGMA = 0.2
LEVELS = 80  # of 255, to one unit of every feature
CENTRE = np.array([0.0, 0.0, 0.75])  # becomes the middle of [0, 1]


@DATASETS.register("hat-toy", source="Rade and Moosavi-Dezfooli 2022, App. A.1")
def hat_toy(root: Path | None) -> Raw:
    """Two classes, 1 x 1 x 3: three features as the pixels of an image; ``root`` is not looked at.

    x1 = rho cos(z) + e1, x2 = rho sin(z) + e2, x3 uniform on [alpha, beta], z uniform on a circle, e normal with
    sigma 0.2; rho, alpha, beta are 0.35, 0.65, 0.70 for class 0 and 1, 0.80, 0.85 for class 1 (the paper's 1 and 2).
    2,000 + 1,000 points, the classes in turn, drawn once and for all.

    Pixels are in [0, 1] and are bytes, so features are mapped there by one scale, under which a ball stays a ball:
    pixel = 0.5 + (x - c) * 80/255, c = (0, 0, 0.75), rounded to a level of 1/255. So an **eps or step in the
    paper's units is times 80/255** here: its eps of 0.1 is 8/255, its step of 0.05 is 4/255. A level is 0.0125 in the
    paper's units: sigma is 16 levels, the gap of 0.1 between the classes in x3 is 8, each class is 4 wide in x3.
    Points beyond 1.59 (a fraction of a percent) are moved to 1.59. No augmentation makes sense.
    """
    labels = np.arange(TRAIN + TEST) % 2
    images = np.rint(255 * 0.5 + (_features(labels) - CENTRE) * LEVELS).clip(0, 255).astype(np.uint8)
    whole = checked(images[:, None, None, :], labels, 2, "data.name: hat-toy")
    test = np.arange(TRAIN + TEST) >= TRAIN
    return Raw(whole.take(~test), whole.take(test), 2)


def _features(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """x1, x2, x3 as [N, 3], from Philox's raw output, which NumPy promises never to change."""
    raw = np.random.Philox(SEED).random_raw(4 * len(labels)).reshape(4, -1)
    z, first, second, third = (raw >> np.uint64(11)) * 2.0**-53  # uniform on [0, 1)
    spread, turn = (
        SIGMA * np.sqrt(-2 * np.log1p(-first)),
        2 * np.pi * second,
    )  # Box and Muller's two normal numbers
    x1 = RADIUS[labels] * np.cos(2 * np.pi * z) + spread * np.cos(turn)
    x2 = RADIUS[labels] * np.sin(2 * np.pi * z) + spread * np.sin(turn)
    x3 = LOW[labels] + (HIGH - LOW)[labels] * third
    return np.stack([x1, x2, x3], axis=1)

"""The accuracy-robustness front: which configurations nothing else beats in both clean and robust accuracy.

Everything here maximises both coordinates and needs numpy only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

FEW_IMAGES = 1000  # below it, an accuracy near a half is known to no better than 3 points either way


@dataclass(frozen=True)
class TrialResult:
    """One trained and evaluated network. ``clean`` and ``robust`` are accuracies in [0, 1] on ``images`` images."""

    key: str
    label: str
    method: str
    formula: str
    parameters: Mapping[str, Any]
    seed: int
    clean: float
    robust: float
    images: int
    selection: str = "val"


@dataclass(frozen=True)
class Point:
    """One configuration, over its seeds.

    ``clean`` and ``robust`` are means over the seeds; ``*_sd`` the sample standard deviation over them (None for one
    seed); ``*_interval`` the 95 % Wilson interval of that mean for ``images`` images drawn anew. The seeds share
    their test images, so they add nothing to the number of images, and the interval knows nothing of the seeds.
    ``front`` is true where no other point is at least as good in both means and better in one; ``remarks`` say
    why a point may rest on too little.
    """

    label: str
    method: str
    formula: str
    parameters: Mapping[str, Any]
    seeds: tuple[int, ...]
    keys: tuple[str, ...]
    clean: float
    robust: float
    clean_sd: float | None
    robust_sd: float | None
    clean_interval: tuple[float, float]
    robust_interval: tuple[float, float]
    images: int
    selection: str
    front: bool = False
    remarks: tuple[str, ...] = field(default=())


def non_dominated(points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which of ``points`` [N, 2] no other point dominates, maximising both coordinates.

    A point dominates another when it is at least as good in both and better in one, so equal points stay or go
    together. O(N log N). Raises ValueError for values that are not finite.
    """
    values = _checked(points)
    if not len(values):
        return np.zeros(0, dtype=bool)
    order = np.lexsort((-values[:, 1], -values[:, 0]))
    first, second = values[order].T
    # Within equal first coordinates the best second one comes first; `start` is where each such run begins.
    begins = np.r_[True, first[1:] != first[:-1]]
    start = np.maximum.accumulate(np.where(begins, np.arange(len(first)), 0))
    best_so_far = np.r_[-np.inf, np.maximum.accumulate(second)[:-1]]
    kept = (second > best_so_far[start]) & (second == second[start])
    mask = np.zeros(len(values), dtype=bool)
    mask[order] = kept
    return mask


def hypervolume(points: npt.ArrayLike, reference: tuple[float, float] = (0.0, 0.0)) -> float:
    """The area that ``points`` [N, 2] dominate above ``reference``, maximising both coordinates.

    For accuracies in [0, 1] and the default reference it lies in [0, 1]. A point that is not better than the
    reference in both coordinates contributes nothing. Raises ValueError for values that are not finite.
    """
    above = _checked(points) - np.asarray(reference, dtype=float)
    above = above[(above > 0).all(axis=1)]
    first, second = above[np.argsort(-above[:, 0], kind="stable")].T
    height = np.maximum.accumulate(second) if len(second) else second
    return float(np.sum(first * np.diff(height, prepend=0.0)))


def summarise(trials: Sequence[TrialResult]) -> list[Point]:
    """The points of a front: trials of equal configuration joined over their seeds, best robust accuracy first.

    Equal are trials of the same method, parameters, selection and number of test images. A trial that comes twice
    (two sweeps share it) counts once. Raises ValueError when one trial comes with two results, or a value is not
    a number.
    """
    groups: dict[str, dict[str, TrialResult]] = {}
    for trial in trials:
        same = json.dumps([trial.method, trial.parameters, trial.images, trial.selection], sort_keys=True)
        group = groups.setdefault(same, {})
        known = group.setdefault(trial.key, trial)
        if (known.clean, known.robust) != (trial.clean, trial.robust):
            raise ValueError(f"trial {trial.key} comes with two different results on {trial.images} images")
    points = [_join(sorted(group.values(), key=lambda t: (t.seed, t.key))) for group in groups.values()]
    front = non_dominated(np.array([(p.clean, p.robust) for p in points]).reshape(-1, 2))
    points = [replace(p, front=bool(on)) for p, on in zip(points, front, strict=True)]
    return sorted(points, key=lambda p: (-p.robust, -p.clean, p.label))


def wilson(accuracy: float, images: int) -> tuple[float, float]:
    """The 95 % score interval of an accuracy measured on ``images`` images (Wilson 1927, JASA 22:209-212)."""
    z = 1.959963984540054
    centre = accuracy + z * z / (2 * images)
    reach = z * math.sqrt(accuracy * (1 - accuracy) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def _join(trials: list[TrialResult]) -> Point:
    """One point from the trials of one configuration, in order of seed."""
    one = trials[0]
    clean, clean_sd = _mean_and_sd([t.clean for t in trials])
    robust, robust_sd = _mean_and_sd([t.robust for t in trials])
    point = Point(
        label=one.label,
        method=one.method,
        formula=one.formula,
        parameters=one.parameters,
        seeds=tuple(t.seed for t in trials),
        keys=tuple(t.key for t in trials),
        clean=clean,
        robust=robust,
        clean_sd=clean_sd,
        robust_sd=robust_sd,
        clean_interval=wilson(clean, one.images),
        robust_interval=wilson(robust, one.images),
        images=one.images,
        selection=one.selection,
    )
    return replace(point, remarks=_remarks(point))


def _remarks(point: Point) -> tuple[str, ...]:
    """What a reader must know before leaning on a point."""
    remarks = []
    if len(point.seeds) == 1:
        remarks.append("one seed")
    if point.images < FEW_IMAGES:
        remarks.append(f"only {point.images} images")
    if point.selection == "test":
        remarks.append("checkpoint selected on test images")
    return tuple(remarks)


def _mean_and_sd(values: list[float]) -> tuple[float, float | None]:
    """Mean, rounded so that means that are equal on paper are equal here, and sample standard deviation."""
    if not all(math.isfinite(v) for v in values):
        raise ValueError("an accuracy is not a finite number: the front compares finished evaluations only")
    mean = math.fsum(values) / len(values)
    spread = math.fsum((v - mean) ** 2 for v in values)
    return round(mean, 12), math.sqrt(spread / (len(values) - 1)) if len(values) > 1 else None


def _checked(points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = np.asarray(points, dtype=float)
    if values.size == 0:
        return values.reshape(0, 2)
    if values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(f"points must be [N, 2], got an array of shape {list(values.shape)}")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(f"point {row} is {tuple(values[row].tolist())}: a front needs finite numbers")
    return values

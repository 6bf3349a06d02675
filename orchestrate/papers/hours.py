"""What a row costs to train, in GPU-hours on the card of the measurements below.

A training's network passes are known (:func:`training.resolve.cost`), and so are a network's multiplications; what a
card does with them is measured: seconds per epoch of PGD-AT that ADR prints in its Table 6, on one RTX A6000. A wide
network keeps a card busier than a narrow one, so each kind has its own measurement. Evaluations are not counted.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from orchestrate.papers.images import DATA, Images
from orchestrate.papers.sheet import Row
from training.spec import Choice, TrialSpec

CARD = "RTX A6000"
SOURCE = "ADR, Table 6"

# Seconds per epoch of PGD-AT on CIFAR-10, batch 128, by the kind of network.
MEASURED = {"resnet18": 81.0, "wrn-34-10": 575.0}
CALIBRATION = {
    "setup": "adr/cifar10",
    "method": {"name": "pgd-at"},
    "data": {"name": "cifar10"},
    "selection": "test",
}


def of(row: Row) -> float | None:
    """GPU-hours of one training of a row, without its helper networks; None where it cannot be told."""
    spec = row.spec()
    return None if spec is None else of_spec(spec)


def total(rows: Iterable[Row], seeds: int = 1) -> float:
    """GPU-hours of training each different row with so many seeds, and each helper network that they need once."""
    from orchestrate import configuration

    costs: dict[str, float] = {}

    def add(spec: TrialSpec, times: int) -> None:
        resolved, digest = configuration.of(spec)
        costs[digest] = max(costs.get(digest, 0.0), times * (of_spec(spec) or 0.0))
        for helper in configuration.helpers_of(spec, resolved).values():
            if helper is not None:
                add(helper, 1)

    for row in rows:
        if (spec := row.spec()) is not None:
            add(spec, seeds)
    return sum(costs.values())


def of_spec(spec: TrialSpec) -> float | None:
    """GPU-hours of one training; None for a data set of unknown size."""
    from orchestrate import configuration
    from training.resolve import cost

    data = DATA.get(spec.data.name)
    if data is None:
        return None
    resolved, _ = configuration.of(spec)
    images = data.train if spec.data.train_size is None else min(data.train, spec.data.train_size)
    work = cost(resolved, images) * _multiplications(resolved.model.model_dump_json(), data)
    return work / _rate("wrn-34-10" if "wrn" in spec.model.name else "resnet18") / 3600


@functools.cache
def _rate(kind: str) -> float:
    """Millions of multiplications, in network passes, that the card does in a second."""
    from training.resolve import cost, resolve

    spec = TrialSpec.model_validate(CALIBRATION | {"model": {"name": kind}, "train": {"epochs": 1}})
    resolved, data = resolve(spec, ""), DATA["cifar10"]
    whole = resolved.model_copy(update={"train": resolved.train.model_copy(update={"validate_every": 10**9})})
    return cost(whole, data.train) * _multiplications(resolved.model.model_dump_json(), data) / MEASURED[kind]


@functools.cache
def _multiplications(model: str, data: Images) -> float:
    """Multiplications of one image's way forward through a network. Built without memory."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from training.models import build

    with torch.device("meta"):
        channels = data.shape[0]
        network = build(
            Choice.model_validate(json.loads(model)),
            data.shape,
            data.classes,
            [0.0] * channels,
            [1.0] * channels,
        ).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.empty(1, *data.shape))
    return counter.get_total_flops() / 2

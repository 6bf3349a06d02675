"""Milliseconds per training step, ours beside a straight-line loop, in interleaved pairs on one thread.

    python tests/bench/steps.py [--pairs 25] [--smoke]

Ours is the step that trials run: batch, search, loss, optimiser, sums of every loss term. The straight-line loop is
what a researcher would write in one function, with the clean softmax computed once per search, as ours does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data import Dataset, Images
from training.fit import Training
from training.randomness import generator
from training.resolve import resolve
from training.spec import TrialSpec

EPS, STEPS = 8 / 255, 10
STEP_SIZE = EPS / 4
BETA, GAMMA = 6.0, 0.5


def search(net: nn.Module, x: Tensor, start: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    x_adv = start
    for _ in range(STEPS):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(loss_of(net(x_adv)), x_adv)
        with torch.no_grad():
            x_adv = x_adv + STEP_SIZE * grad.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    return x_adv


def pgd_at(net: nn.Module, x: Tensor, y: Tensor, standard: nn.Module) -> Tensor:
    net.eval()
    start = x + torch.empty_like(x).uniform_(-EPS, EPS)
    x_adv = search(net, x, start, lambda logits: F.cross_entropy(logits, y, reduction="sum"))
    net.train()
    return F.cross_entropy(net(x_adv), y)


def trades_points(net: nn.Module, x: Tensor) -> Tensor:
    net.eval()
    with torch.no_grad():
        clean = net(x).softmax(1)
    start = x + 0.001 * torch.randn_like(x)
    x_adv = search(net, x, start, lambda q: F.kl_div(q.log_softmax(1), clean, reduction="sum"))
    net.train()
    return x_adv


def trades_loss(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    robust = F.kl_div(adv.log_softmax(1), clean.softmax(1), reduction="batchmean")
    return F.cross_entropy(clean, y) + BETA * robust


def trades(net: nn.Module, x: Tensor, y: Tensor, standard: nn.Module) -> Tensor:
    x_adv = trades_points(net, x)
    return trades_loss(net(x), net(x_adv), y)


def hat(net: nn.Module, x: Tensor, y: Tensor, standard: nn.Module) -> Tensor:
    x_adv = trades_points(net, x)
    with torch.no_grad():
        label = standard(x_adv).argmax(1)
    helped = F.cross_entropy(net(x + 2 * (x_adv - x)), label)
    return trades_loss(net(x), net(x_adv), y) + GAMMA * helped


LOSSES = {
    "pgd-at": (pgd_at, {}),
    "trades": (trades, {"beta": BETA}),
    "hat": (hat, {"beta": BETA, "gamma": GAMMA}),
}
NETWORKS = {
    "small-cnn, 1x8x8, batch 64": ({"name": "small-cnn"}, (1, 8, 8), 64),
    "resnet18 width 16, 3x32x32, batch 16": ({"name": "resnet18", "width": 16}, (3, 32, 32), 16),
}


def training_of(method: str, parameters: dict[str, float], model: dict, shape: tuple, batch: int) -> Training:
    count = 4 * batch
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), generator=draw, dtype=torch.uint8)
    data = Images(images, torch.arange(count) % 10)
    dataset = Dataset(data, data, 10, (0.5,) * shape[0], (0.25,) * shape[0], "noise")
    spec = resolve(
        TrialSpec.model_validate(
            {
                "method": {"name": method, **parameters},
                "data": {"name": "digits"},
                "model": model,
                "train": {"epochs": 1000, "batch_size": batch},
                "attack": {"eps": EPS, "steps": STEPS},
                "selection": "test",
            }
        )
    )
    cpu = torch.device("cpu")
    helper: dict[str, nn.Module] = {}
    if method == "hat":
        standard = training_of("standard", {}, model, shape, batch)
        helper = {"standard": standard.networks["student"]}
    return Training(spec, dataset, Path(tempfile.gettempdir()), "bench", cpu, helper)


def straight_line(method: str, ours: Training, batch: int) -> Callable[[], None]:
    """The same step without any of our parts, on a copy of the same network and data."""
    again = training_of(
        method, LOSSES[method][1], ours.spec.model.model_dump(), tuple(ours.facts["shape"]), batch
    )
    net = again.networks["student"].train()
    standard = again.networks.get("standard", net)
    images, labels = ours.batches.images, ours.batches.labels
    sgd = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True)
    loss_of = LOSSES[method][0]
    total = torch.zeros(())

    def step() -> None:
        nonlocal total
        rows = torch.arange(batch)
        x, y = images[rows].float() / 255, labels[rows]
        loss = loss_of(net, x, y, standard)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        total = total + loss.detach()

    return step


def timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--smoke", action="store_true", help="two pairs of the small network only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pairs = 2 if given.smoke else given.pairs
    print(
        f"{'network':<38} {'method':<8} {'ours ms':>9} {'loop ms':>9} {'ratio':>6}   (medians of {pairs} pairs)"
    )
    for label, (model, shape, batch) in list(NETWORKS.items())[: 1 if given.smoke else None]:
        for method, (_, parameters) in LOSSES.items():
            ours = training_of(method, parameters, model, shape, batch)
            loop = straight_line(method, ours, batch)
            order = ours.batches.order(generator(0, "order"))

            def ours_step(ours: Training = ours, order: Tensor = order) -> None:
                ours._step(order)
                ours.step %= len(ours.batches)

            for step in (ours_step, loop):
                timed(step)
                timed(step)
            times = []
            for pair in range(pairs):  # who goes first takes turns
                first, second = (timed(step) for step in ((ours_step, loop), (loop, ours_step))[pair % 2])
                times.append((first, second) if pair % 2 == 0 else (second, first))
            ratio = statistics.median(a / b for a, b in times)
            a, b = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{label:<38} {method:<8} {a:>9.1f} {b:>9.1f} {ratio:>6.3f}", flush=True)


if __name__ == "__main__":
    main()

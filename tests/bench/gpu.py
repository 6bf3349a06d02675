"""Training steps on a GPU: PGD-AT, TRADES and HAT with ResNet-18 and PGD-10, in every arithmetic we offer.

    PYTHONPATH=. python tests/bench/gpu.py [--out FILE] [--budget SECONDS]
    PYTHONPATH=. python tests/bench/gpu.py --device cpu --smoke

Cells: batch 128 and 1024; fp32 and bf16; channels_last and torch.compile each off and on. Ours is the step that
trials run, crops and mirrors included, on random images of CIFAR's shape. Beside it, in every cell that is not
compiled, runs the straight-line loop of steps.py on the same batches, in turn. Time is from CUDA events, the median of
three rounds after two steps to warm up; an epoch is 50,000 images. Floating-point operations are counted by torch on
the real network, pass by pass; the share is of the bf16 matrix product measured here first, whatever the precision.
Cells that would not fit into the budget are skipped, and named. Needs torch, NumPy, pydantic and PyYAML.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import steps
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from training.data import Dataset, Images
from training.fit import Training
from training.models import build
from training.randomness import generator
from training.recipes import build as build_method
from training.resolve import resolve
from training.spec import Choice, MethodChoice, TrialSpec

EPOCH = 50_000
CLASSES = 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
METHODS = {name: {"name": name, **parameters} for name, (_, parameters) in steps.LOSSES.items()}
EAGER_S, COMPILE_S = 15.0, 60.0  # what a cell may take: a guess, until one took longer


@dataclass(frozen=True)
class Scale:
    """How large everything is: for measuring, or only to run every line once."""

    model: Choice
    shape: tuple[int, int, int]
    images: int
    batches: tuple[int, ...]
    matrix: int
    backend: str
    rounds: int
    steps: int  # at most, in a row

    def images_and_labels(self) -> Images:
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (self.images, *self.shape), generator=draw, dtype=torch.uint8)
        return Images(images, torch.randint(0, CLASSES, (self.images,), generator=draw))


FULL = Scale(Choice(name="resnet18"), (3, 32, 32), EPOCH, (128, 1024), 8192, "inductor", rounds=3, steps=5)
SMOKE = Scale(
    Choice(name="small-cnn", width=2, hidden=8), (3, 8, 8), 24, (4, 8), 128, "eager", rounds=1, steps=1
)


@dataclass(frozen=True)
class Setting:
    batch: int
    precision: str
    channels_last: bool
    compile: bool

    def __str__(self) -> str:
        flags = [self.precision, "channels_last" * self.channels_last, "compile" * self.compile]
        return f"batch {self.batch} " + " ".join(filter(None, flags))


@dataclass
class Cell:
    """One measurement; ``ratio`` is ours over the straight-line loop, ``share`` of the bf16 matrix product."""

    method: str
    setting: Setting
    ms: float
    epoch_s: float
    tflops: float
    share: float
    ratio: float | None
    peak_gb: float | None


def settings(scale: Scale) -> list[Setting]:
    """The ones that tell most first: what is not compiled, then compiled in the fastest arithmetic."""
    every = [
        Setting(batch, precision, last, compiled)
        for batch, precision, last, compiled in itertools.product(
            scale.batches, ("bf16", "fp32"), (True, False), (False, True)
        )
    ]
    return sorted(every, key=lambda s: (s.compile, s.compile and s.precision == "fp32", not s.channels_last))


class Clock:
    """Milliseconds on the device."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def __call__(self, step: Callable[[], object], times: int = 1) -> float:
        """Of one of ``times`` steps in a row."""
        if not self.cuda:
            began = time.perf_counter()
            for _ in range(times):
                step()
            return (time.perf_counter() - began) * 1000 / times
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(times):
            step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / times


def matmul_rate(size: int, device: torch.device) -> float:
    """Floating-point operations a second of a bf16 matrix product, the median of ten after three."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    clock = Clock(device)
    clock(lambda: a @ b, 3)
    return 2 * size**3 / statistics.median(clock(lambda: a @ b) for _ in range(10)) * 1000


def training_of(scale: Scale, setting: Setting, train: Images, device: torch.device) -> Training:
    """A HAT training, whose networks the other methods use too: so nothing is compiled twice."""
    data = Dataset(train, Images(train.images[:1], train.labels[:1]), CLASSES, MEAN, STD, "noise")
    arithmetic = {"channels_last": setting.channels_last, "compile": setting.compile}
    facts = {
        "method": METHODS["hat"],
        "data": {"name": "digits", "augment": "crop-flip"},
        "model": scale.model,
        "train": {"batch_size": setting.batch, "lr": 0.01, "precision": setting.precision} | arithmetic,
        "attack": {"eps": steps.EPS, "steps": steps.STEPS},
        "selection": "test",
    }
    spec = resolve(TrialSpec.model_validate(facts))
    helpers = {"standard": build(spec.model, scale.shape, CLASSES, MEAN, STD)}
    training = Training(spec, data, Path(tempfile.gettempdir()), "bench", device, helpers)
    training.forward.backend = scale.backend
    return training


def our_step(training: Training, order: Tensor) -> Callable[[], None]:
    def step() -> None:
        training._step(order)
        training.step %= len(training.batches)

    return step


def straight_line(method: str, training: Training, order: Tensor, device: torch.device) -> Callable[[], None]:
    """The loop of steps.py on copies of the same networks, with autocast around the whole loss for bf16."""
    loss_of = steps.LOSSES[method][0]
    net, standard = copy.deepcopy(training.networks["student"]), training.networks["standard"]
    sgd = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True)
    bf16 = training.spec.train.precision == "bf16"
    total, count = torch.zeros((), device=device), itertools.count()

    def step() -> None:
        nonlocal total
        i = next(count) % len(training.batches)
        x, y = training.batches.batch(order, i, generator(0, "augmentation", 0, i, device))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(net, x, y, standard)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        total = total + loss.detach()

    return step


def operations(scale: Scale) -> dict[str, float]:
    """Floating-point operations per image of one step of each method.

    Three kinds of passes are counted on the real network: a forward; a forward and the gradient with respect to
    the image, as in a search; a forward and the gradient with respect to the weights, as in the loss.
    """
    network = build(scale.model, scale.shape, CLASSES, MEAN, STD)
    x = torch.rand(2, *scale.shape)

    def counted(run: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / len(x)

    loss = counted(lambda: network(x).sum().backward())
    network.requires_grad_(False)
    forward = counted(lambda: network(x))
    x.requires_grad_()
    search = steps.STEPS * counted(lambda: network(x).sum().backward())
    return {
        "pgd-at": search + loss,
        "trades": forward + search + 2 * loss,  # the clean softmax once, then clean and adv
        "hat": forward + search + forward + 3 * loss,  # and the standard network's label, and the helper
    }


class Bench:
    """All cells, within a budget of seconds from now on."""

    def __init__(self, scale: Scale, device: torch.device, budget: float) -> None:
        self.scale, self.device, self.ends = scale, device, time.monotonic() + budget
        self.allowed = {False: EAGER_S, True: COMPILE_S}
        self.clock = Clock(device)
        self.images = scale.images_and_labels()
        self.operations = operations(scale)
        self.rate = matmul_rate(scale.matrix, device)
        self.skipped: list[str] = []
        self.failed: list[str] = []

    def cells(self) -> Iterator[Cell]:
        for setting in settings(self.scale):
            if not self.fits(setting):
                self.skipped += [f"{method} {setting}" for method in METHODS]
                continue
            training = training_of(self.scale, setting, self.images, self.device)
            order = training.batches.order(generator(0, "order"))
            for method in METHODS:
                what = f"{method} {setting}"
                if not self.fits(setting):
                    self.skipped.append(what)
                    continue
                try:
                    cell = self.cell(method, setting, training, order)
                except (
                    RuntimeError
                ) as error:  # too little memory, no compiler: told at the end, spoils no other cell
                    self.failed.append(f"{what}: {str(error).strip().splitlines()[0]}")
                else:
                    yield cell
            del training
            torch.compiler.reset()

    def fits(self, setting: Setting) -> bool:
        return time.monotonic() + self.allowed[setting.compile] < self.ends

    def cell(self, method: str, setting: Setting, training: Training, order: Tensor) -> Cell:
        began = time.monotonic()
        choice = MethodChoice.model_validate(METHODS[method])
        training.method = build_method(choice, training.spec.attack)
        training.sums.clear()
        ours = our_step(training, order)
        peak = self.peak_gb(lambda: self.clock(ours))
        loop = None if setting.compile else straight_line(method, training, order, self.device)
        ms, ratio = self.measure(ours, loop)
        self.allowed[setting.compile] = max(self.allowed[setting.compile], time.monotonic() - began)
        rate = self.operations[method] * setting.batch / ms * 1000
        epoch_s = ms / 1000 * EPOCH / setting.batch
        return Cell(method, setting, ms, epoch_s, rate / 1e12, rate / self.rate, ratio, peak)

    def peak_gb(self, run: Callable[[], object]) -> float | None:
        """Most memory that anything held while ``run`` ran; None on a CPU."""
        if not self.clock.cuda:
            run()
            return None
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 1e9

    def measure(
        self, ours: Callable[[], None], loop: Callable[[], None] | None
    ) -> tuple[float, float | None]:
        """Milliseconds of our step, and its ratio to the loop's: medians of rounds in which they take turns."""
        rounds, clock = range(self.scale.rounds), self.clock
        if loop:
            clock(loop, 2)
        times = max(1, min(self.scale.steps, round(300 / clock(ours))))
        if loop is None:
            return statistics.median(clock(ours, times) for _ in rounds), None
        pairs = [(clock(ours, times), clock(loop, times)) for _ in rounds]
        return statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


HEADER = (
    f"{'method':<7} {'batch':>5} {'prec':<4} {'channels':<8} {'compile':<7} {'ms/step':>9} {'s/epoch':>8}"
    f" {'TFLOP/s':>8} {'of bf16':>7} {'ours/loop':>9} {'GB':>6}"
)


def line(cell: Cell) -> str:
    s = cell.setting
    ratio = f"{cell.ratio:9.3f}" if cell.ratio else f"{'':>9}"
    peak = f"{cell.peak_gb:6.1f}" if cell.peak_gb else f"{'':>6}"
    return (
        f"{cell.method:<7} {s.batch:>5} {s.precision:<4} {'last' if s.channels_last else 'first':<8}"
        f" {'yes' if s.compile else 'no':<7} {cell.ms:>9.2f} {cell.epoch_s:>8.1f} {cell.tflops:>8.2f}"
        f" {cell.share:>7.1%} {ratio} {peak}"
    )


def report(bench: Bench, cells: list[Cell], out: Path | None) -> None:
    if out is None:
        return
    name = torch.cuda.get_device_name() if bench.clock.cuda else "cpu"
    facts = {
        "device": name,
        "torch": torch.__version__,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "bf16_matmul_tflops": bench.rate / 1e12,
        "gflop_per_image": {method: flop / 1e9 for method, flop in bench.operations.items()},
        "cells": [asdict(cell) for cell in cells],
        "skipped": bench.skipped,
        "failed": bench.failed,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(facts, indent=1))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--smoke", action="store_true", help="every cell once, tiny: nothing to learn from")
    parser.add_argument("--out", type=Path, help="JSON file; default: $OUT/bench-gpu.json where OUT is set")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds; default 420")
    given = parser.parse_args(arguments)
    out = given.out or (Path(os.environ["OUT"]) / "bench-gpu.json" if os.environ.get("OUT") else None)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("bench-gpu: there is no GPU here, nothing was measured")
        return 0
    bench = Bench(SMOKE if given.smoke else FULL, torch.device(given.device), given.budget)
    print(
        f"bf16 matrix product of size {bench.scale.matrix}: {bench.rate / 1e12:.3g} TFLOP/s\n{HEADER}",
        flush=True,
    )
    cells: list[Cell] = []
    for cell in bench.cells():
        print(line(cell), flush=True)
        cells.append(cell)
        report(bench, cells, out)
    for what, names in (("skipped for time", bench.skipped), ("failed", bench.failed)):
        print("".join(f"{what}: {name}\n" for name in names), end="")
    report(bench, cells, out)
    return 1 if bench.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The loop: a training as an iterator of events, which can be stopped at any step and goes on bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training import checkpoint
from training.data import Dataset, Images, Stream, split
from training.data.batches import Batches
from training.errors import Diverged, Stopped, UserError
from training.judge import Judge
from training.method import Method
from training.models import build as build_model
from training.models.heads import Head
from training.precision import Forward
from training.randomness import generator, seed_of
from training.recipes import build as build_method
from training.schedules import build as build_schedule
from training.sgd import SGD
from training.spec import Choice, TrialSpec
from training.views import Moment

Event = dict[str, Any]
LOOK_EVERY = 50  # steps between two looks at whether the loss is still a number


@dataclass
class Control:
    """How the outside reaches into a training.

    Args:
        stop: asked once per step; why to stop, or None to go on.
        deadline: a ``time.monotonic()`` after which to stop (why: ``time``), or None.
        checkpoint_every_s: most seconds between two checkpoints; they come sooner where they are cheap.
    """

    stop: Callable[[], str | None] = lambda: None
    deadline: float | None = None
    checkpoint_every_s: float = 300.0

    def why(self) -> str | None:
        """Why to stop now, or None."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "time"
        return self.stop()


def fit(
    spec: TrialSpec,
    data: Dataset,
    folder: Path,
    *,
    key: str,
    device: torch.device,
    helpers: Mapping[str, nn.Module],
    control: Control,
) -> Iterator[Event]:
    """Train, going on from the checkpoint in ``folder`` if there is one.

    Yields:
        ``epoch``, ``checkpoint`` and at last ``trained`` events, as :mod:`orchestrate.events` documents them.

    Raises:
        Stopped: on request, after a checkpoint that resuming starts from.
        Diverged: when the loss or a weight is no finite number; nothing of it is saved.
        UserError: the checkpoint is of another spec, or the data are too few for one batch.
        OSError: a checkpoint cannot be written; the one before stays.
    """
    training = Training(spec, data, folder, key, device, helpers)
    training.restore()
    yield from training.run(control)


class _Due:
    """Says when the next checkpoint is due: when saving would cost 2 % of the time since the last one.

    Never within 2 seconds of the last one, and never later than ``longest`` seconds after it.
    """

    def __init__(self, longest: float) -> None:
        self.longest, self.interval, self.saved = longest, min(2.0, longest), time.monotonic()

    def now(self) -> bool:
        return time.monotonic() - self.saved > self.interval

    @contextmanager
    def saving(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.saved = time.monotonic()
        self.interval = min(max(50 * (self.saved - began), 2.0), self.longest)


class Training:
    """Everything that moves while a network is trained, and nothing else."""

    def __init__(
        self,
        spec: TrialSpec,
        data: Dataset,
        folder: Path,
        key: str,
        device: torch.device,
        helpers: Mapping[str, nn.Module],
    ) -> None:
        self.spec, self.folder, self.key, self.device = spec, folder, key, device
        # Algorithms chosen by timing would make a resumed run differ from an uninterrupted one on a GPU.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self.method: Method = build_method(spec.method, spec.attack)
        self.rates = build_schedule(spec.train.schedule, spec.train.lr)
        self.forward = Forward(spec.train, device)
        self.facts = {
            "shape": list(data.train.images.shape[1:]),
            "classes": data.classes,
            "mean": list(data.mean),
            "std": list(data.std),
        }
        self.networks = self._networks(data, helpers)
        self.state: dict[str, Tensor] = {}
        self.optimizer = SGD(
            self._groups(),
            lr=spec.train.lr,
            momentum=spec.train.momentum,
            nesterov=spec.train.nesterov,
            weight_decay=spec.train.weight_decay,
        )
        train, held_out = _parts(spec, data)
        self.batches = Batches(
            train, spec.train.batch_size, device, spec.data.augment, spec.train.channels_last
        )
        self.labels = torch.eye(data.classes, device=device)
        self.judge = Judge(spec, held_out, data.classes, device, self.forward)
        self.epoch, self.step = 0, 0
        self.sums: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.best: dict[str, float] = {}
        self.complete = False

    def run(self, control: Control) -> Iterator[Event]:
        """The epochs that are left."""
        due = _Due(control.checkpoint_every_s)
        while self.epoch < self.spec.train.epochs:
            began = time.perf_counter()
            order = self.batches.order(generator(self.spec.seed, "order", self.epoch))
            while self.step < len(self.batches):
                why = control.why()
                if why or due.now():
                    self.seconds += time.perf_counter() - began
                    began = time.perf_counter()
                    self._assert_finite()
                    with due.saving():
                        event = self.save()
                    yield event
                if why:
                    raise Stopped(why)
                self._step(order)
            yield from self._end_of_epoch(began)
        self.complete = True
        yield self.save()
        yield self.trained()

    def trained(self) -> Event:
        """The event that ends a training."""
        metrics = {name: value for name, value in self.best.items() if name != "epoch"}
        return {
            "event": "trained",
            "epochs": self.spec.train.epochs,
            "best_epoch": int(self.best["epoch"]),
            "metrics": metrics,
        }

    def _step(self, order: Tensor) -> None:
        seed, train = self.spec.seed, self.spec.train
        now = Moment(self.epoch, self.step, len(self.batches), train.epochs)
        draw = generator(seed, "augmentation", self.epoch, self.step, self.device)
        x, y = self.batches.batch(order, self.step, draw)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates.lr(now)
            if self.rates.momentum is not None:
                group["momentum"] = self.rates.momentum(now)
        log = self.method.step(
            self.networks,
            self.optimizer,
            x,
            self.labels[y],
            now,
            forward=self.forward,
            seed=seed,
            state=self.state,
        )
        for name, value in log.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.step += 1
        if self.step % LOOK_EVERY == 0:
            self._assert_finite()

    def _end_of_epoch(self, began: float) -> Iterator[Event]:
        self._assert_finite()
        steps, epoch = len(self.batches), self.epoch
        metrics = {
            "loss" if name == "loss" else f"loss/{name}": float(s) / steps for name, s in self.sums.items()
        }
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        improved = False
        last = epoch + 1 == self.spec.train.epochs
        if last or (epoch + 1) % self.spec.train.validate_every == 0:
            judged = self.judge(self.networks[self.method.evaluate], epoch)
            metrics |= judged
            chosen = f"val/{self.method.select}"
            improved = not self.best or judged[chosen] > self.best[chosen]
        self.seconds += time.perf_counter() - began
        metrics["seconds"] = self.seconds
        metrics["images_per_second"] = steps * self.batches.batch_size / self.seconds
        self.epoch, self.step, self.sums, self.seconds = epoch + 1, 0, {}, 0.0
        yield {"event": "epoch", "epoch": epoch, "step": steps, "metrics": metrics, "best": improved}
        if improved:
            self.best = {"epoch": float(epoch), **judged}
            yield self._save_best(epoch)

    def _assert_finite(self) -> None:
        total = self.sums.get("loss")
        if total is not None and not math.isfinite(float(total)):
            raise Diverged(
                f"the loss stopped being a finite number in epoch {self.epoch}, by step {self.step}"
            )

    def save(self) -> Event:
        """Write ``last.pt``; the one before becomes ``previous.pt``."""
        content = {
            "format": checkpoint.FORMAT,
            "key": self.key,
            "spec": self.spec.dump(),
            "facts": self.facts,
            "epoch": self.epoch,
            "step": self.step,
            "complete": self.complete,
            "networks": {name: net.state_dict() for name, net in self.networks.items() if self._moves(name)},
            "optimizer": self.optimizer.state_dict(),
            "state": {name: tensor.detach() for name, tensor in self.state.items()},
            "sums": self.sums,
            "seconds": self.seconds,
            "best": self.best,
        }
        checksum = checkpoint.save(content, self.folder / checkpoint.LAST, self.folder / checkpoint.PREVIOUS)
        return self._saved(checkpoint.LAST, checksum, self.epoch, best=False)

    def restore(self) -> bool:
        """Go back to the latest checkpoint that can be trusted; False when there is none."""
        content = checkpoint.load_latest(self.folder, self.key, self.device)
        if content is None:
            return False
        for name, state in content["networks"].items():
            self.networks[name].load_state_dict(state)
        self.optimizer.load_state_dict(content["optimizer"])
        self.state.update(content["state"])
        self.epoch, self.step = content["epoch"], content["step"]
        self.sums, self.seconds, self.best = content["sums"], content["seconds"], content["best"]
        self.complete = content["complete"]
        return True

    def _save_best(self, epoch: int) -> Event:
        content = {
            "format": checkpoint.FORMAT,
            "key": self.key,
            "spec": self.spec.dump(),
            "facts": self.facts,
            "epoch": epoch,
            "network": self.networks[self.method.evaluate].state_dict(),
        }
        checksum = checkpoint.save(content, self.folder / checkpoint.BEST)
        return self._saved(checkpoint.BEST, checksum, epoch, best=True)

    def _saved(self, name: str, checksum: str, epoch: int, best: bool) -> Event:
        facts = {"epoch": epoch, "step": self.step, "file": name, "sha256": checksum, "best": best}
        return {"event": "checkpoint"} | facts

    def _networks(self, data: Dataset, helpers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        form = torch.channels_last if self.spec.train.channels_last else torch.contiguous_format
        student = self._network(self.spec.model, "initialisation", data, self.method.head)
        if self.method.start is not None:
            _begin_from(helpers[self.method.start.name], student, self.method.start.name)
        student = _placed(student, self.device, form).train()
        networks = {"student": student}
        for name, guide in self.method.guides.items():

            def build(
                model: str | None, parameters: Mapping[str, Any], purpose: str = f"initialisation.{name}"
            ) -> nn.Module:
                own = self.spec.model if model is None else Choice(name=model, **parameters)
                return self._network(own, purpose, data)

            networks[name] = _placed(guide.make(student, helpers, build), self.device, form)
        return networks

    def _network(self, model: Choice, purpose: str, data: Dataset, head: Head | None = None) -> nn.Module:
        """A network with weights that (seed, purpose) stand for."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.spec.seed, purpose))
            _, c, h, w = data.train.images.shape
            return build_model(model, (c, h, w), data.classes, data.mean, data.std, head)

    def _groups(self) -> list[dict[str, Any]]:
        """What the optimiser moves: each weight once, and apart what weight decay leaves out."""
        trained = [self.networks["student"]]
        trained += [self.networks[name] for name, guide in self.method.guides.items() if guide.trains]
        norms = {
            id(p)
            for network in trained
            for module in network.modules()
            if isinstance(module, _BatchNorm)
            for p in module.parameters()
        }
        weights = list({id(p): p for network in trained for p in network.parameters()}.values())
        if self.spec.train.decay_norms:
            return [{"params": weights}]
        return [
            {"params": [p for p in weights if id(p) not in norms]},
            {"params": [p for p in weights if id(p) in norms], "weight_decay": 0.0},
        ]

    def _moves(self, name: str) -> bool:
        """Is the network part of what resuming needs? A helper is not: it is loaded from where it came."""
        return name == "student" or not self.method.guides[name].helpers


def _begin_from(trained: nn.Module, student: nn.Module, name: str) -> None:
    """Give the student the weights of a trained network of the same shape."""
    try:
        student.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        why = str(error).partition("\n")[2].strip().partition("\n")[0]
        raise UserError(f"helpers.{name}: is another network than the one to train: {why}") from None


def _placed(network: nn.Module, device: torch.device, form: torch.memory_format) -> nn.Module:
    return network.to(device).to(memory_format=form)  # type: ignore[call-overload, no-any-return]


def _parts(spec: TrialSpec, data: Dataset) -> tuple[Images | Stream, Images]:
    """Training images, and those that selection looks at."""
    if spec.selection == "test":
        return data.train, data.test
    return split(data.train, spec.data.val, spec.data.split_seed)

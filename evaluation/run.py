"""Evaluates one network: every attack, every image, resumable, with one verdict per image and attack."""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evaluation import outcomes
from evaluation.attacks import Attack, UntargetedPGD, inside
from evaluation.autoattack import MEMBERS, Member, members
from evaluation.folding import exact, folded
from evaluation.outcomes import Outcome
from evaluation.progress import Progress, Verdicts, discard
from evaluation.scales import at_scales
from evaluation.spec import EvaluationSpec
from training.errors import Stopped, UserError
from training.spec import AttackSpec

if TYPE_CHECKING:
    from training.data import Images

Tell = Callable[[str, int, int], None]
Stop = Callable[[], str | None]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ASK_EVERY_S = 0.2  # time between two questions whether to stop, which may cost a look at a shared disk

log = logging.getLogger(__name__)


def evaluate(
    network: nn.Module,
    test: Images,
    spec: EvaluationSpec,
    threat: AttackSpec,
    *,
    key: str,
    outcome: Path,
    device: torch.device,
    seed: int = 0,
    tell: Tell,
    stop: Stop,
) -> dict[str, float]:
    """Attack ``network`` on test images, write the per-image outcome, and say how it did.

    Attacks are run on the images that are right when clean. Members of AutoAttack are run as its cascade: in the
    library's order, each on the images still standing, so the metric and column of a member speak of everything up
    to it ("right under APGD-CE and APGD-T"), and only the first speaks of itself alone. ``pgd`` does not take
    part in the cascade. Searches use a copy with BatchNorm folded; verdicts are the original network's, in float32. A
    network with a hypersphere head is attacked at its own scale and at 1 (names ending in ``-unscaled``); ``robust``
    is what stands at both.

    Args:
        network: maps images in [0, 1] to logits [N, K]; left as it is.
        test: the test images; the first ``spec.images`` of them are used.
        threat: norm and radius; the rest of it is about training.
        key: of the trial, for the outcome's metadata.
        outcome: the Parquet file to write. Progress is kept beside it in a folder with the suffix ``.partial``,
            from which an interrupted evaluation goes on. A file that is there for the same network is not made
            again.
        device: where to compute.
        seed: of the attacks.
        tell: called with attack, images done and images to do, when an attack starts and after every batch.
        stop: asked several times a second; why to stop, or None.

    Returns:
        Accuracies in [0, 1]: ``clean``, ``robust`` (right on the clean image and under every attack that ran),
        and one per attack that ran.

    Raises:
        Stopped: when ``stop`` said so.
        UserError: more images are asked for than there are, or an attack that so few classes do not allow.
        OSError: progress or outcome cannot be written.
    """
    images, labels = _first(test, spec.images)
    identity = {
        "key": key,
        "evaluation": spec.digest(threat),
        "checkpoint": spec.checkpoint,
        "network": _digest(network.state_dict()),
        "data": _digest({"images": images, "labels": labels}),
        "seed": seed,
    }
    partial = outcome.with_suffix(".partial")
    known = _known(outcome, identity)
    if known is None:
        benches = {
            ending: _Bench(version, images, labels, threat, device, spec.batch_size, stop)
            for ending, version in at_scales(network).items()
        }
        known = _measure(benches, spec, seed, Progress(partial, identity), tell, identity)
        outcomes.write(known, outcome)
    discard(partial)
    return known.metrics()


def check(spec: EvaluationSpec, test: Images, classes: int) -> None:
    """Raise the UserError that :func:`evaluate` would, for data that do not allow what is asked."""
    _enough(test, spec.images)
    _cascade(spec.attacks, classes)


class _Bench:
    """One network and the images it is tried on, on one device."""

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: AttackSpec,
        device: torch.device,
        batch_size: int,
        stop: Stop,
    ) -> None:
        self.images, self.labels = images.to(device), labels.to(device)
        self.threat, self.device, self.batch_size = threat, device, batch_size
        self.network = copy.deepcopy(network).to(device).eval().requires_grad_(False)
        quick = folded(self.network, self._pixels(slice(0, batch_size)))
        self.folded = quick is not None
        self.searched = _Watched(quick or self.network, stop)
        self.judge = _Watched(self.network, stop)

    def clean(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], int]:
        """Predictions [N] and margins [N] on the clean images, and the number of classes."""
        with torch.no_grad(), exact():
            parts = [self.judge(self._pixels(part)) for part in _slices(len(self.images), self.batch_size)]
        logits = torch.cat(parts)
        own = self.labels[:, None]
        margins = logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(dim=1)
        # A network that answers with NaN is wrong, whatever argmax makes of it.
        predictions = torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), -1)
        return predictions.cpu().numpy(), margins.float().cpu().numpy(), logits.shape[1]

    def attack(self, attack: Attack, indices: Indices) -> Verdicts:
        """Run one attack on one batch."""
        began = time.monotonic()
        at = torch.from_numpy(indices).to(self.device)
        x, labels = self._pixels(at), self.labels[at]
        with exact():  # a point found in TF32 may lie just on the right side again in float32
            x_adv = attack(self.searched, x, labels, at)
        valid = inside(x_adv, x, self.threat)
        with torch.no_grad(), exact():
            logits = self.judge(x_adv)
        wrong = (logits.argmax(dim=1) != labels) | ~logits.isfinite().all(dim=1)
        broken = (wrong & valid).cpu().numpy()
        return Verdicts(broken, int((~valid).sum()), time.monotonic() - began)

    def _pixels(self, which: slice | Tensor) -> Tensor:
        return self.images[which].float().div(255)


class _Watched(nn.Module):
    """A network that can be stopped at any forward pass, so that a request need not wait for a batch to end."""

    def __init__(self, network: nn.Module, stop: Stop) -> None:
        super().__init__()
        self.network = network
        self.stop = stop
        self.ask_at = 0.0
        self.eval()  # a search restores the mode that it finds here, and the network below with it

    def forward(self, x: Tensor) -> Tensor:
        now = time.monotonic()
        if now >= self.ask_at:
            self.ask_at = now + ASK_EVERY_S
            why = self.stop()
            if why:
                raise Stopped(why)
        logits: Tensor = self.network(x)
        return logits


def _measure(
    benches: dict[str, _Bench],
    spec: EvaluationSpec,
    seed: int,
    progress: Progress,
    tell: Tell,
    identity: dict[str, Any],
) -> Outcome:
    """All verdicts of one evaluation; ``benches`` by the ending of their attacks' names."""
    bench = benches[""]
    predictions, margins, classes = bench.clean()
    labels = bench.labels.cpu().numpy()
    correct = predictions == labels
    cascade, left_out = _cascade(spec.attacks, classes)
    if left_out:
        log.warning("AutoAttack on %d classes is %s only", classes, " and ".join(cascade))
    campaign = _Campaign(progress, tell)
    robust = correct
    for ending, on in benches.items():
        left = correct
        if "pgd" in spec.attacks:
            step, restarts = spec.pgd_step_size, spec.pgd_restarts
            pgd = UntargetedPGD(bench.threat, spec.pgd_steps, classes, seed, step, restarts)
            robust = robust & campaign.run(on, f"pgd{ending}", pgd, correct)
        for name in cascade:
            member = Member(name, bench.threat, classes, seed)
            left = campaign.run(on, f"{name}{ending}", member, left)
        if "autoattack" in spec.attacks:
            campaign.standing[f"autoattack{ending}"] = left
        robust = robust & left
    columns = {
        "index": np.arange(len(labels)),
        "label": labels,
        "clean_prediction": predictions,
        "clean_margin": margins,
        "correct": correct,
        **campaign.standing,
        "robust": robust,
    }
    facts = {
        "spec": spec.model_dump(mode="json"),
        "threat": {"norm": bench.threat.norm, "eps": bench.threat.eps},
        "classes": classes,
        "cascade": cascade,
        "left_out": left_out,
        "attacked": campaign.attacked,
        "strays": campaign.strays,
        "seconds": campaign.seconds,
        "folded": bench.folded,
        "versions": {name: version(name) for name in ("torch", "pyautoattack", "parapet")},
    }
    return Outcome(columns, identity | facts)


class _Campaign:
    """Attacks, one after the other, and what is left standing after each."""

    def __init__(self, progress: Progress, tell: Tell) -> None:
        self.progress, self.tell = progress, tell
        self.standing: dict[str, Mask] = {}
        self.attacked: dict[str, int] = {}
        self.strays: dict[str, int] = {}
        self.seconds: dict[str, float] = {}

    def run(self, bench: _Bench, name: str, attack: Attack, among: Mask) -> Mask:
        """Attack on a bench the images that ``among`` [N] marks; marks those of them that are still right."""
        indices = np.flatnonzero(among)
        left = among.copy()
        self.attacked[name], self.strays[name], self.seconds[name] = len(indices), 0, 0.0
        self.tell(name, 0, len(indices))
        for number, part in enumerate(_slices(len(indices), bench.batch_size)):
            batch = indices[part]
            verdicts = self.progress.load(name, number, batch)
            if verdicts is None:
                verdicts = bench.attack(attack, batch)
                self.progress.save(name, number, batch, verdicts)
            left[batch] = ~verdicts.broken
            self.strays[name] += verdicts.strays
            self.seconds[name] += verdicts.seconds
            self.tell(name, min(part.stop, len(indices)), len(indices))
        if self.strays[name]:
            log.warning("%s left the ball on %d images; those do not count", name, self.strays[name])
        self.standing[name] = left
        return left


def _cascade(asked: tuple[str, ...], classes: int) -> tuple[list[str], list[str]]:
    """AutoAttack's members to run, in the library's order, and those that so few classes leave out of it.

    Raises UserError for a member that was asked for by name and cannot be run.
    """
    possible = members(classes)
    impossible = [name for name in MEMBERS if name not in possible]
    for name in impossible:
        if name in asked:
            raise UserError(
                f"evaluate.attacks: '{name}' needs at least 4 classes and there are {classes};"
                f" ask for {', '.join(possible)} or autoattack"
            )
    whole = "autoattack" in asked
    return [name for name in possible if whole or name in asked], impossible if whole else []


def _first(test: Images, count: int | None) -> tuple[Tensor, Tensor]:
    """The first ``count`` images and labels."""
    _enough(test, count)
    return test.images[:count], test.labels[:count]


def _enough(test: Images, count: int | None) -> None:
    """Raise UserError where there are fewer; the images themselves, which may be in files, are not looked at."""
    there = len(test.labels)
    if count is not None and count > there:
        raise UserError(f"evaluate.images: {count} images asked for, and the test set has {there}")


def _known(file: Path, identity: dict[str, Any]) -> Outcome | None:
    """The outcome in ``file`` if it is this evaluation's: a process may have died just after writing it."""
    try:
        outcome = outcomes.read(file)
    except UserError:
        return None
    return outcome if all(outcome.facts[name] == value for name, value in identity.items()) else None


def _digest(tensors: dict[str, Tensor]) -> str:
    """16 hexadecimal digits that stand for the names, types, shapes and contents of tensors."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))

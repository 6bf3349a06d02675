"""The process that trains and evaluates one trial: ``python -m orchestrate.trial DIR``.

Everything it reads and writes is in DIR (see :mod:`orchestrate.runs`): no server, no Ray, no network. It trains
unless the training is complete, runs the evaluations that have no outcome yet, and says all of it as events. It can be
asked to end by SIGTERM, SIGINT or SIGUSR2, or by the file ``stop``; it then writes a checkpoint and goes.

This module's head imports nothing that computes: who only wants the exit codes need not pay for PyTorch.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from clusters.base import ON_REQUEST, STOPPED, submitted
from orchestrate.events import EventWriter, story
from orchestrate.loading import loading
from orchestrate.locks import Lock, LockHeld
from orchestrate.runs import Runs, TrialDir, read_yaml
from training.errors import Diverged, Stopped, UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from evaluation.spec import EvaluationSpec
    from training.data import Dataset
    from training.spec import DataSpec, TrialSpec

FINISHED, FAILED, HELD = 0, 1, 75  # exit codes, and STOPPED, ON_REQUEST; 75 is sysexits' "try again later"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, or the largest file that is allowed
GRACE_S = 30.0  # most time between being asked to end and having ended
_LOOK_S = 0.5  # between two looks at the stop file


@dataclass(frozen=True)
class Settings:
    """How to run; nothing of it changes what is computed.

    Args:
        evaluations: digests of the evaluations that are wanted; each has its file in ``DIR/evaluations``.
        device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
        threads: for PyTorch.
        gpus: what share of GPUs it was given; only told.
        hours: limit of this attempt, or None.
        checkpoint_minutes: most minutes between two checkpoints.
        wait_s: how long to wait for one who holds the trial, and may be dead on a machine that cannot be asked.
    """

    evaluations: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = 1
    gpus: float = 0.0
    hours: float | None = None
    checkpoint_minutes: float = 5.0
    wait_s: float = 0.0


class StopRequest:
    """Whether, and why, the trial was asked to end. A signal's handler only takes note."""

    def __init__(self, trial: TrialDir) -> None:
        self.file = trial.stop_file
        self.signalled = False
        self._look_at = 0.0

    def listen(self) -> None:
        """Take signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._note)

    def why(self) -> str | None:
        """``cancelled`` or ``pruned`` by the file, ``signal``, or None; cheap enough to ask at every step."""
        now = time.monotonic()
        if not self.signalled and now < self._look_at:
            return None
        self._look_at = now + _LOOK_S
        try:
            return str(json.loads(self.file.read_text())["why"])
        except FileNotFoundError:
            return "signal" if self.signalled else None
        except (ValueError, KeyError, TypeError):  # touched by hand: to stop is all that it can mean
            return "cancelled"

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)  # SIGALRM ends a process that does not get round to it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one attempt; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrate.trial", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--eval", nargs="*", default=[], metavar="DIGEST", dest="evaluations")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0.0)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", dest="wait_s")
    given = vars(parser.parse_args(arguments))
    trial = TrialDir(given.pop("directory").resolve())
    return run(trial, Settings(**given | {"evaluations": tuple(given["evaluations"])}))


def run(trial: TrialDir, settings: Settings) -> int:
    """One attempt at a trial, alone on its directory; returns the exit code. Every failure ends as an event."""
    request = StopRequest(trial)
    request.listen()
    try:
        with Lock(trial.lock_file, settings.wait_s):
            return _attempt(trial, settings, request)
    except LockHeld as held:
        print(held, file=sys.stderr)
        return HELD
    except OSError as error:  # not even an event could be written
        print(f"{trial.path}: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED


def _attempt(trial: TrialDir, settings: Settings, request: StopRequest) -> int:
    events = EventWriter(trial.events)
    attempt = Attempt(trial, settings, request, events)
    try:
        attempt.run()
        return FINISHED
    except Stopped as stopped:
        if stopped.why != "time":
            events.write("stopped", why=stopped.why)
            trial.stop_file.unlink(missing_ok=True)
            print(f"stopped ({stopped.why})", flush=True)
            return STOPPED if stopped.why == "signal" else ON_REQUEST
        kind, reason = "time", f"reached its limit of {settings.hours:g} h; its last checkpoint is kept"
    except Exception as error:
        kind, reason = failure(error)
        if kind == "crash":
            traceback.print_exc()
    print(f"failed ({kind}): {reason}", file=sys.stderr, flush=True)
    events.write("failed", kind=kind, reason=reason)
    return FAILED


def failure(error: Exception) -> tuple[str, str]:
    """What kind of failure an exception is, and its reason in one line."""
    import torch

    reason = " ".join(str(error).split())[:500]
    if isinstance(error, Diverged):
        return "diverged", reason
    if isinstance(error, UserError):
        return "input", reason
    if isinstance(error, OSError) and error.errno in FULL:
        return "disk", reason
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _no_memory(error):
        return "memory", reason or "out of memory"
    return "crash", f"{type(error).__name__}: {reason}"


def _no_memory(error: Exception) -> bool:
    """PyTorch's CPU allocator and cuBLAS tell of missing memory by an ordinary RuntimeError."""
    signs = ("can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


class Attempt:
    """What one attempt does, once it is alone on the directory."""

    def __init__(
        self, trial: TrialDir, settings: Settings, request: StopRequest, events: EventWriter
    ) -> None:
        self.trial, self.settings, self.request, self.events = trial, settings, request, events
        self.deadline = None if settings.hours is None else time.monotonic() + settings.hours * 3600

    def run(self) -> None:
        """Train if need be, evaluate what is wanted. Raises what went wrong."""
        told = story(self.trial.events)  # of the attempts before this one
        with loading("torch"):
            import torch

            from training import checkpoint, extensions
            from training import data as images

        torch.set_num_threads(self.settings.threads)
        device = _device(self.settings.device)
        self.events.started(
            pid=os.getpid(),
            host=socket.gethostname(),
            device=str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
            threads=self.settings.threads,
            **self._submission(),
            resumes_at=checkpoint.position(self.trial.checkpoints, self.trial.key),
            versions={name: version(name) for name in ("parapet", "torch")},
        )
        print(f"attempt {self.events.attempt} of {self.trial.key} on {device}", flush=True)
        spec = self.trial.spec()
        extensions.load_all(spec.imports, self.trial.imports)
        data = images.load(self._checked(spec))
        if told.trained is None:
            self._train(spec, data, device)
        complete = [d for d in self.settings.evaluations if d in told.evaluated]
        for name in self.settings.evaluations:
            if name not in complete:
                self._evaluate(name, spec, data, device)
        self.events.write("finished", evaluations=list(self.settings.evaluations))
        print("finished", flush=True)

    def _checked(self, spec: TrialSpec) -> DataSpec:
        """Where the images are read from, which are those of the trial's key. Raises UserError when they are not."""
        from orchestrate import staging
        from training import data as images

        def right(data: DataSpec) -> bool:
            return spec.key(images.digest(data)) == self.trial.key

        near = staging.staged(spec.data, lambda line: print(line, flush=True))
        if near != spec.data:
            with contextlib.suppress(UserError):  # half a file
                if right(near):
                    return near
            staging.discard(near)
            print("data: the copy on this node was damaged, and is removed", flush=True)
        if right(spec.data):
            return spec.data
        raise UserError(
            f"data: the images of '{spec.data.name}' are not those that trial {self.trial.key} was planned for;"
            " bring them back, or run the sweep again to train on these"
        )

    def _submission(self) -> dict[str, object]:
        """What is known of how it came to run here, for the accounts."""
        job = [os.environ.get(name) for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")]
        number = "_".join(part for part in job if part) or os.environ.get("SLURM_JOB_ID")
        facts = {"submitted": submitted(self.trial.path), "gpus": self.settings.gpus, "job": number}
        return {name: value for name, value in facts.items() if value}

    def _train(self, spec: TrialSpec, data: Dataset, device: torch.device) -> None:
        from training.fit import Control, fit

        helpers = load_helpers(spec, Runs(self.trial.path.parents[1]), data, device)
        control = Control(self.request.why, self.deadline, self.settings.checkpoint_minutes * 60)
        folder = self.trial.checkpoints
        for event in fit(
            spec, data, folder, key=self.trial.key, device=device, helpers=helpers, control=control
        ):
            self.events.write(**event)
            if event["event"] == "epoch":
                print(f"epoch {event['epoch']}: {_in_words(event['metrics'])}", flush=True)

    def _evaluate(self, digest: str, spec: TrialSpec, data: Dataset, device: torch.device) -> None:
        from evaluation.run import evaluate
        from training import checkpoint

        wanted = self._wanted(digest)
        file = self.trial.checkpoints / f"{wanted.checkpoint}.pt"
        checkpoint.expect(file, self.trial.key)
        network, _, _ = checkpoint.load_network(file, device=device)
        began = time.monotonic()
        metrics = evaluate(
            network,
            data.test,
            wanted,
            spec.attack,
            key=self.trial.key,
            outcome=self.trial.outcome_file(digest),
            device=device,
            tell=lambda attack, done, of: self.events.write(
                "evaluating", evaluation=digest, attack=attack, done=done, of=of
            ),
            stop=self._why,
        )
        seconds = round(time.monotonic() - began, 3)
        self.events.write(
            "evaluated",
            evaluation=digest,
            checkpoint=wanted.checkpoint,
            beside=self._beside(wanted),
            metrics=metrics,
            seconds=seconds,
        )
        print(f"evaluated {wanted.checkpoint}.pt: {_in_words(metrics)}", flush=True)

    def _wanted(self, digest: str) -> EvaluationSpec:
        from evaluation.spec import EvaluationSpec

        return EvaluationSpec.model_validate(read_yaml(self.trial.evaluation_file(digest)))

    def _beside(self, wanted: EvaluationSpec) -> str:
        """What an evaluation is called that has other attacks than the one that the sweep goes by."""
        first = self._wanted(self.settings.evaluations[0])
        return "" if wanted.title == first.title else wanted.title

    def _why(self) -> str | None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "time"
        return self.request.why()


def load_helpers(spec: TrialSpec, runs: Runs, data: Dataset, device: torch.device) -> Mapping[str, nn.Module]:
    """The trained networks that a resolved spec refers to, by name. Raises UserError as :func:`load_helper`."""
    return {name: load_helper(name, place, runs, data, device)[0] for name, place in spec.helpers.items()}


def load_helper(
    name: str, place: Mapping[str, str], runs: Runs, data: Dataset, device: torch.device
) -> tuple[nn.Module, TrialSpec]:
    """A trained network and its spec, by ``{key: KEY}`` of another trial or ``{path: FILE, digest: SHA256}``.

    Raises UserError: no such checkpoint, contents other than the digest's, or a network for other images or classes.
    """
    from training import checkpoint, extensions

    if "key" in place:
        trial = runs.trial(place["key"])
        file = trial.checkpoints / "last.pt"
        checkpoint.expect(file, place["key"])
        extensions.load_all(trial.spec().imports, runs.imports)
    else:
        file = Path(place["path"])
        if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() != place["digest"]:
            raise UserError(
                f"helpers.{name}: {file} is not the file any more that the trial was planned with"
            )
    network, spec, facts = checkpoint.load_network(file, device=device)
    has, needs = (facts["classes"], *facts["shape"]), (data.classes, *data.train.images.shape[1:])
    if has != needs:
        raise UserError(
            f"helpers.{name}: {file} is a network for {has[0]} classes of {_size(has)} images, and data"
            f" '{data.name}' has {needs[0]} classes of {_size(needs)} images"
        )
    return network, spec


def _size(classes_and_shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in classes_and_shape[1:])


def _device(name: str) -> torch.device:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: cuda was asked for, and PyTorch finds no GPU here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _in_words(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is on disk: taking PyTorch down in order would hold the core for a second

"""Minibatches of image files, cropped and mirrored at random by worker processes ahead of the training."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.data.files import Files, opened
from training.data.torchvision_import import transforms
from training.errors import UserError

PR_SET_PDEATHSIG = 1  # Linux's prctl: the signal to get when the parent dies
ASKED_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

Task = list[tuple[str, int]]  # of one minibatch: every image's file, and the seed of what is drawn for it


class Streamed:
    """Bytes [B, C, H, W] of one step after the other: a random part of every image, scaled, and mirrored or not.

    What is drawn for an image depends only on the epoch's order (which stands for seed and epoch) and on the image's
    index, so neither the number of workers nor the step that an epoch is resumed at changes anything.

    Args:
        files: the images.
        batch_size: B.
        device: where batches are wanted.
        workers: processes that decode; 0: this one does. Default: on a GPU as many as this process may use threads
            (``resources.cpus``), on a CPU none, since the network needs the cores.
    """

    def __init__(
        self, files: Files, batch_size: int, device: torch.device | str, workers: int | None = None
    ) -> None:
        self.files, self.batch_size, self.device = files, batch_size, torch.device(device)
        on_gpu = self.device.type == "cuda"
        if workers is None:
            workers = torch.get_num_threads() if on_gpu else 0
        self._work = _Work()
        self._loader: DataLoader[Any] = DataLoader(
            _Crops(files.image),
            batch_size=None,  # what the sampler gives is a whole minibatch
            sampler=self._work,
            num_workers=workers,
            pin_memory=on_gpu,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,  # a fork would copy locks that threads hold
            worker_init_fn=_belong_to_the_trial,
            generator=torch.Generator(),  # PyTorch's own draws stay away from the global generator
        )
        self._order: Tensor | None = None
        self._next = 0
        self._batches: Iterator[Any] = iter(())

    def batch(self, order: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """The images ``order[step * B : (step + 1) * B]`` on the device; the generator is not asked.

        Steps are cheap in their order; any other step starts the workers' queue anew.

        Raises:
            UserError: naming a file that is missing, no image, or damaged.
        """
        if order is not self._order or step != self._next:
            self._order, self._next = order, step
            self._work.tasks = self._tasks(order, step)
            self._batches = iter(self._loader)
        images = next(self._batches)
        self._next += 1
        if isinstance(images, str):
            raise UserError(images)
        assert isinstance(images, Tensor)
        return images.to(self.device, non_blocking=True)

    def _tasks(self, order: Tensor, step: int) -> Iterator[Task]:
        key = hashlib.blake2b(order.numpy().tobytes(), digest_size=16).digest()
        for start in range(step * self.batch_size, len(order) - self.batch_size + 1, self.batch_size):
            rows: list[int] = order[start : start + self.batch_size].tolist()
            yield [(self.files.path(row), _seed(key, row)) for row in rows]


class _Work(Sampler[Task]):
    """What is to be done next. DataLoader asks for it whenever it is iterated anew."""

    def __init__(self) -> None:
        self.tasks: Iterator[Task] = iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.tasks


class _Crops(Dataset[Any]):
    """Makes the tensor of one minibatch. Workers are sent file names, not the list of a million of them."""

    def __init__(self, image: tuple[int, int, int]) -> None:
        self.image = image

    @functools.cached_property
    def crop(self) -> Any:
        """RandomResizedCrop at its defaults (8 to 100 % of the area, 3:4 to 4:3), as ImageNet is trained with."""
        library = transforms()
        _, height, width = self.image
        steps = [
            library.RandomResizedCrop((height, width)),
            library.RandomHorizontalFlip(),
            library.PILToTensor(),
        ]
        return library.Compose(steps)

    def __getitem__(self, task: Task) -> Tensor | str:
        """Bytes [B, C, H, W], or what is wrong with a file: an exception would come with the worker's traceback."""
        with torch.random.fork_rng(devices=[]):
            try:
                return torch.stack([self._cropped(file, seed) for file, seed in task])
            except UserError as error:
                return str(error)

    def _cropped(self, file: str, seed: int) -> Tensor:
        image = opened(file, self.image[0])
        torch.default_generator.manual_seed(seed)  # torchvision draws there; CUDA's generators are left alone
        cropped: Tensor = self.crop(image)
        return cropped


def _seed(key: bytes, row: int) -> int:
    return int.from_bytes(hashlib.blake2b(row.to_bytes(8, "little"), key=key, digest_size=8).digest()) >> 1


def _belong_to_the_trial(worker: int) -> None:
    """A worker ends with the process that it works for, at once, and not before.

    Ctrl-C, Slurm's warning and scancel reach every process of a trial, which goes on to its next checkpoint and needs
    batches until then. So signals are left to it; the SIGTERM by which it ends its workers itself is obeyed.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED_TO_END)
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(trial: int) -> None:
    while True:
        asked = signal.sigwaitinfo(ASKED_TO_END)
        if asked.si_signo == signal.SIGTERM and asked.si_pid == trial:
            os._exit(0)

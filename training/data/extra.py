"""Images beside a data set's own, which training mixes into every minibatch: pseudo-labelled or generated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data import array_pickle
from training.data.npz import WHOLE, arrays_of
from training.data.raw import Part, as_part
from training.data.svhn import read_mat
from training.errors import UserError

FIELD = "data.extra.path"
PICKLED = ("data", "extrapolated_targets")


def read_extra(file: Path, shape: tuple[int, ...], classes: int) -> Part:
    """The images [M, C, H, W] and labels [M] of a file, which the ending tells how to read.

    - ``.pickle``, ``.pkl``: a dict with data and extrapolated_targets, as RST's ti_500K_pseudo_labeled.pickle (Carmon
      et al. 2019); read by :mod:`training.data.array_pickle`, which runs nothing of it
    - ``.npz``: image and label (or images and labels), as the DDPM images of Rebuffi et al. 2021
    - ``.mat``: SVHN's extra_32x32.mat

    Args:
        shape: C, H and W of the data set's own images; the extra ones must be alike.
        classes: of the data set; labels are 0 to ``classes`` - 1.

    Raises:
        UserError: naming ``data.extra.path`` and the file.
    """
    if not file.is_file():
        raise UserError(f"{FIELD}: {file} does not exist; nothing is downloaded")
    where = f"{FIELD}: {file}"
    if file.suffix in (".pickle", ".pkl"):
        part = as_part(*_pickled(file), classes, where)
    elif file.suffix == ".npz":
        images, labels = arrays_of(file, WHOLE, FIELD).values()
        part = as_part(images, labels, classes, where)
    elif file.suffix == ".mat":
        part = read_mat(file, FIELD)
    else:
        raise UserError(f"{where} should end in .pickle, .npz or .mat")
    if part.images.shape[1:] != tuple(shape):
        raise UserError(
            f"{where} holds images of shape {part.images.shape[1:]}, those of the data set are {tuple(shape)}"
        )
    if int(part.labels.max()) >= classes:
        raise UserError(f"{where}: labels must be 0 to {classes - 1}, they go to {part.labels.max()}")
    return part


def _pickled(file: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    held = array_pickle.load(file, FIELD)
    if not isinstance(held, dict) or not set(PICKLED) <= set(held):
        raise UserError(f"{FIELD}: {file} must hold a dict with {' and '.join(PICKLED)}")
    images, labels = held[PICKLED[0]], np.asarray(held[PICKLED[1]])
    if not isinstance(images, np.ndarray):
        raise UserError(f"{FIELD}: {file}: data must be an array, it is of type {type(images).__name__}")
    return images, labels

"""Pickles of NumPy arrays, read without running anything that is in them.

A pickle is a program: it names functions and calls them. This reader knows the few names that arrays, their dtypes
and NumPy's numbers are pickled with, under either spelling of NumPy's core, and answers each with a stand-in of its
own, so not even NumPy's constructors see what the file says. Whatever else a file names ends the reading.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import UserError

NUMBERS = "biuf"  # kinds of dtype that are read: bool, int, uint, float


class _Foreign(Exception):
    """The file names something that arrays do not need."""


def load(file: Path, field: str) -> Any:
    """What is pickled in ``file``: plain containers, texts, numbers, and arrays of numbers.

    Raises:
        UserError: naming ``field`` and the file; with the name that it wanted to load, if it is not one of NumPy's.
    """
    try:
        with file.open("rb") as stream:
            return _arrays_in(_Reader(stream).load())
    except _Foreign as foreign:
        raise UserError(
            f"{field}: {file} wants to load {foreign}, which no array needs; nothing of the file was run"
        ) from None
    except OSError as error:
        raise UserError(f"{field}: {file} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can ask for anything that a stack machine can get wrong
        raise UserError(
            f"{field}: {file} is truncated or damaged, or no pickle of arrays ({error})"
        ) from None


class _Number:
    """Stands for ``numpy.dtype``: called with a type code such as ``u1``, then told the byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in NUMBERS:
            raise _Foreign(f"values of type {self.dtype}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])

    def values(self, content: bytes) -> NDArray[np.generic]:
        return np.frombuffer(content, self.dtype)


class _Array:
    """Stands for an array that is yet to get its shape, dtype and bytes."""

    def __init__(self) -> None:
        self.array: NDArray[np.generic] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, number, fortran, content = state
        self.array = number.values(content).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(content: bytes, number: _Number, shape: tuple[int, ...], order: str, *_: object) -> _Array:
    made = _Array()
    made.array = number.values(content).reshape(shape, order="F" if order == "F" else "C")
    return made


def _scalar(number: _Number, content: bytes) -> np.generic:
    return number.values(content)[0]  # type: ignore[no-any-return]


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise _Foreign(f"_codecs.encode({encoding})")
    return text.encode("latin1")


_STAND_INS: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _reconstruct,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _frombuffer,
}
_KNOWN: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Number,
    "numpy.ndarray": _Array,
    "_codecs.encode": _encode,
    **{f"numpy.core.{name}": known for name, known in _STAND_INS.items()},  # NumPy 1's spelling
    **{f"numpy._core.{name}": known for name, known in _STAND_INS.items()},  # NumPy 2's
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _KNOWN:
            raise _Foreign(full)
        return _KNOWN[full]


def _arrays_in(held: Any) -> Any:
    """The arrays that the stand-ins stand for, in the same plain containers."""
    if isinstance(held, _Array):
        return held.array
    if isinstance(held, dict):
        return {name: _arrays_in(value) for name, value in held.items()}
    return held

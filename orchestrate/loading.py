"""Large libraries load faster while nobody looks for garbage among what they make."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def loading(library: str) -> Iterator[None]:
    """A block in which PyTorch, Ray or MLflow is imported, perhaps for the first time.

    They make hundreds of thousands of objects, all of which stay. So garbage is collected afterwards again, but
    never among what there was by then; a good part of what is saved is that of the process's end, where Python looks
    through everything once more. Where the library is there already, nothing is done.
    """
    if library in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

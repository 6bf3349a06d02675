"""One real Slurm for all tests of a process that need it, whichever folder they are in."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_slurm import INSTALL, BringUpError, RealSlurm, install, missing

_running: list[RealSlurm] = []


@contextlib.contextmanager
def shared_site() -> Iterator[RealSlurm]:
    """The Slurm, started by who asks first, and stopped when he has done. Skips where it cannot be installed."""
    if _running:
        yield _running[0]
        return
    install()
    if missing():
        pytest.skip(f"these tests need a real Slurm: {INSTALL}")
    slurm = _started()
    _running.append(slurm)
    yield slurm
    _running.clear()
    slurm.stop()
    shutil.rmtree(slurm.folder, ignore_errors=True)


def _started() -> RealSlurm:
    """Tried twice, as one of its ports may be taken meanwhile."""
    slurm = RealSlurm(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp")))
    try:
        slurm.start()
    except BringUpError as error:
        print(f"once more: {error}", file=sys.stderr)
        shutil.rmtree(slurm.folder, ignore_errors=True)
        slurm = RealSlurm(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp")))
        slurm.start()
    return slurm

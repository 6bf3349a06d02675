"""One real Slurm for all tests of a process that need it, whichever folder they are in."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_slurm import INSTALL, BringUpError, RealSlurm, install, missing

from orchestrate.locks import Lock

_running: list[RealSlurm] = []


@contextlib.contextmanager
def shared_site() -> Iterator[RealSlurm]:
    """The Slurm, started by who asks first, and stopped when he has done. Skips where it cannot be installed.

    Its tests want minutes, and packages of the system's: they have a command of their own.
    """
    if "PARAPET_TEST_SLURM" not in os.environ:
        pytest.skip("make test-slurm runs them, on a real Slurm")
    if _running:
        yield _running[0]
        return
    with Lock(
        Path(tempfile.gettempdir()) / f"parapet-tests-{os.getuid()}.lock", wait_s=600
    ):  # one apt-get at a time
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

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
    """The Slurm, started by who asks first, and stopped when he has done.

    The tests that ask take minutes, and packages of the system's, so they have a command of their own. They are skipped
    where those cannot be installed, and fail where they could have been.
    """
    if "PARAPET_TEST_SLURM" not in os.environ:
        pytest.skip("make test-slurm runs them, on a real Slurm")
    if _running:
        yield _running[0]
        return
    one_at_a_time = Path(tempfile.gettempdir()) / f"parapet-tests-{os.getuid()}.lock"
    with Lock(one_at_a_time, wait_s=400):
        install()
    if missing():
        tell = pytest.fail if os.getuid() == 0 and shutil.which("apt-get") else pytest.skip
        tell(f"these tests need a real Slurm: {INSTALL}")
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

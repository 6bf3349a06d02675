"""One real Slurm for all tests that need it, started when the first one asks."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestrate"))  # sweeps as processes, small trials

from real_slurm import INSTALL, BringUpError, RealSlurm, install, missing


@pytest.fixture(scope="session")
def site() -> Iterator[RealSlurm]:
    """The Slurm; tried twice, as one of its ports may be taken meanwhile. Skips where it cannot be installed."""
    install()
    if missing():
        pytest.skip(f"these tests need a real Slurm: {INSTALL}")
    slurm = RealSlurm(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp")))
    try:
        slurm.start()
    except BringUpError as error:
        print(f"once more: {error}", file=sys.stderr)
        shutil.rmtree(slurm.folder, ignore_errors=True)
        slurm = RealSlurm(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp")))
        slurm.start()
    yield slurm
    slurm.stop()
    shutil.rmtree(slurm.folder, ignore_errors=True)


@pytest.fixture
def slurm(site: RealSlurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealSlurm]:
    """The Slurm with no job in it, and its commands on PATH."""
    for name, value in site.env.items():
        monkeypatch.setenv(name, value)
    yield site
    site.end_jobs()

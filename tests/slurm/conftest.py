"""One real Slurm for all tests that need it, started when the first one asks."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestrate"))  # sweeps as processes, small trials

from real_slurm import RealSlurm
from shared_site import shared_site


@pytest.fixture(scope="session")
def site() -> Iterator[RealSlurm]:
    """The Slurm."""
    with shared_site() as slurm:
        yield slurm


@pytest.fixture
def slurm(site: RealSlurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealSlurm]:
    """The Slurm with no job in it, and its commands on PATH."""
    for name, value in site.env.items():
        monkeypatch.setenv(name, value)
    yield site
    site.end_jobs()

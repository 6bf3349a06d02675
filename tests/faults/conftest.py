"""The real Slurm of tests/slurm, and the helpers that the rows of the faults table stand on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))
sys.path.insert(0, str(Path(__file__).parents[1] / "orchestrate"))

from real_slurm import RealSlurm
from shared_site import shared_site


@pytest.fixture(scope="session")
def site() -> Iterator[RealSlurm]:
    """The Slurm."""
    with shared_site() as slurm:
        yield slurm

"""What holds for every test."""

import os
import signal
from collections.abc import Iterator

import pytest

# Before PyTorch comes: threads that wait for each other cost the most.
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, which all that the tests start would inherit."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts many processes goes first, one after the other, beside tests that only compute on other cores."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)

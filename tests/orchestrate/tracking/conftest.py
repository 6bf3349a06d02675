"""One store for the tests of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from telling import numbers
from written_trials import Tracked, make_sweep

from orchestrate.runs import Runs, SweepDir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, with_tables: Callable[[Path], Path]) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Runs(with_tables(tmp_path_factory.mktemp("home") / "runs"))


@pytest.fixture
def sweep(runs: Runs) -> SweepDir:
    return make_sweep(runs, f"sweep{next(numbers)}")


@pytest.fixture
def tracked(runs: Runs) -> Tracked:
    return Tracked(runs)

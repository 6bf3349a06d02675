"""What holds for every test."""

import gc
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

# Tests that one worker runs, as they share what takes long to start. Elsewhere those are the tests of one file,
TOGETHER = {"tests/slurm/": "slurm"}
# but for files of which each test is long, and shares nothing with the others.
APART = ("tests/orchestrate/test_driver.py", "tests/orchestrate/test_driver_kill.py")

# Before PyTorch comes: threads that wait for each other cost the most.
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, which all that the tests start would inherit."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def with_tables(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Puts an empty tracking store into a new RUNS, and returns that.

    MLflow takes seconds to make its tables, which here happens once for all workers' tests that are about other things.
    """
    from orchestrate import store
    from orchestrate.locks import Lock
    from orchestrate.runs import Runs

    folder = tmp_path_factory.getbasetemp()
    file = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "empty-store.db"

    def put(runs: Path) -> Path:
        with Lock(file.with_suffix(".lock"), wait_s=120):
            if not file.exists():
                made = tmp_path_factory.mktemp("store")
                with pytest.MonkeyPatch.context() as patch:
                    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
                    store.prepare(Runs(made))
                with closing(sqlite3.connect(made / "mlflow.db")) as database:
                    database.execute("VACUUM INTO ?", (str(file),))
        runs.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, runs / "mlflow.db")
        return runs

    return put


gc.disable()  # until everything is imported, as in orchestrate.loading


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts many processes, and waits for them, goes first, beside tests that only compute."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers take files, in the order above, but for TOGETHER and APART. (xdist's own groups fail with pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    gc.enable()  # this process collects no tests

    places = (*TOGETHER, *APART)
    assert all((config.rootpath / place).exists() for place in places), (
        "a place in TOGETHER or APART has moved"
    )
    config.option.loadscopereorder = False

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            group = next((name for place, name in TOGETHER.items() if file.startswith(place)), file)
            return nodeid if file in APART else group

    return Scheduling(config, log)

"""The store may be PostgreSQL: the relay tells a real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import INSTALL, ask, missing, postgres
from written_trials import WrittenTrial, expected_points, make_sweep

from orchestrate import relay, store
from orchestrate.runs import Runs
from training.errors import UserError

KEY = "a" * 16
POINTS = """select m.key, m.step, m.value, m.timestamp from metrics m join tags t on t.run_uuid = m.run_uuid
            where t.key = 'parapet.key'"""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of an empty database, named by MLFLOW_TRACKING_URI."""
    if missing():
        pytest.skip(f"this test needs a real PostgreSQL: {INSTALL}")
    with postgres() as there:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", there)
        yield there


def test_each_metric_is_there_once_however_often_it_is_told(address: str, tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    trial = WrittenTrial(runs, make_sweep(runs), KEY).whole()
    assert told(runs) == 0
    assert points(address) == expected_points(trial.dir)
    (trial.dir.path / "tracked.json").unlink()  # what was told is forgotten, and told again
    assert told(runs) == 0
    assert points(address) == expected_points(trial.dir)
    assert ask(address, "select status from runs") == [["FINISHED"], ["FINISHED"]], "the trial and its sweep"


def test_a_wrong_password_is_told_in_one_line_without_it(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("parapet:", "parapet:wrong-one-"))
    with pytest.raises(UserError, match="password authentication failed") as told:
        store.prepare(Runs(tmp_path))
    assert "wrong-one" not in str(told.value)
    assert "\n" not in str(told.value)


def test_without_the_driver_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://someone@127.0.0.1:1/x")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(UserError, match=r"pip install 'parapet\[postgres\]'"):
        store.prepare(Runs(tmp_path))


def told(runs: Runs) -> int:
    return relay.main([str(runs.path), "digits", "--once"])


def points(address: str) -> list[tuple[str, int, float, int]]:
    rows = ask(address, POINTS)
    return sorted((name, int(step), float(value), int(t)) for name, step, value, t in rows)

"""A paper's sheet as a batch: planned like a sweep, and nothing runs."""

import re
from pathlib import Path

import pytest

from orchestrate.cli import main
from orchestrate.runs import Runs


def test_a_sheets_rows_are_one_script_with_their_helpers_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "batch"
    words = ["reproduce", "--sheet", "hat/table2", "--rows", "cifar10/hat,cifar10/trades", "data=digits"]
    assert main([*words, "--into", str(into), "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "Nothing was started." in said
    assert f"papers run hat/table2 data=digits --rows cifar10/hat,cifar10/trades --runs {into}/runs" in said
    keys = re.findall(r"^run \"\$here/runs/trials/(\w+)\"", (into / "batch.sh").read_text(), re.MULTILINE)
    trials = {trial.key: trial.spec() for trial in Runs(into / "runs").trials()}
    assert set(keys) == set(trials)
    names = [trials[key].method.name for key in keys]
    assert names[0] == "standard"
    assert sorted(names[1:]) == ["hat", "trades"]
    assert (into / "source" / "orchestrate" / "trial.py").exists()
    assert main([*words, "--into", str(into)]) == 2  # it is not empty
    assert (
        main(["reproduce", "--sheet", "hat/table2", "--rows", "nothing", "--into", str(tmp_path / "no")]) == 2
    )
    assert not (tmp_path / "no").exists()

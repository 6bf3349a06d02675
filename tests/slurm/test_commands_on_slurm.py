"""``parapet cluster check`` and ``parapet reap`` on a real Slurm: what works, what does not and why, what is ended."""

from pathlib import Path

import pytest
from real_slurm import RealSlurm
from small_trials import until

import clusters
from clusters.base import Job
from orchestrate import ledger
from orchestrate.cli import main
from orchestrate.ledger import Row
from orchestrate.runs import Runs

pytestmark = pytest.mark.slow


def written(folder: Path, text: str) -> str:
    file = folder / "site.yaml"
    file.write_text(f"partition: low\ntime: 30\npoll: 0.3\n{text}")
    return str(file)


def verdicts(said: str) -> dict[str, str]:
    """What was looked at, and the word for it."""
    lines = [
        line
        for line in said.splitlines()
        if line[:14].strip() and line[15:22].strip() in ("ok", "FAILS", "-")
    ]
    return {line[:14].strip(): line[15:22].strip() for line in lines}


def test_a_check_says_what_works(
    slurm: RealSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAPET_RUNS", str(tmp_path / "runs"))
    profile = written(tmp_path, "")
    assert main(["cluster", "check", profile]) == 0
    found = verdicts(capsys.readouterr().out)
    works = ("submit", "start", "python", "shared folder", "torch", "signals", "sacct")
    assert found == dict.fromkeys(works, "ok") | {"gpu": "-"}
    assert not slurm.run("squeue", "--noheader")
    written(tmp_path, "setup: exit 3\n")
    assert main(["cluster", "check", profile]) == 1
    assert f"start          FAILS  it printed nothing: {profile}: line 4: setup" in capsys.readouterr().out
    written(tmp_path, "qos: none\nconstraint: nothing\n")
    assert main(["cluster", "check", profile]) == 1
    assert f"FAILS  {profile}: line 5: constraint: Slurm does not accept" in capsys.readouterr().out


def test_a_reaper_ends_what_is_over_and_nothing_else(
    slurm: RealSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(tmp_path)
    cluster = clusters.open_slurm(runs.path / "trials", written(tmp_path, ""))
    ids = {}
    for number, key in enumerate(["open", "over"]):
        directory = cluster.folder / key
        directory.mkdir(parents=True)
        job = Job(key, directory, ("sleep", "60"), 1, 0, directory / "log.txt", sweep="tiny")
        ids[key] = cluster.submit(cluster.plan(job)).id
        ledger.append(runs.sweep("tiny").ledger_file, Row(number, key))
    ledger.close(runs.sweep("tiny").ledger_file, 1, "pruned", "")
    runs.sweep("tiny").sweep_file.write_text("name: tiny\n")
    ids["other"] = slurm.run("sbatch", "--parsable", f"--chdir={tmp_path}", "--wrap=sleep 60").strip()
    assert main(["reap", "tiny", "--dry-run", "--runs", str(runs.path)]) == 0
    assert f"job {ids['over']} (tiny.over, " in capsys.readouterr().out
    assert main(["reap", "tiny", "--runs", str(runs.path)]) == 0
    assert "1 jobs left over, 1 others of this sweep" in capsys.readouterr().out
    left = {ids["open"], ids["other"]}
    until(lambda: set(slurm.run("squeue", "--noheader", "--format=%i").split()) == left, 5)

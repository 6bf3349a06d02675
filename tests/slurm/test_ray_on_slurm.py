"""``parapet cluster up`` on a real Slurm: a Ray of two nodes with a password, a sweep in it, nothing left after it."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from real_slurm import RealSlurm
from small_trials import until
from sweep_process import sweep_file

from orchestrate import ledger
from orchestrate.cli import main
from orchestrate.events import read, story
from orchestrate.runs import Runs, TrialDir

pytestmark = pytest.mark.slow
RAY = Path(sys.executable).with_name("ray")
WHERE = """
import os, ray, time
ray.init(logging_level="ERROR", log_to_driver=False)

@ray.remote(num_gpus=1, num_cpus=1)
def place():
    time.sleep(1)  # so that none is used twice
    return ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"]

print("GPUS", len(set(ray.get([place.remote() for _ in range(4)]))), "CPUS", ray.cluster_resources()["CPU"])
"""


def scratch_of(job: str) -> Path:
    return Path(f"/tmp/parapet-ray-{os.getuid()}/{job}")


def _trials_of(runs: Runs, name: str) -> list[TrialDir]:
    return [runs.trial(row.key) for row in ledger.read(runs.sweep(name).ledger_file)]


def test_a_sweep_runs_in_a_ray_of_two_nodes_and_nothing_is_left(
    slurm: RealSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    profile = tmp_path / "site.yaml"
    profile.write_text("partition: low\ntime: 30\ncpus: 2\n")
    runs = Runs(tmp_path / "runs")
    where = ("--runs", str(runs.path))
    asked = ["cluster", "up", f"slurm:{profile}", "--nodes", "2", "--gpus", "2", "--wait", "120", *where]
    assert main(asked) in (0, None)
    said = capsys.readouterr().out
    address = said.split("--address ")[1].split()[0]
    password = dict(word.split("=") for word in said.split("export ")[1].split("\n")[0].split())
    assert Path(password["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o077 == 0
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def ray(*words: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        line = [RAY, "job", words[0], "--address", address, *words[1:]]
        return subprocess.run(
            line, env=env | settings, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    assert ray("list").returncode != 0, "without the password"
    (tmp_path / "work").mkdir()
    sweep_file(tmp_path / "work", trials=[{"method": {"name": "pgd-at"}}, {"method": {"name": "standard"}}])
    long = [{"method": {"name": "pgd-at"}, "train": {"epochs": 9000}}]
    sweep_file(tmp_path / "work", "long", trials=long)
    # Ray's nodes share a folder here, in which the second one that unpacks what was submitted removes it first.
    submit = ("submit", "--working-dir", "work", "--")
    seen = ray(*submit, "python", "-c", WHERE, **password)
    assert "GPUS 4 CPUS 4.0" in seen.stdout, seen.stdout + seen.stderr
    done = ray(*submit, "parapet", "sweep", "tiny.yaml", *where, **password)
    assert done.returncode == 0, done.stdout[-3000:]
    assert [row.state for row in ledger.read(runs.sweep("tiny").ledger_file)] == ["finished"] * 2

    line = [RAY, "job", "submit", "--address", address, *submit[1:], "parapet", "sweep", "long.yaml", *where]
    with (tmp_path / "long.log").open("w") as log:
        submitted = subprocess.Popen(line, env=env | password, cwd=tmp_path, stdout=log, stderr=log)
    until(lambda: any(story(t.events).epochs for t in _trials_of(runs, "long")), 100)

    [job] = slurm.run("squeue", "--noheader", "--format=%i").split()
    assert scratch_of(job).exists()
    assert scratch_of(job).parent.stat().st_mode & 0o077 == 0, "Ray opens its own folder to all"
    assert main(["cluster", "down", *where]) == 0
    assert f"job {job}: ended" in capsys.readouterr().out
    assert not scratch_of(job).exists()
    submitted.kill()
    submitted.wait()
    [trial] = _trials_of(runs, "long")
    assert list(read(trial.events))[-1]["event"] == "stopped", "with a checkpoint"
    with closing(sqlite3.connect(runs.path / "mlflow.db")) as store:
        assert store.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (0,)
    assert not Path(password["RAY_AUTH_TOKEN_PATH"]).exists()
    assert main(["cluster", "down", *where]) == 2
    assert "has no Ray cluster" in capsys.readouterr().err

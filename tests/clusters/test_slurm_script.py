"""The text that is submitted, to the letter: ``golden/`` holds it for every example of a profile.

After a change that is meant: ``GOLDEN=write python -m pytest tests/clusters/test_slurm_script.py``, and read the diff.
"""

import os
import sys
from pathlib import Path

import pytest

import clusters
from clusters.base import Job
from clusters.slurm import SlurmCluster

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(clusters.__file__).parents[1]


@pytest.mark.parametrize("name", ["small-lab", "preemptible", "big-centre"])
def test_the_script_of_every_example_is_as_written_down(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PYTHONPATH", "PARAPET_DATA"):
        monkeypatch.delenv(variable, raising=False)
    cluster = clusters.open_slurm(tmp_path / "trials", name)
    assert_as_written_down(name, str(cluster.plan(job_of(cluster, "5d1f"))), tmp_path)


def test_so_is_that_of_an_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PYTHONPATH", "PARAPET_DATA"):
        monkeypatch.delenv(variable, raising=False)
    cluster = clusters.open_slurm(tmp_path / "trials", "small-lab")
    text = cluster.plan_array([job_of(cluster, key) for key in ("5d1f", "77aa", "c0de")], parallel=2)
    assert_as_written_down("small-lab-array", text, tmp_path)


def test_where_images_are_staged_is_left_to_the_node(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("time: 60\nstage: $TMPDIR/images\n")
    cluster = clusters.open_slurm(tmp_path / "trials", str(tmp_path / "lab.yaml"))
    assert "export PARAPET_STAGE='$TMPDIR/images'\n" in str(cluster.plan(job_of(cluster, "5d1f")))


def job_of(cluster: SlurmCluster, key: str) -> Job:
    share = cluster.share
    directory = cluster.folder / key
    command = (sys.executable, "-m", "orchestrate.trial", str(directory), "--device", "cuda")
    log = directory / "log/1.txt"
    return Job(key, directory, command, share.cpus, share.gpus, log, {"JOB": "a b"}, "digits")


def assert_as_written_down(name: str, text: str, tmp_path: Path) -> None:
    for found, stands in ((str(tmp_path), "RUNS"), (sys.executable, "PYTHON"), (str(ROOT), "PARAPET")):
        text = text.replace(found, stands)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text + "\n")
    assert text + "\n" == file.read_text()

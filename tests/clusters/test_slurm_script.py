"""The text that is submitted, to the letter: ``golden/`` holds it for every example of a profile.

After a change that is meant: ``GOLDEN=write python -m pytest tests/clusters/test_slurm_script.py``, and read the diff.
"""

import os
import sys
from pathlib import Path

import pytest

import clusters
from clusters.base import Job

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(clusters.__file__).parents[1]


@pytest.mark.parametrize("name", ["small-lab", "preemptible", "big-centre"])
def test_the_script_of_every_example_is_as_written_down(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PYTHONPATH", "PARAPET_DATA"):
        monkeypatch.delenv(variable, raising=False)
    cluster = clusters.open_slurm(tmp_path / "trials", name)
    share = cluster.share
    directory = cluster.folder / "5d1f"
    command = (sys.executable, "-m", "orchestrate.trial", str(directory), "--device", "cuda")
    job = Job(
        "5d1f", directory, command, share.cpus, share.gpus, directory / "log/1.txt", {"JOB": "a b"}, "digits"
    )
    text = str(cluster.plan(job))
    for found, stands in ((str(tmp_path), "RUNS"), (sys.executable, "PYTHON"), (str(ROOT), "PARAPET")):
        text = text.replace(found, stands)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text + "\n")
    assert text + "\n" == file.read_text()

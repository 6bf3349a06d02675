"""The script in a real shell, with an interpreter that only takes notes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from clusters.base import Cluster, Share
from orchestrate.reproduce import batch, environment
from orchestrate.reproduce.batch import Settings, Site, Step

# Writes what it is told and finds in its environment; a trial called "slow" waits for a signal; one called "bad" fails.
PYTHON = """\
#!/bin/sh
echo "$* | $PYTHONPATH | $OMP_NUM_THREADS | ${CUDA_VISIBLE_DEVICES-unset} | $SITE" >> "$(dirname "$0")/notes"
case "$*" in
*bad*) exit 3 ;;
*slow*) trap 'echo told >> "$(dirname "$0")/notes"; sleep 0.3; exit 76' TERM
    touch "$(dirname "$0")/waits"; while :; do sleep 0.05; done ;;
esac
"""
SLURM = """\
#!/bin/bash
#SBATCH --cpus-per-task=4
#SBATCH --job-name=other
#SBATCH --output=elsewhere/%j
#SBATCH --signal=USR2@120

# setup
export OMP_NUM_THREADS=4
export PYTHONPATH=/checkout
export SITE=here
module load cuda

# command
srun something
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "it's a folder"
    place.mkdir()
    (place / "python").write_text(PYTHON)
    (place / "python").chmod(0o755)
    return place


def written(
    folder: Path, *keys: str, device: str = "cpu", site: Site | None = None, python: str = ""
) -> Path:
    steps = [Step(key, f"train {key}\nrm -rf nothing", ("e1", "e2")) for key in keys]
    settings = Settings(python or shlex.quote(str(folder / "python")), device, 2)
    about = ["Two lines\nrm -rf nothing"]
    text = batch.script(folder, "name", about, steps, settings, site or Site(), "parapet reproduce")
    (folder / "batch.sh").write_text(text)
    return folder / "batch.sh"


def notes(folder: Path) -> list[str]:
    return (folder / "notes").read_text().splitlines()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_trials_run_in_order_by_the_logged_code_with_the_threads_and_device_of_the_run(
    folder: Path, device: str
) -> None:
    script = written(folder, "k1", "k2", device=device)
    env = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "9"}
    done = subprocess.run(["bash", str(script)], env=env, capture_output=True, text=True, check=True)
    _, first, second = notes(folder)
    gpus = "" if device == "cpu" else "1"
    place = f"{folder}/runs/trials"
    options = f"--device {device} --threads 2 --eval e1 e2 | {folder}/source | 2 | {gpus} | "
    assert first == f"-P -m orchestrate.trial {place}/k1 {options}"
    assert second == f"-P -m orchestrate.trial {place}/k2 {options}"
    assert done.stdout.splitlines()[-1] == "== done"


def test_a_trial_that_fails_ends_it_with_its_exit_code(folder: Path) -> None:
    done = subprocess.run(["bash", str(written(folder, "bad", "k2"))], capture_output=True, text=True)
    assert done.returncode == 3
    assert len(notes(folder)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_an_end_that_is_asked_for_reaches_the_trial_and_is_waited_for(
    folder: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(["bash", str(written(folder, "slow", "k2"))], stdout=subprocess.PIPE)
    end = time.monotonic() + 20
    while not (folder / "waits").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 76
    assert notes(folder)[-1] == "told"


def test_a_profile_gives_its_lines_and_the_scripts_own_come_after(folder: Path) -> None:
    site = batch.site(SLURM)
    assert site.directives == ("#SBATCH --cpus-per-task=4", "#SBATCH --signal=B:USR2@120")
    assert site.setup == ("export SITE=here", "module load cuda")
    (folder / "module").write_text("#!/bin/sh\nexit 1\n")  # a site's line may fail without harm
    (folder / "module").chmod(0o755)
    script = written(folder, "k1", site=site)
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(script)], env=env, capture_output=True, check=True)
    assert notes(folder)[1].endswith(f"| {folder}/source | 2 |  | here")
    lines = script.read_text().splitlines()
    sbatch = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    commands = [n for n, line in enumerate(lines) if line and not line.startswith("#")]
    assert max(sbatch) < min(commands)  # Slurm reads no further than the first command


@pytest.mark.parametrize(
    ("named", "there", "starts", "doubted"),
    [
        (None, "", shlex.quote(sys.executable), False),
        (None, "apptainer exec a.sif python", "apptainer exec a.sif python", True),
        (None, sys.executable, sys.executable, False),  # the one whose packages were asked
        ("/my python", "apptainer exec a.sif python", "'/my python'", False),
    ],
)
def test_which_python_starts_and_when_its_packages_are_in_doubt(
    named: str | None, there: str, starts: str, doubted: bool
) -> None:
    cluster = cast(Cluster, SimpleNamespace(name="slurm:lab", share=Share(1, 0, 1, there)))
    text, doubt = environment.interpreter(named, cluster)
    assert (text, bool(doubt)) == (starts, doubted)


def test_a_profiles_python_may_be_a_container_and_know_what_the_setup_says(folder: Path) -> None:
    (folder / "run in").write_text('#!/bin/sh\necho "in $1" >>"$(dirname "$0")/notes"\nshift\nexec "$@"\n')
    (folder / "run in").chmod(0o755)
    site = Site(setup=(f"home={shlex.quote(str(folder))}", "image='an image.sif'"))
    script = written(folder, "k1", "bad", site=site, python='"$home/run in" "$image" "$home/python"')
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert done.returncode == 3
    started, asked = notes(folder)[::2], notes(folder)[1::2]
    assert started == ["in an image.sif"] * 3
    assert [line.split()[1] for line in asked] == ["-c", "-m", "-m"]

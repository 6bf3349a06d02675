"""Does the logged source, on the images that are here, mean the trial that was tracked? Asked before anything runs.

A trial's key digests its spec and its images, and how it does so belongs to the source: so that source is asked, in a
process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from orchestrate.reproduce.batch import Settings
from orchestrate.runs import TrialDir
from training.errors import UserError

QUESTION = """\
import json, sys
from pathlib import Path
import orchestrate.trial, torch
from orchestrate.runs import TrialDir
from training import data
from training.errors import UserError

trial = TrialDir(Path(sys.argv[1]))
try:
    spec = trial.spec()
    if getattr(spec, "imports", None):
        from training import extensions
        extensions.load_all(spec.imports, trial.imports)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    print(json.dumps({"key": spec.key(data.digest(spec.data)), "code": orchestrate.trial.__file__, "gpu": gpu}))
except UserError as error:
    sys.exit(f"mistake: {error}")
"""


@dataclass(frozen=True)
class Answer:
    """The key of the spec on these images, the file of the code that says so, and the name of a GPU, if any."""

    key: str
    code: str
    gpu: str


def ask(trial: TrialDir, source: Path, python: str, settings: Settings) -> Answer:
    """Ask the source, by an interpreter of this machine.

    Raises UserError when it cannot be run here, or finds no images.
    """
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if settings.device == "cpu" else {}
    done = subprocess.run(
        (python, "-P", "-c", QUESTION, str(trial.path)),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"} | hidden,
    )
    said = done.stdout.strip().rpartition("\n")[2]
    if done.returncode or not said:
        last = done.stderr.strip().rpartition("\n")[2] or "it says nothing"
        if last.startswith("mistake: "):
            raise UserError(f"{last.removeprefix('mistake: ')} (--data-root says where the images lie)")
        raise UserError(f"source: what was logged cannot be run by {python}: {last}")
    return Answer(**json.loads(said))


def expect(answer: Answer, key: str, source: Path, python: str, settings: Settings, data: str) -> None:
    """Raise UserError unless the answer is of the trial with this key, by the logged code, on a device that is here."""
    if not settings.installed and not Path(answer.code).resolve().is_relative_to(source.resolve()):
        raise UserError(f"--python: {python} runs {answer.code} in place of the code in {source}")
    if answer.key != key:
        raise UserError(
            f"data: the images of '{data}' here are not those of the run, or its spec.yaml was changed: together"
            f" they are {answer.key}, and the run is of {key} (--data-root says where the images lie)"
        )

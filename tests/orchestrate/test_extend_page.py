"""docs/extend.md: its code is the example's, and its commands say what it shows."""

import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrate import ledger
from orchestrate.runs import Runs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text()
EXAMPLES = ROOT / "docs" / "examples"
FIGURES = re.compile(r"[0-9a-f]{8,}|\d[\d.,:]*")
DRAWING = re.compile("[│┃*]")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def commands():
    """(command, lines that the page shows of its output), in the page's order."""
    found = []
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            elif line.strip():
                found[-1][1].append(line)
    return found


def plain(line):
    """Figures, and how wide a column is, differ from machine to machine."""
    return " ".join(DRAWING.sub(" ", FIGURES.sub("#", line)).split())


def agrees(shown, said):
    """A line that ends in ... is cut on the page."""
    return said.startswith(shown.removesuffix("...")) if shown.endswith("...") else said == shown


def test_the_code_on_the_page_is_the_examples():
    code = (EXAMPLES / "my_methods.py").read_text()
    shown = blocks("python")
    assert len(shown) == 5
    for block in shown:
        assert block in code
    (sweep,) = blocks("yaml")
    assert yaml.safe_load(sweep) == yaml.safe_load((EXAMPLES / "photographs.yaml").read_text())


@pytest.mark.slow
def test_the_commands_on_the_page_say_what_it_shows(tmp_path):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    unset = ("PARAPET_RUNS", "PARAPET_DATA", "RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    assert len(commands()) == 9
    for command, shown in commands():
        trained = {
            row.label: row.key
            for row in ledger.read(Runs(tmp_path / "runs").sweep("photographs").ledger_file)
        }
        words = shlex.split(command.replace("KEY", trained.get("stability", "KEY")))
        if words[0] == "parapet":
            words = [sys.executable, "-m", "orchestrate", *words[1:]]
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=env | {"PYTHONPATH": str(ROOT)},
            timeout=200,
        )
        said = [plain(line) for line in (done.stdout + done.stderr).splitlines()]
        missing = [line for line in shown if not any(agrees(plain(line), other) for other in said)]
        assert not missing, (command, missing, done.stdout + done.stderr)
        refusal = any(line.startswith("parapet: ") for line in shown)
        assert done.returncode == (2 if refusal else 0), (command, done.stderr)
    digest = hashlib.sha256((EXAMPLES / "my_methods.py").read_bytes()).hexdigest()
    kept = yaml.safe_load((tmp_path / "runs" / "sweeps" / "photographs" / "sweep.yaml").read_text())
    assert kept["import"] == {"my_methods.py": digest}
    tracked = list((tmp_path / "runs" / "mlartifacts").rglob("imports/my_methods.py"))
    assert len(tracked) == 3, "every run that used the file has it"

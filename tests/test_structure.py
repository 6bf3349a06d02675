"""Imports run one way, and what must start fast imports nothing slow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"training", "evaluation", "orchestrate", "clusters"}
MAY_IMPORT = {
    "training": set(),
    "evaluation": {"training"},
    "clusters": {"training.errors"},
    "orchestrate": {"training", "evaluation", "clusters"},
}
FOREIGN = {  # what a package must not import, also not inside a function
    "training": {"ray", "mlflow", "submitit", "typer", "pyautoattack"},
    "evaluation": {"ray", "mlflow", "submitit", "typer"},
    "clusters": {"torch", "mlflow", "typer"},
}


def imported(file: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", sorted(OURS))
def test_imports_run_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        for name in imported(file):
            top = name.partition(".")[0]
            assert top not in FOREIGN.get(package, set()), f"{file}: imports {name}"
            if top in OURS - {package}:
                allowed = MAY_IMPORT[package]
                assert top in allowed or name in allowed, f"{file}: imports {name}"


def modules_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_command_line_starts_without_the_heavy_libraries():
    heavy = {
        "torch",
        "ray",
        "mlflow",
        "pandas",
        "matplotlib",
        "plotly",
        "pyarrow",
        "optuna",
        "sklearn",
        "numpy",
    }
    assert not modules_after("import orchestrate.cli") & heavy


def test_a_trials_actor_imports_neither_torch_nor_mlflow():
    loaded = modules_after("import orchestrate.actor")
    assert "ray" in loaded
    assert not loaded & {"torch", "mlflow"}


def test_every_file_stays_small():
    long = {
        str(f.relative_to(ROOT)): n
        for package in OURS
        for f in (ROOT / package).rglob("*.py")
        if (n := len(f.read_text().splitlines())) > 400
    }
    assert not long

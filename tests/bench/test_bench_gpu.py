"""The GPU benchmark runs all its cells, here in miniature on the CPU, and counts operations rightly."""

import json
import subprocess
import sys

import gpu
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from training.randomness import generator
from training.recipes import build
from training.spec import MethodChoice

CPU = torch.device("cpu")


def test_every_cell_is_measured(tmp_path, capsys):
    assert gpu.main(["--device", "cpu", "--smoke", "--out", str(tmp_path / "gpu.json")]) == 0
    facts = json.loads((tmp_path / "gpu.json").read_text())
    cells = facts["cells"]
    assert len({(cell["method"], *cell["setting"].values()) for cell in cells}) == 3 * 2 * 2 * 2 * 2
    assert all((cell["ratio"] is None) == cell["setting"]["compile"] for cell in cells)
    assert all(cell["ms"] > 0 for cell in cells)
    assert facts["skipped"] == facts["failed"] == []
    assert len(capsys.readouterr().out.splitlines()) == 2 + 48


def test_what_does_not_fit_the_budget_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    assert gpu.main(["--device", "cpu", "--smoke", "--budget", "0"]) == 0
    assert len(json.loads((tmp_path / "bench-gpu.json").read_text())["skipped"]) == 48
    assert "skipped for time: hat batch 8 bf16 channels_last compile" in capsys.readouterr().out


def test_a_cell_that_cannot_run_is_told_and_the_others_are_measured(monkeypatch):
    bench = gpu.Bench(gpu.SMOKE, CPU, 1000)
    monkeypatch.setattr(gpu, "settings", lambda scale: [gpu.Setting(4, "fp32", False, False)])
    real = gpu.straight_line

    def failing(method, *rest):
        if method == "trades":
            raise torch.OutOfMemoryError("too large\nby far")
        return real(method, *rest)

    monkeypatch.setattr(gpu, "straight_line", failing)
    assert [cell.method for cell in bench.cells()] == ["pgd-at", "hat"]
    assert bench.failed == ["trades batch 4 fp32: too large"]


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == "bench-gpu: there is no GPU here, nothing was measured\n"


class Counted(TorchDispatchMode):
    """Adds up what torch says each operation costs."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("method", gpu.METHODS)
def test_the_operations_of_a_step_are_those_of_its_passes(method):
    setting = gpu.Setting(4, "fp32", False, False)
    training = gpu.training_of(gpu.SMOKE, setting, gpu.SMOKE.images_and_labels(), CPU)
    training.method = build(MethodChoice.model_validate(gpu.METHODS[method]), training.spec.attack)
    order = training.batches.order(generator(0, "order"))
    with Counted() as counted:
        training._step(order)
    assert counted.total / 4 == gpu.operations(gpu.SMOKE)[method]


def test_it_needs_few_packages():
    """A GPU machine has torch, NumPy, pydantic and PyYAML, and not the rest of what the project installs."""
    absent = [
        "sklearn",
        "scipy",
        "pandas",
        "torchvision",
        "ray",
        "mlflow",
        "pyarrow",
        "typer",
        "rich",
        "optuna",
    ]
    program = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
    program += f"sys.path[:0] = {sys.path!r}\nimport gpu; assert gpu.main(['--budget', '0']) == 0"
    subprocess.run([sys.executable, "-c", program], check=True)

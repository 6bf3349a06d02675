"""CPU seconds and memory of short commands, beside those where garbage is collected while large libraries load.

    python tests/bench/start.py [--pairs 9]

A plan of two trials, a relay that has nothing left to tell, and a trial that trains two epochs, each as a process of
its own, in turns with the same without :mod:`orchestrate.loading`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestrate"))

from small_trials import PGD, planned, spec_of, wanted
from sweep_process import sweep_file
from written_trials import WrittenTrial, make_sweep

from orchestrate.runs import Runs

PLAIN = """
import contextlib, gc, orchestrate.loading
orchestrate.loading.loading = lambda library: contextlib.nullcontext()
gc.freeze = lambda: None
"""
RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__')"


def cost(words: list[str], before: str = "") -> tuple[float, float]:
    """CPU seconds and largest resident MB of ``python -m`` with these words, after lines of Python."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", before + RUN, *words],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, code, used = os.wait4(process.pid, 0)
    assert code == 0, f"{' '.join(words)} failed"
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=9)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = sweep_file(folder, trials=[{"method": "pgd-at"}, {"method": "trades"}])
        told = Runs(folder / "told")
        sweep = make_sweep(told)
        WrittenTrial(told, sweep, "a" * 16).whole().close("finished")
        trial = planned(Runs(folder / "runs"), spec_of(epochs=2), PGD)

        def anew() -> None:
            for part in (trial.events, trial.checkpoints, trial.outcomes):
                shutil.rmtree(part, ignore_errors=True)

        cases: list[tuple[str, list[str], Callable[[], None]]] = [
            (
                "plan",
                ["orchestrate", "sweep", str(file), "--dry-run", "--runs", str(folder / "none")],
                lambda: None,
            ),
            ("relay", ["orchestrate.relay", str(told.path), "digits", "--once"], lambda: None),
            (
                "trial",
                ["orchestrate.trial", str(trial.path), "--device", "cpu", "--eval", *wanted(trial)],
                anew,
            ),
        ]
        print(
            f"{'':8}{'ours s':>8}{'plain s':>9}{'ratio':>7}{'ours MB':>9}{'plain MB':>10}   medians of {pairs}"
        )
        for title, words, prepare in cases:
            took: dict[str, list[tuple[float, float]]] = {"": [], PLAIN: []}
            cost(words)
            for _ in range(pairs):
                for before, costs in took.items():
                    prepare()
                    costs.append(cost(words, before))
            ours, plain = (statistics.median(seconds for seconds, _ in costs) for costs in took.values())
            here, there = (statistics.median(memory for _, memory in costs) for costs in took.values())
            print(f"{title:8}{ours:8.2f}{plain:9.2f}{ours / plain:7.2f}{here:9.0f}{there:10.0f}", flush=True)


if __name__ == "__main__":
    main()

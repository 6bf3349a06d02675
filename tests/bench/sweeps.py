"""What a sweep costs beside the bare sum of its trials, and how much memory a trial takes.

    python tests/bench/sweeps.py [--trials 16] [--seconds 20 60] [--at-once 2]

The same trials run twice in this order: as plain processes, ``--at-once`` at a time, from a loop that does nothing
else; and as ``parapet sweep`` with Ray Tune, relay, MLflow and report. The overhead is the ratio of the two wall
times. A trial's length is set by its epochs, from the time that one epoch takes here on one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

SHORT = 10  # epochs of the trial that is timed to learn how long an epoch takes
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def sweep_file(folder: Path, trials: int, epochs: int, at_once: int) -> Path:
    facts = {
        "name": "bench",
        "seeds": list(range(trials)),
        "base": {
            "data": {"name": "digits"},
            "model": {"name": "small-cnn"},
            "train": {"epochs": epochs, "batch_size": 64},
            "attack": {"norm": "linf", "eps": 0.2},
        },
        "trials": [{"method": {"name": "pgd-at"}}],
        "evaluate": {"attacks": ["pgd"], "images": 100},
        "resources": {"cpus": 1, "gpus": 0},
        "concurrency": at_once,
    }
    file = folder / "bench.yaml"
    file.write_text(yaml.safe_dump(facts))
    return file


def bare(file: Path, runs: Path, at_once: int) -> float:
    """Seconds for all trials of the file as plain processes."""
    from orchestrate import sweep_file as files
    from orchestrate.plan import Planner, all_of
    from orchestrate.runs import Runs, write_whole

    sweep = files.load(file)
    store = Runs(runs)
    commands = []
    for wanted in all_of(sweep, Planner(sweep, store)):
        trial = store.trial(wanted.key)
        trial.create(wanted.spec)
        for digest, evaluation in wanted.evaluations.items():
            write_whole(trial.evaluation_file(digest), yaml.safe_dump(evaluation.model_dump(mode="json")))
        commands.append(
            [sys.executable, "-m", "orchestrate.trial", str(trial.path), "--eval", *wanted.evaluations]
        )
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        for done in pool.map(
            lambda c: subprocess.run(c, env=ALONE, capture_output=True, text=True), commands
        ):
            if done.returncode:
                sys.exit(f"a trial failed: {done.stderr[-2000:]}")
    return time.perf_counter() - began


def swept(file: Path, runs: Path) -> tuple[float, dict[str, float]]:
    """Seconds for ``parapet sweep`` on the file; and the largest memory, in MB, of its processes by kind."""
    command = [sys.executable, "-m", "orchestrate", "sweep", str(file), "--runs", str(runs)]
    peaks: dict[str, float] = {}
    began = time.perf_counter()
    with (runs.parent / "sweep.log").open("w") as log:
        process = subprocess.Popen(command, env=ALONE, stdout=log, stderr=log)
        while process.poll() is None:
            for kind, megabytes in memory():
                peaks[kind] = max(peaks.get(kind, 0.0), megabytes)
            time.sleep(1)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"the sweep failed: {(runs.parent / 'sweep.log').read_text()[-2000:]}")
    return seconds, peaks


KINDS = {
    "trial (resident)": ("orchestrate.trial", "Rss:"),
    "trial actor (proportional)": ("ray::", "Pss:"),
    "relay (resident)": ("orchestrate.relay", "Rss:"),
}


def memory() -> list[tuple[str, float]]:
    """(kind, MB) of every process of a sweep that runs now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            for kind, (mark, field) in KINDS.items():
                if mark in command and "bench/sweeps" not in command and "IDLE" not in command:
                    rollup = (folder / "smaps_rollup").read_text()
                    line = next(row for row in rollup.splitlines() if row.startswith(field))
                    found.append((kind, int(line.split()[1]) / 1024))
        except (OSError, StopIteration):  # it ended while it was looked at
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seconds", type=float, nargs="+", default=[20.0, 60.0])
    parser.add_argument("--at-once", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        n = given.at_once
        start = bare(sweep_file(folder, n, 1, n), folder / "start", n)
        epoch = (bare(sweep_file(folder, n, 1 + SHORT, n), folder / "short", n) - start) / SHORT
        print(
            f"a process starts and ends in {start:.1f} s, an epoch takes {epoch:.2f} s, {n} at a time",
            flush=True,
        )
        for seconds in given.seconds:
            epochs = max(1, round((seconds - start) / epoch))
            file = sweep_file(folder, given.trials, epochs, n)
            alone = bare(file, folder / f"bare-{seconds:g}", n)
            together, peaks = swept(file, folder / f"swept-{seconds:g}")
            print(
                f"{given.trials} trials of {alone * n / given.trials:.0f} s: bare {alone:.0f} s,"
                f" swept {together:.0f} s, overhead {100 * (together / alone - 1):.1f} %",
                flush=True,
            )
        for kind, megabytes in sorted(peaks.items()):
            print(f"{kind:<28} {megabytes:6.0f} MB")


if __name__ == "__main__":
    main()

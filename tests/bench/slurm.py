"""What Slurm sweeps cost the head node: submissions per second, and a sweep of hundreds of trials with empty jobs.

    python tests/bench/slurm.py [--trials 500] [--at-once 16] [--submissions 20]

The scheduler is the tests' fake one, so that only our own work is measured: driver, Ray Tune, one proxy per live trial,
relay, MLflow, report. A thread of this process is the site: it starts as many tasks as may run, and writes at once what
their trials would have written. Submissions are measured on the fake, and on the tests' real Slurm where its packages
are installed; there sbatch itself is part of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).parents[2]
for folder in ("tests/clusters/fake_slurm", "tests/slurm"):
    sys.path.insert(0, str(ROOT / folder))

# ruff: noqa: E402
from fake import FakeSlurm
from real_slurm import RealSlurm, missing

import clusters
from clusters.base import Job, recorded
from clusters.slurm import SlurmCluster
from evaluation import outcomes
from evaluation.outcomes import FACTS, Outcome
from orchestrate.events import EventWriter
from orchestrate.runs import Runs, TrialDir, read_yaml

IMAGES = 10
EPOCHS = 3


def submissions(folder: Path, count: int) -> tuple[float, float]:
    """Jobs per second: submitted one by one, and as one array."""
    folder.mkdir()
    (folder / "lab.yaml").write_text("partition: low\ntime: 30\n")
    cluster = clusters.open_slurm(folder / "trials", str(folder / "lab.yaml"))

    def jobs(word: str) -> list[Job]:
        places = [cluster.folder / f"{word}{number}" for number in range(count)]
        for place in places:
            place.mkdir(parents=True)
        command = ("true",)
        return [Job(p.name, p, command, 1, 0, p / "log.txt", sweep="bench") for p in places]

    alone, together = jobs("a"), jobs("b")
    began = time.perf_counter()
    for job in alone:
        cluster.submit(cluster.plan(job))
    middle = time.perf_counter()
    cluster.submit_array(together, parallel=16)
    return count / (middle - began), count / (time.perf_counter() - middle)


class Site(threading.Thread):
    """Runs the tasks of the fake Slurm: each is over as soon as it is begun."""

    def __init__(self, fake: FakeSlurm, cluster: SlurmCluster, at_once: int) -> None:
        super().__init__(daemon=True)
        self.fake, self.cluster, self.at_once = fake, cluster, at_once
        self.most = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            jobs: Mapping[str, Any] = self.fake.get("jobs")
            running = [id for id, job in jobs.items() if job["state"] == "RUNNING"]
            for id in running:
                self._end(id)
            waiting = [id for id, job in jobs.items() if job["state"] == "PENDING"]
            begun = waiting[: self.at_once]
            self.most = max(self.most, len(begun))
            for id in begun:
                self.fake.job(id, "RUNNING")

    def _end(self, id: str) -> None:
        for folder in self.cluster.folder.iterdir():
            handle = recorded(folder)
            if handle is not None and handle.id == id:
                write(TrialDir(folder))
                (folder / "slurm").mkdir(exist_ok=True)
                (folder / f"slurm/{handle.nonce}.ended").write_text("0\n")
        self.fake.job(id, "COMPLETED")


def write(trial: TrialDir) -> None:
    """What a trial that trained and was judged leaves behind, with numbers that follow from its key."""
    draw = np.random.default_rng(int(trial.key, 16) % 2**32)
    events = EventWriter(trial.events)
    events.started(pid=1, host="n1", device="cpu", threads=1, resumes_at=[0, 0], versions={})
    for epoch in range(EPOCHS):
        metrics = {
            "loss": 1 / (epoch + 1),
            "val/clean": 0.9,
            "val/robust": float(draw.random()),
            "seconds": 0.1,
        }
        events.write("epoch", epoch=epoch, step=epoch, metrics=metrics, best=True)
    events.write(
        "trained", epochs=EPOCHS, best_epoch=0, metrics={"val/clean": 0.9, "val/robust": 0.5}, seconds=1
    )
    for file in (trial.path / "evaluations").glob("*.yaml"):
        correct, robust = draw.random(IMAGES) < 0.9, draw.random(IMAGES) < 0.6
        columns = {
            "index": np.arange(IMAGES),
            "label": np.zeros(IMAGES, int),
            "clean_prediction": np.zeros(IMAGES, int),
            "clean_margin": np.zeros(IMAGES),
            "correct": correct,
            "pgd": correct & robust,
            "robust": correct & robust,
        }
        facts: dict[str, Any] = dict.fromkeys(FACTS, "")
        facts |= {"spec": read_yaml(file), "key": trial.key, "threat": {"norm": "linf", "eps": 0.2}}
        outcome = Outcome(columns, facts)
        outcomes.write(outcome, trial.outcome_file(file.stem))
        metrics = outcome.metrics()
        events.write("evaluated", evaluation=file.stem, checkpoint="best", metrics=metrics, seconds=0.1)
    events.write("finished", evaluations=[])


def swept(folder: Path, fake: FakeSlurm, trials: int, at_once: int) -> None:
    """Run the sweep, and print what it cost."""
    (folder / "lab.yaml").write_text("time: 30\npoll: 2\n")
    facts = {
        "name": "bench",
        "base": {
            "data": {"name": "digits"},
            "model": {"name": "mlp"},
            "train": {"epochs": EPOCHS},
            "attack": {"eps": 0.2},
        },
        "trials": [{"method": {"name": "trades", "beta": {"uniform": [1, 6]}}}],
        "search": {"name": "random", "samples": trials},
        "evaluate": {"attacks": ["pgd"], "images": IMAGES},
        "concurrency": at_once,
    }
    (folder / "bench.yaml").write_text(yaml.safe_dump(facts))
    runs = Runs(folder / "runs")
    where = f"slurm:{folder}/lab.yaml"
    site = Site(fake, clusters.open_slurm(runs.path / "trials", f"{folder}/lab.yaml"), at_once)
    (runs.path / "trials").mkdir(parents=True)
    site.start()
    command = [sys.executable, "-m", "orchestrate", "sweep", str(folder / "bench.yaml"), "--cluster", where]
    peaks: dict[str, float] = {}
    began = time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--runs", str(runs.path)], stdout=log, stderr=log)
        while process.poll() is None:
            for kind, megabytes in memory(process.pid):
                peaks[kind] = max(peaks.get(kind, 0), megabytes)
            time.sleep(1)
    seconds = time.perf_counter() - began
    site.over.set()
    site.join()
    if process.returncode:
        sys.exit((folder / "log").read_text()[-3000:])
    with closing(sqlite3.connect(runs.path / "mlflow.db")) as store:
        told = store.execute("select count(*) from runs where status = 'FINISHED'").fetchone()
    assert told == (trials + 1,), f"{told[0]} runs are in MLflow"
    asked = {name: len(fake.calls(name)) for name in ("sbatch", "squeue", "sacct", "scancel")}
    print(f"{trials} trials, {at_once} at once (most begun together: {site.most}): {seconds:.0f} s,")
    print(
        f"  {1000 * seconds / trials:.0f} ms of the head node for each; Slurm was asked: {json.dumps(asked)}"
    )
    for kind, megabytes in sorted(peaks.items()):
        print(f"  {kind:<28} {megabytes:6.0f} MB")


def memory(driver: int) -> list[tuple[str, float]]:
    """(kind, MB of proportional memory) of the sweep's processes that run now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            kinds = {
                "driver": int(folder.name) == driver,
                "proxy of a trial, largest": command.startswith("ray::TrialActor"),
                "relay": "orchestrate.relay" in command,
            }
            for kind in [kind for kind, is_it in kinds.items() if is_it]:
                text = (folder / "smaps_rollup").read_text()
                found.append((kind, int(text.split("Pss:")[1].split()[0]) / 1024))
        except (OSError, IndexError):  # it ended while it was looked at
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--submissions", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)
        before = dict(os.environ)
        os.environ["TMPDIR"] = scratch
        tempfile.tempdir = None
        if given.submissions and not missing():
            real = RealSlurm(folder / "s")
            real.start()
            os.environ |= real.env
            one, array = submissions(folder / "real", given.submissions)
            print(f"real Slurm: {one:.1f} submissions per second, {array:.1f} as an array", flush=True)
            real.stop()
            os.environ.clear()
            os.environ |= before | {"TMPDIR": scratch}
        fake = FakeSlurm(folder / "fake")
        fake.set(history=None)
        os.environ["PATH"] = f"{fake.bin}{os.pathsep}{os.environ['PATH']}"
        if given.submissions:
            one, array = submissions(folder / "faked", given.submissions)
            print(f"fake Slurm: {one:.1f} submissions per second, {array:.1f} as an array", flush=True)
            fake.set(jobs={}, calls=[])
        swept(folder, fake, given.trials, given.at_once)


if __name__ == "__main__":
    main()

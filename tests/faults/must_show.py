"""``python tests/faults --must-show``: 24 trials on digits under everything at once, and the same in peace.

On the tests' own Slurm, three nodes with two pretended GPUs each: a sweep with Optuna and ASHA, during which two jobs
are preempted, a node goes down and the driver is killed; then one with seeded random search and no pruning, disturbed
in the same way; then one of its trials run again from MLflow as a Slurm batch. Undisturbed, the same two sweeps run on
this machine without Slurm. What it printed goes to docs/reliability.md.
"""

from __future__ import annotations

import datetime
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import record
import yaml
from checker import WORDS, check, numbers
from real_slurm import GPUS, INSTALL, NODES, RealSlurm, install, missing
from stage import Stage
from table import put

BEGIN, END = "<!-- must show: begin -->", "<!-- must show: end -->"
SPACE = {
    "method": {"name": "trades", "beta": {"uniform": [0.5, 6]}},
    "train": {"lr": {"uniform": [0.02, 0.2]}},
}
CONTENT: dict[str, Any] = {
    "base": {
        "data": {"name": "digits"},
        "model": {"name": "small-cnn"},
        "train": {"epochs": 9, "batch_size": 64},
        "attack": {"norm": "linf", "eps": 0.2, "steps": 5},
    },
    "trials": [SPACE],
    "evaluate": {"attacks": ["pgd"], "images": 200, "pgd_steps": 10},
    "resources": {"cpus": 1, "gpus": 0},
    "limits": {"checkpoint_minutes": 0.02},
    "concurrency": 4,
}
SHOWN = {
    "search": {"name": "optuna", "samples": 24, "seed": 0},
    "scheduler": {"name": "asha", "grace_epochs": 2, "reduction": 3},
}
RANDOM = {"search": {"name": "random", "samples": 12, "seed": 0}}


class Show:
    """Says what it sees, and keeps it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.good = True

    def say(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)

    def see(self, true: bool, line: str) -> None:
        self.good &= true
        self.say(f"{'ok  ' if true else 'FAIL'}  {line}")


def write(stage: Stage, name: str, changes: dict[str, Any]) -> None:
    stage.name = name
    (stage.folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name} | CONTENT | changes))


def disturb(stage: Stage, show: Show) -> None:
    """The sweep ``stage.name`` from its start to its end: two jobs preempted, a node down, the driver killed."""
    began = time.monotonic()
    known = set(stage.trials())
    sweep = stage.start()
    stage.until(lambda: len(_at_work(stage, known)) >= 3)
    node, jobs = _busiest(stage)
    urgent = [
        "sbatch",
        "--parsable",
        "--partition=high",
        f"--nodelist={node}",
        f"--cpus-per-task={6 - len(jobs)}",
    ]
    stage.slurm(*urgent, f"--chdir={stage.folder}", "--wrap=sleep 1")
    stage.until(lambda: len(_again(stage, known)) >= 2)
    show.say(
        f"      preempted on {node}, and started again: {len(_again(stage, known))} of its {len(jobs)} jobs"
    )
    stage.until(lambda: _ended(stage) >= 4 and len(_busiest(stage)[1]) >= 2)
    node, jobs = _busiest(stage)
    stage.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    show.say(f"      node {node} down with {len(jobs)} jobs on it, {_ended(stage)} trials had ended")
    time.sleep(8)
    stage.slurm("scontrol", "update", f"nodename={node}", "state=resume")
    stage.until(lambda: _ended(stage) >= 8)
    show.say(f"      driver killed -9, {_ended(stage)} trials had ended")
    stage.kill(sweep)
    stage.finish(stage.start("--resume"))
    show.say(f"      ended after {time.monotonic() - began:.0f} s")


def _at_work(stage: Stage, known: set[str]) -> list[str]:
    return [
        key
        for key, one in stage.trials().items()
        if key not in known and one.of("epoch") and not one.finished
    ]


def _again(stage: Stage, known: set[str]) -> list[str]:
    return [key for key, one in stage.trials().items() if key not in known and one.attempts > 1]


def _ended(stage: Stage) -> int:
    return len({end.key for end in stage.ends()})


def _busiest(stage: Stage) -> tuple[str, list[str]]:
    """The node with the most of our running jobs, and these."""
    on: dict[str, list[str]] = {"": []}
    for line in stage.slurm(
        "squeue", "--noheader", "--states=R", "--partition=low", "--format=%N|%i"
    ).splitlines():
        node, id = line.split("|")
        on.setdefault(node, []).append(id)
    return max(on.items(), key=lambda found: len(found[1]))


def undisturbed(stage: Stage, show: Show) -> None:
    """The same sweep on this machine, in peace."""
    began = time.monotonic()
    stage.finish(stage.start())
    show.say(f"      undisturbed, without Slurm: ended after {time.monotonic() - began:.0f} s")


def judge(stage: Stage, alone: Stage, show: Show, count: int) -> list[str]:
    """What must hold of the disturbed sweep; the keys of trials that finished here and there."""
    keys, ends = record.ledger(stage.runs / "sweeps" / stage.name / "ledger.jsonl")
    last = {end.key: end.state for end in ends}
    states = [last.get(key, "open") for key in keys]
    done = states.count("finished") + states.count("pruned")
    told = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    show.see(done == count == len(keys), f"{len(keys)} trials: {told}")
    found = stage.record()
    again = len(found.jobs) - len({job.id for job in found.jobs})
    show.say(f"      {len({job.id for job in found.jobs})} jobs, {again} times started again by Slurm")
    show.see(not found.queued and not found.processes, "no job is left, in the queue or as a process")
    runs = {key: [run for run in found.runs if run.key == key] for key in set(keys)}
    show.see(all(len(of) == 1 for of in runs.values()), f"one MLflow run per key: {len(runs)}")
    there = record.read(alone.runs).trials
    both = [key for key in set(keys) if found.trials[key].finished and key in there and there[key].finished]
    for finding in check(found, {key: there[key].path for key in both}):
        show.see(not finding.broken, f"({finding.letter}) {WORDS[finding.letter]}: {finding}")
        for broken in finding.broken:
            show.say(f"      {broken}")
    shared = [key for key in set(keys) if key in there]
    pairs = [(numbers(found.trials[key].of("epoch")), numbers(there[key].of("epoch"))) for key in shared]
    equal = all(one == other for pair in pairs for one, other in zip(*pair, strict=False))
    show.see(
        equal,
        f"{sum(min(map(len, pair)) for pair in pairs)} epochs of {len(pairs)} trials that both sweeps had",
    )
    show.see(bool(both), f"identical to the undisturbed sweep's: {len(both)} trials that finished in both")
    return sorted(both)


def fronts(stage: Stage, alone: Stage, show: Show) -> None:
    """The front tables of the two sweeps."""
    one, other = (_front(of.runs / "sweeps" / of.name / "report") for of in (stage, alone))
    show.see(one == other and bool(one), f"the two fronts are identical: {len(one)} rows of front.parquet")


def _front(report: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    rows: list[dict[str, Any]] = parquet.read_table(report / "front.parquet").to_pylist()
    return sorted(rows, key=str)


def reproduce(stage: Stage, key: str, show: Show) -> None:
    """One of its trials again, as a Slurm batch."""
    [run] = [run.id for run in record.tracked(stage.runs / "mlflow.db") if run.key == key]
    said = stage.parapet("reproduce", run, "--cluster", f"slurm:{stage.folder / 'site.yaml'}")
    verdict = [line for line in said.splitlines() if line.startswith(("identical", "within", "differs"))]
    show.see(
        bool(verdict) and verdict[0].startswith("identical"),
        f"parapet reproduce {run[:8]}: {' '.join(verdict)}",
    )


def main() -> int:
    install()
    if missing():
        print(f"this needs a real Slurm: {INSTALL}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="show-", dir="/tmp"))
    folder.chmod(0o755)
    site = RealSlurm(folder / "site")
    site.start()
    show = Show()
    try:
        packages = ", ".join(
            f"{name} {version(name)}" for name in ("ray", "mlflow", "submitit", "optuna", "torch")
        )
        show.say(f"{datetime.date.today()}: {site.run('sbatch', '--version').strip()}, {packages},")
        show.say(
            f"Python {platform.python_version()}, {NODES} nodes with {GPUS} GPUs each (pretended), 4 trials at once"
        )
        with Stage(folder / "d", site, "shown") as stage, Stage(folder / "u", site, "shown") as alone:
            alone.where = ()
            for name, changes in (("shown", SHOWN), ("random", RANDOM)):
                samples = changes["search"]["samples"]
                show.say(f"{name}: {samples} trials, {changes['search']['name']}, {_pruning(changes)}")
                for one in (stage, alone):
                    write(one, name, changes)
                disturb(stage, show)
                undisturbed(alone, show)
                both = judge(stage, alone, show, samples)
            fronts(stage, alone, show)
            reproduce(stage, both[0], show)
    finally:
        site.stop()
        if show.good:
            shutil.rmtree(folder, ignore_errors=True)
    text = "\n".join([BEGIN, "```", "$ python tests/faults --must-show", *show.lines, "```", END])
    put(text, BEGIN, END)
    return 0 if show.good else 1


def _pruning(changes: dict[str, Any]) -> str:
    return "ASHA" if "scheduler" in changes else "no pruning"

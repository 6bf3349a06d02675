"""What a row of the faults table plays on: a sweep of the real thing in a folder of its own, and ways to disturb it.

The driver, Ray, MLflow, the jobs and Slurm are real. Where a fault cannot be made from outside at the right moment, a
shim stands before one of Slurm's commands (:meth:`Stage.shim`), or a few lines are loaded into the process that trains
(:meth:`Stage.inside`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import yaml
from checker import Finding, check
from real_slurm import RealSlurm
from sweep_process import Sweep, inside, sweep_file
from watch import Watch

from orchestrate.runs import Runs

EPOCHS = 160  # some 4 s
TRIALS = [{"method": {"name": "pgd-at"}}, {"method": {"name": "trades", "beta": 1}}]
LONGEST_S = 600.0  # for anything that is waited for


class Undisturbed:
    """The same trials, each run by one process in one go; once, whoever asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._alone = threading.Lock()

    def of(self, trial: Path) -> Path:
        with self._alone:
            return self._of(trial)

    def _of(self, trial: Path) -> Path:
        alone = self.folder / "trials" / trial.name
        if not record.trial(alone).finished:
            for part in ("spec.yaml", "evaluations"):
                copy = shutil.copytree if (trial / part).is_dir() else shutil.copy
                alone.mkdir(parents=True, exist_ok=True)
                copy(trial / part, alone / part)
            wanted = sorted(file.stem for file in (alone / "evaluations").glob("*.yaml"))
            command = [
                sys.executable,
                "-m",
                "orchestrate.trial",
                str(alone),
                "--device",
                "cpu",
                "--eval",
                *wanted,
            ]
            quiet = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
            assert done.returncode == 0, done.stderr
        return alone


class Stage:
    """One row: ``runs`` is its store. Use it in a ``with`` block, which ends what is left."""

    def __init__(self, folder: Path, site: RealSlurm, name: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.site, self.name = folder, site, name
        self.runs = folder / "runs"
        self.epochs = EPOCHS
        self.store: Path | None = None
        self.sweeps: list[Sweep] = []
        self.watch = Watch(self.runs)
        self.began = time.monotonic()
        self.env: dict[str, str] = dict(site.env)
        self.settings: dict[str, Any] = {"partition": "low", "time": 30, "poll": 0.5}
        self.where: tuple[str, ...] | None = None  # other than this Slurm
        self.notes: list[str] = []
        self.after: list[Callable[[], object]] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.end()
        for sweep in self.sweeps:
            for pid in (sweep.process.pid, *sweep.alive()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            sweep.process.wait()
        ours = [id for id, _ in record.queue(self.slurm(*record.QUEUE), self.runs)]
        if ours:
            self.slurm("scancel", *ours)
        for last in self.after:
            last()

    # what is run

    def write(self, epochs: int | None = None, **changes: Any) -> Path:
        """The sweep file: two trials unless said otherwise."""
        file = sweep_file(self.folder, self.name, **{"trials": TRIALS} | changes)
        content = yaml.safe_load(file.read_text())
        content["base"]["train"]["epochs"] = epochs or self.epochs
        file.write_text(yaml.safe_dump(content))
        return file

    def start(self, *options: str) -> Sweep:
        """Start the sweep, or with ``--resume`` go on with it."""
        profile, text = self.folder / "site.yaml", yaml.safe_dump(self.settings)
        if not profile.exists() or profile.read_text() != text:  # another driver may be reading it
            profile.write_text(text)
        file = self.folder / f"{self.name}.yaml"
        where = ("--cluster", f"slurm:{profile}") if self.where is None else self.where
        sweep = Sweep(file, Runs(self.runs), *where, *options, **self.env)
        (self.folder / "driver").write_text(str(sweep.process.pid))
        self.sweeps.append(sweep)
        return sweep

    def finish(self, sweep: Sweep, code: int = 0) -> None:
        """It ends with this exit code, and leaves nothing."""
        assert sweep.process.wait(LONGEST_S) == code, f"{code} was expected:\n{sweep.said}"
        sweep.assert_gone(60)

    def parapet(self, command: str, *words: str) -> str:
        """What another command of parapet's says about this store, once it has ended well."""
        line = [sys.executable, "-m", "orchestrate", command, *words, "--runs", str(self.runs)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(self.folder)} | self.env
        done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=LONGEST_S, check=False)
        assert done.returncode == 0, f"parapet {command}: {done.stdout[-900:]} {done.stderr[-400:]}"
        return done.stdout

    # what is disturbed

    def kill(self, sweep: Sweep) -> None:
        """kill -9 of the driver; returns when all that must go with it has gone."""
        sweep.process.kill()
        sweep.process.wait()
        self.bury(sweep)

    def bury(self, sweep: Sweep) -> None:
        """Wait for Ray, relay and reaper of a driver that has died."""
        sweep.process.wait(LONGEST_S)
        self.until(lambda: not [line for line in sweep.alive().values() if "orchestrate.trial" not in line])

    def shim(self, command: str, text: str) -> None:
        """Put lines of shell before one of Slurm's commands. ``$REAL`` is the command, ``$HERE`` the row's folder,
        ``once`` is true the first time."""
        bin = self.folder / "bin"
        bin.mkdir(exist_ok=True)
        real = shutil.which(command, path=self.site.env["PATH"])
        head = f'#!/bin/sh\nREAL={real} HERE={self.folder}\nonce() {{ mkdir "$HERE/once.{command}" 2>/dev/null; }}\n'
        (bin / command).write_text(head + textwrap.dedent(text))
        (bin / command).chmod(0o755)
        self.env["PATH"] = f"{bin}{os.pathsep}{self.site.env['PATH']}"

    def inside(self, text: str) -> None:
        """Run lines of Python at the start of every process; those of trials have ``orchestrate.trial`` in argv."""
        self.env |= inside(self.folder, text)

    def kill_training(self, key: str) -> None:
        [pid] = self.pids(key)
        os.kill(pid, signal.SIGKILL)

    def kill_job(self, id: str) -> None:
        """kill -9 of all that a job runs; by Slurm's own commands it would count as cancelled by its user."""
        facts = self.slurm("scontrol", "show", "job", id).split()
        number = next(fact.partition("=")[2] for fact in facts if fact.startswith("JobId="))
        marks = {f"SLURM_JOB_ID={number}", f"SLURM_CONF={self.site.env['SLURM_CONF']}"}
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and marks <= set(Path(entry.path, "environ").read_text().split("\0")):
                    os.kill(int(entry.name), signal.SIGKILL)

    # what is seen

    def slurm(self, *command: str) -> str:
        return record.slurm_of(self.site.env)(*command)

    def until(self, true: Callable[[], Any], seconds: float = LONGEST_S) -> None:
        end = time.monotonic() + seconds
        while not true():
            said = self.sweeps[-1].said[-1500:] if self.sweeps else ""
            assert time.monotonic() < end, f"waited in vain; the sweep says:\n{said}"
            time.sleep(0.1)

    def keys(self) -> list[str]:
        """Of the trials that have begun to train, in a fixed order."""
        return sorted(key for key in self.trials() if self.trials()[key].of("epoch"))

    def trials(self) -> dict[str, record.Trial]:
        return {folder.name: record.trial(folder) for folder in (self.runs / "trials").glob("*")}

    def ends(self) -> list[record.End]:
        """Rows that have ended, as the ledger tells it."""
        return record.ledger(self.runs / "sweeps" / self.name / "ledger.jsonl")[1]

    def pids(self, key: str) -> list[int]:
        seen = list(record.training(self.runs))
        return [pid for pid, parent, of in seen if of == key and parent not in {pid for pid, _, _ in seen}]

    def job(self, key: str) -> str:
        """The number of a trial's live job."""
        [id] = [id for id, of in record.queue(self.slurm(*record.QUEUE), self.runs) if of == key]
        return id

    def until_all_train(self, count: int = 2, epochs: int = 5) -> list[str]:
        """Wait until so many trials have done so many epochs; their keys."""
        self.until(lambda: sum(len(t.of("epoch")) > epochs for t in self.trials().values()) >= count)
        return self.keys()

    def until_checkpoint(self, key: str) -> None:
        self.until(lambda: (self.runs / "trials" / key / "checkpoints/last.pt").exists())

    def record(self) -> record.Record:
        """What is left behind; jobs that are about to go may go first."""
        end = time.monotonic() + 30
        while record.read(self.runs, self.slurm, self.store).queued and time.monotonic() < end:
            time.sleep(0.5)
        return record.read(
            self.runs, self.slurm, self.store, tuple(self.watch.together), self.watch.last_seen
        )

    def findings(self, undisturbed: Undisturbed, found: record.Record) -> list[Finding]:
        begun = [key for key, one in found.trials.items() if one.of("epoch")]
        return check(found, {key: undisturbed.of(self.runs / "trials" / key) for key in begun})

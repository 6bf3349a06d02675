"""``parapet sweep`` as a process in a test, and what it leaves behind.

All its descendants, wherever they are reparented to, carry a mark in their environment, by which they are found; but
for some of Ray's, which overwrite it, and have files open in the sweep's temporary folder.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import yaml

from orchestrate import ledger
from orchestrate.events import Story, story
from orchestrate.runs import Runs, TrialDir

MARK = "PARAPET_TEST_MARK"
SLOW = """
import os, sys, time
if "orchestrate.trial" in sys.orig_argv:
    write = os.write
    def slow(descriptor, data):
        time.sleep(0.5 if data.startswith(b'{"event": "epoch"') else 0)
        return write(descriptor, data)
    os.write = slow
"""  # for inside(): half a second more for each epoch, in which it takes no core


def sweep_file(folder: Path, name: str = "tiny", **changes: Any) -> Path:
    """HAT, PGD-AT, and the standard one that HAT needs; 1 s of training each."""
    content = {
        "name": name,
        "base": {
            "data": {"name": "digits", "train_size": 400, "test_size": 100},
            "model": {"name": "mlp"},
            "train": {"epochs": 60, "batch_size": 64},
            "attack": {"eps": 0.1, "steps": 2},
        },
        "trials": [
            {"method": {"name": "hat", "beta": 2.5, "gamma": 0.5}},
            {"method": {"name": "pgd-at"}},
            {"method": {"name": "standard"}},
        ],
        "evaluate": {"attacks": ["pgd"], "images": 50, "pgd_steps": 3},
        "resources": {"cpus": 1, "gpus": 0},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content | changes))
    return file


def inside(folder: Path, text: str) -> dict[str, str]:
    """Settings with which lines of Python run at the start of every process; trials have ``orchestrate.trial`` in argv.

    With SLOW a sweep lasts as long as what is done to it needs, however fast the machine, and disturbs nothing else.
    """
    place = folder / "inside"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(textwrap.dedent(text))
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))}


class Sweep:
    """A ``parapet sweep`` process, in a session of its own."""

    def __init__(self, file: Path, runs: Runs, *options: str, **env: str) -> None:
        self.name, self.runs, self.mark = file.stem, runs, secrets.token_hex(8)
        self.log = file.with_suffix(f".{self.mark}.log")
        self.scratch = ""
        self.process = self._start("sweep", str(file), *options, env=env)

    def _start(self, command: str, *words: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
        line = [sys.executable, "-m", "orchestrate", command, *words, "--runs", str(self.runs.path)]
        settings = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(self.log.parent), MARK: self.mark} | env
        settings.pop("RAY_ADDRESS", None)
        with self.log.open("a") as log:
            return subprocess.Popen(
                line, stdout=log, stderr=subprocess.STDOUT, env=settings, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def alive(self) -> dict[int, str]:
        """Everything it started that still lives: number and command line."""
        found = {}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_text().replace("\0", " ") if folder.name.isdigit() else ""
                if line and self._is_ours(folder):
                    found[int(folder.name)] = line
                    if "--scratch" in line:
                        self.scratch = line.split("--scratch ")[1].split()[0]
        return found

    def _is_ours(self, folder: Path) -> bool:
        if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
            return True
        files = [os.readlink(link) for link in (folder / "fd").iterdir() if link.is_symlink()]
        return bool(self.scratch) and any(file.startswith(self.scratch) for file in files)

    def rows(self) -> list[ledger.Row]:
        return ledger.read(self.runs.sweep(self.name).ledger_file)

    def trial(self, label: str) -> TrialDir:
        """The trial of a label, which there is one of."""
        [key] = {row.key for row in self.rows() if row.label == label}
        return self.runs.trial(key)

    def story(self, label: str) -> Story:
        """What that trial has told; an empty story while there is no such trial."""
        if label not in {row.label for row in self.rows()}:
            return Story()
        return story(self.trial(label).events)

    def wait(self, seconds: float = 300) -> int:
        """The exit code, once it has ended and all that it started."""
        code = self.process.wait(seconds)
        self.assert_gone(60)
        assert not (self.log.parent / ".ray").exists(), "Ray left a password in the user's home"
        return code

    def assert_gone(self, seconds: float) -> None:
        """Everything that it started has ended, or ends soon."""
        end = time.monotonic() + seconds
        while alive := self.alive():
            assert time.monotonic() < end, alive
            time.sleep(0.1)

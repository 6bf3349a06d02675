"""The driver's end of the reaper and the tracking relay (see :mod:`orchestrate.reaper`)."""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from orchestrate.runs import Runs, SweepDir
from training.errors import UserError

READY_S = 120.0  # for the tracking store to answer
TOLD_S = 60.0  # longest silence of a relay that tells what is left


class Attendant:
    """Two pipes to the relay. Starting it starts the reaper, which outlives this process and everything of it.

    Args:
        token: marks the sweep's jobs.
        scratch: the folder of the sweep's Ray.
        cluster: where the sweep's jobs run.
    """

    def __init__(
        self, runs: Runs, sweep: SweepDir, token: str, scratch: Path, cluster: str = "local"
    ) -> None:
        self.runs, self.sweep = runs, sweep
        self.ready = self.lost = False
        self.log = sweep.path / "relay.log"
        self._read = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-P", "-m", "orchestrate.reaper", str(runs.path), sweep.name]
        command += ["--driver", str(os.getpid()), "--token", token]
        command += ["--log", str(self.log), "--scratch", str(scratch), "--cluster", cluster]
        launcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True
        )
        launcher.wait()  # the reaper is its child, and no longer ours
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        self._to_relay, self._from_relay = launcher.stdin, launcher.stdout

    def wait_until_ready(self) -> None:
        """Raises UserError when the store cannot be used."""
        said = self._hear(READY_S)
        if said is None:
            raise UserError(f"the tracking store does not answer (see {self.log})")
        if not said.startswith("ready"):
            lines = self._complaints() or [f"the tracking relay ended at once (see {self.log})"]
            raise UserError(lines[-1])
        self.ready = True

    def end(self, status: str, most_s: float = math.inf) -> None:
        """Have everything told that is left, and the sweep's run ended with ``status``.

        Waits as long as the relay gets on, but not longer than ``most_s`` seconds. It then goes on alone.
        """
        self.lost = self.ready and self._hear(0) == ""
        with contextlib.suppress(BrokenPipeError):
            self._to_relay.write(f"end {status}\n")
            self._to_relay.flush()
        deadline = time.monotonic() + most_s
        while said := self._hear(min(TOLD_S, deadline - time.monotonic())):
            print(f"tracking: {said.strip()}", flush=True)
        if said is None:
            print(f"tracking: not all is told yet; its relay goes on (see {self.log})", file=sys.stderr)
        for line in self._complaints():
            print(line, file=sys.stderr)

    def replace_relay(self) -> None:
        """Tell in the place of a relay that was lost. The sweep must not be locked any more."""
        command = [
            sys.executable,
            "-P",
            "-m",
            "orchestrate.relay",
            str(self.runs.path),
            self.sweep.name,
            "--once",
        ]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, stdin=subprocess.DEVNULL, timeout=TOLD_S, check=False)

    def _hear(self, seconds: float) -> str | None:
        """The next line, an empty text at the end of them, None when nothing comes for so long."""
        ready, _, _ = select.select([self._from_relay], [], [], max(0, seconds))
        return self._from_relay.readline() if ready else None

    def _complaints(self) -> list[str]:
        """What the relay has complained of since it was last asked."""
        if not self.log.exists():
            return []
        news = self.log.read_bytes()[self._read :]
        self._read += len(news)
        return news.decode(errors="replace").splitlines()

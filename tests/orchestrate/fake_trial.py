"""Stands in for ``orchestrate.trial``: same directory, lock and events, nothing learned. Starts in 0.1 s.

``DIR/script.json`` holds one entry per attempt (the last repeats): how many epochs in all, the pause after each, and
how it ends: finished, killed, silent, hang (deaf to signals), or a kind of failure.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from clusters.base import Job, Request
from clusters.local import LocalCluster
from orchestrate.events import EventWriter, story
from orchestrate.locks import Lock, LockHeld
from orchestrate.runs import TrialDir
from orchestrate.trial import HELD, ON_REQUEST, STOPPED, StopRequest


class FakeCluster(LocalCluster):
    """The local cluster, with the trial's command replaced by this file."""

    def plan(self, job: Job) -> Request:
        after = job.command[job.command.index("orchestrate.trial") + 1 :]
        command = (sys.executable, __file__, *after)
        request = super().plan(job)
        return Request(job, command, request.env)


def write_script(trial: TrialDir, *attempts: dict[str, Any]) -> None:
    trial.path.mkdir(parents=True, exist_ok=True)
    (trial.path / "script.json").write_text(json.dumps(attempts))


def main() -> int:
    trial = TrialDir(Path(sys.argv[1]))
    wanted = sys.argv[sys.argv.index("--eval") + 1 :] if "--eval" in sys.argv else []
    request = StopRequest(trial)
    request.listen()
    try:
        with Lock(trial.lock_file):
            return attempt(trial, wanted, request)
    except LockHeld:
        return HELD


def attempt(trial: TrialDir, wanted: list[str], request: StopRequest) -> int:
    told = story(trial.events)
    events = EventWriter(trial.events)
    script = json.loads((trial.path / "script.json").read_text())
    part = script[min(events.attempt, len(script)) - 1]
    events.started(pid=os.getpid(), host="here", resumes_at=[len(told.epochs), 0])
    for epoch in range(len(told.epochs), part.get("epochs", 3)):
        why = request.why()
        if why:
            events.write("stopped", why=why)
            trial.stop_file.unlink(missing_ok=True)
            return STOPPED if why == "signal" else ON_REQUEST
        values = {"loss": 1.0, "val/clean": 0.9, "val/robust": part.get("robust", 0.5) + 0.01 * epoch}
        events.write("epoch", epoch=epoch, step=epoch, metrics=values, best=True)
        time.sleep(part.get("pause", 0.0))
    match part.get("end", "finished"):
        case "finished":
            if told.trained is None:
                events.write("trained", epochs=3, best_epoch=0, metrics={"val/clean": 0.9, "val/robust": 0.5})
            for digest in wanted:
                if digest not in told.evaluated:
                    events.write(
                        "evaluated",
                        evaluation=digest,
                        checkpoint="best",
                        metrics={"clean": 0.9, "robust": 0.4},
                    )
            events.write("finished", evaluations=wanted)
            return 0
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "silent":
            print("Segmentation fault")
            return 1
        case "hang":
            for number in (signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            print("deaf", flush=True)
            time.sleep(60)
        case kind:
            events.write("failed", kind=kind, reason=f"it was {kind}")
    return 1


if __name__ == "__main__":
    sys.exit(main())

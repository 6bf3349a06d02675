"""sbatch, squeue, sacct and scancel that behave as badly as a busy site's, and run nothing.

The test is the scheduler: it says which state a job is in (:class:`FakeSlurm`). Faults: ``lag`` (sacct knows what was
so many questions ago), ``forgets`` (squeue does not list what has ended), ``next_id`` (numbers are used again),
``down`` (no command reaches the controller), ``swallowed`` (sbatch fails although the job is in the queue),
``refuses`` (what sbatch says instead of taking a job), ``accounting`` (false: there is no sacct).
"""

import contextlib
import fcntl
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
STATE: dict[str, Any] = {
    "jobs": {},
    "history": [],
    "calls": [],
    "lag": 0,
    "forgets": False,
    "next_id": 100,
    "down": False,
    "swallowed": False,
    "refuses": "",
    "accounting": True,
}


class FakeSlurm:
    """The site, as the test sees it. ``bin`` is to be put on PATH."""

    def __init__(self, folder: Path) -> None:
        self.file, self.bin = folder / "state.json", folder / "bin"
        self.bin.mkdir(parents=True)
        self.set(**STATE)
        for name in ("sbatch", "squeue", "sacct", "scancel", "srun", "scontrol"):
            (self.bin / name).write_text(
                f'#!/bin/sh\nexec {sys.executable} -S {__file__} {self.file} {name} "$@"\n'
            )
            (self.bin / name).chmod(0o755)

    def set(self, **facts: Any) -> None:
        """Change what is so."""
        with _changing(self.file) as state:
            state |= facts

    def get(self, name: str) -> Any:
        """What is so."""
        with _changing(self.file) as state:
            return state[name]

    def job(self, id: str, state: str, **facts: str) -> None:
        """Put a job into a state; with facts, also one that the user has submitted by other means."""
        with _changing(self.file) as site:
            unknown = {"comment": "(null)", "name": "other", "place": "/elsewhere"}
            site["jobs"][id] = site["jobs"].get(id, unknown) | facts | {"state": state}

    def states(self) -> dict[str, str]:
        """Every job and its state."""
        return {id: job["state"] for id, job in self.get("jobs").items()}

    def calls(self, command: str) -> list[list[str]]:
        """How a command was called so far."""
        return [words[1:] for words in self.get("calls") if words[0] == command]


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[dict[str, Any]]:
    """What is so, to be changed by nobody else meanwhile."""
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(file.read_text()) if file.exists() else {}
        yield state
        file.write_text(json.dumps(state))


def main(file: Path, command: str, words: list[str]) -> int:
    with _changing(file) as state:
        state["calls"].append([command, *words])
        return _answer(state, file, command, words)


def _answer(state: dict[str, Any], file: Path, command: str, words: list[str]) -> int:
    if state["down"]:
        print(f"{command}: error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
        return 1
    if state["history"] is not None:
        state["history"].append({id: dict(job) for id, job in state["jobs"].items()})
    match command:
        case "sbatch":
            script = Path(words[-1]).read_text()
            (file.parent / "last").write_text(script)
            return _sbatch(state, script, "--parsable" in words)
        case "squeue":
            for id, job in state["jobs"].items():
                if not (state["forgets"] and job["state"] in ENDED):
                    words_of = {"%i": id, "%T": job["state"], "%k": job["comment"], "%j": job["name"]}
                    words_of["%r"] = job.get("reason", "None")
                    form = words[-1].removeprefix("--format=").replace("%Z", job["place"])
                    assert "--array" in words or "_" not in id, "an array that waits would be one line"
                    for letter, word in words_of.items():
                        form = form.replace(letter, word)
                    print(form)
        case "sacct":
            return _sacct(state, words)
        case "scancel":
            _scancel(state["jobs"], words)
    return 0


def _sbatch(state: dict[str, Any], script: str, parsable: bool) -> int:
    if state["refuses"]:
        print(f"sbatch: error: {state['refuses']}", file=sys.stderr)
        return 1
    found = {name: value.strip("'") for name, value in re.findall(r"#SBATCH --([\w-]+)=(.*)", script)}

    id = str(state["next_id"])
    state["next_id"] += 1
    place = {"comment": found["comment"], "name": found["job-name"], "place": found["chdir"]}
    tasks = re.fullmatch(r"0-(\d+)%\d+", found.get("array", ""))
    for own in [f"{id}_{n}" for n in range(int(tasks[1]) + 1)] if tasks else [id]:
        state["jobs"][own] = place | {"state": "PENDING"}
    if state["swallowed"]:
        print("sbatch: error: Batch job submission failed: Socket timed out on send/recv", file=sys.stderr)
        return 1
    print(id if parsable else f"Submitted batch job {id}")
    return 0


def _sacct(state: dict[str, Any], words: list[str]) -> int:
    if not state["accounting"]:
        print("Slurm accounting storage is disabled", file=sys.stderr)
        return 1
    [ids] = [word.removeprefix("--jobs=").split(",") for word in words if word.startswith("--jobs=")]
    history = state["history"] or [state["jobs"]]
    then = history[max(0, len(history) - 1 - state["lag"])]
    for id in ids:
        if id in then:
            print(f"{id}|{then[id]['state']}|{then[id]['place']}")
    return 0


def _scancel(jobs: dict[str, Any], words: list[str]) -> None:
    ids = [word for word in words if not word.startswith("--")]
    only = [word for word in words if word.startswith("--")]
    may = {"--signal=TERM": (), "--state=PENDING": ("PENDING",)}[only[0]] if only else ("PENDING", "RUNNING")
    for id in ids:
        if id in jobs and jobs[id]["state"] in may:
            jobs[id]["state"] = "CANCELLED"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))

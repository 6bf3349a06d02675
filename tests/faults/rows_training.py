"""Rows of the faults table: the process that trains, its disk, its clock."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import record
from stage import Stage

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
TORN = """
import os, signal, sys
if "orchestrate.trial" in sys.orig_argv:
    fsync = os.fsync
    def torn(descriptor):
        file = os.readlink(f"/proc/self/fd/{descriptor}")
        folder = os.path.dirname(file)
        if file.endswith("/.last.pt.tmp") and os.path.exists(f"{folder}/previous.pt"):
            try:
                os.close(os.open(f"{folder}/torn", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return fsync(descriptor)
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            if "pgd-at" in open(f"{folder}/../spec.yaml").read():  # also what a lost power supply leaves
                os.replace(file, f"{folder}/last.pt")
            os.kill(os.getpid(), signal.SIGKILL)
        return fsync(descriptor)
    os.fsync = torn
"""


def training_killed(stage: Stage) -> None:
    """training killed -9, both trials"""
    stage.write(epochs=2 * 160)
    sweep = stage.start()
    for key in stage.until_all_train():
        stage.kill_training(key)
    stage.finish(sweep)
    assert all(trial.attempts > 1 for trial in stage.trials().values())


def killed_in_the_middle_of_a_checkpoint(stage: Stage) -> None:
    """killed in the middle of a checkpoint's write: half a draft is left; or half of it is last.pt"""
    stage.inside(TORN)
    stage.write(limits={"checkpoint_minutes": 0.01})
    stage.finish(stage.start())
    for trial in stage.trials().values():
        assert (trial.path / "checkpoints/torn").exists(), "no checkpoint was torn"
        starts = [event["resumes_at"] for event in trial.of("started")]
        assert len(starts) == 2, starts
        assert starts[1] > [0, 0], starts
    stage.notes.append("both went on from the one before")


def disk_full(stage: Stage) -> None:
    """disk full on the shared folder in the middle of training; room is made, and what failed is run again"""
    stage.runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(stage.runs)], check=True)
    stage.after.append(lambda: subprocess.run(["umount", "--lazy", str(stage.runs)], check=True))
    stage.write(epochs=500)
    first = stage.start()
    stage.until_all_train()
    with (stage.runs / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(2**14)):
            pass
    stage.until(lambda: not list(record.training(stage.runs)) or first.process.poll() is not None)
    code = first.process.poll()
    (stage.runs / "ballast").unlink()
    stage.bury(first)
    stage.notes.append(f"the first driver {'had ended' if code is not None else 'stood it'}")
    where = ("--cluster", f"slurm:{stage.folder / 'site.yaml'}")
    stage.parapet("retry", stage.name, *where)
    stage.finish(stage.start("--resume"))
    assert all(trial.finished for trial in stage.trials().values()), "not all were finished"


def clock_skew(stage: Stage) -> None:
    """clocks of the nodes an hour apart; training killed, and resumed where the time is another"""
    assert FAKETIME.exists(), "needs Debian's libfaketime"
    shift = "case $SLURMD_NODENAME in n1) by=-3600;; n2) by=+3600;; *) by=+0;; esac"
    stage.settings["setup"] = [
        shift,
        f"export LD_PRELOAD={FAKETIME} FAKETIME=$by FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_RESET=1",
    ]
    stage.settings["exclusive"] = True  # a node each
    stage.write(epochs=2 * 160)
    sweep = stage.start()
    for key in stage.until_all_train():
        stage.kill_training(key)
    stage.finish(sweep)
    times = {event["t"] // 1_800_000 for trial in stage.trials().values() for event in trial.of("started")}
    assert len(times) > 1, "the clocks agreed"

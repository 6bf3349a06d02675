"""One node of a Ray inside a job, with a stand-in for Ray: asked to end it waits for trials, then leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODE = "import sys; from clusters import ray_node as n; n._ray = lambda: sys.argv[2]; n.GRACE_S = {grace}; n.main()"
TRIAL = "import time; time.sleep(60)"


def started(words: list[str], job: str, folder: Path) -> "subprocess.Popen[bytes]":
    env = os.environ | {
        "SLURM_JOB_ID": job,
        "SLURM_PROCID": "0",
        "TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(words, env=env)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(("grace", "ends"), [(60, True), (1, False)])
def test_asked_to_end_it_waits_for_its_trials_and_leaves_nothing(
    tmp_path: Path, grace: int, ends: bool
) -> None:
    ray = tmp_path / "ray"  # it leaves a file and a process with another open
    ray.write_text('#!/bin/sh\ntouch "$RAY_TMPDIR/up"\nexec 3>"$RAY_TMPDIR/log"\nexec sleep 60\n')
    ray.chmod(0o755)
    (tmp_path / "token").write_text("secret")
    trial = [sys.executable, "-c", TRIAL, "-m", "orchestrate.trial"]
    mine, others = started(trial, "41", tmp_path), started(trial, "42", tmp_path)
    scratch = tmp_path / f"parapet-ray-{os.getuid()}" / "41"
    node = started([sys.executable, "-c", NODE.format(grace=grace), str(tmp_path), str(ray)], "41", tmp_path)
    try:
        until(lambda: (scratch / "log").exists())
        node.send_signal(signal.SIGTERM)
        if ends:
            time.sleep(1.5)
            assert node.poll() is None, "it did not wait for the trial"
            assert scratch.exists()
            mine.kill()
            mine.wait()
        assert node.wait(20) == 0
        assert others.poll() is None
        assert not scratch.parent.exists()
        assert not (tmp_path / "token").exists()
    finally:
        for one in (node, mine, others):
            one.kill()
            one.wait()

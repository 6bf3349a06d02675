"""Rows of the faults table: sacct slow, empty or absent; MLflow down."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

from stage import Stage
from sweep_process import SLOW

FORGETFUL = """
said=$($REAL "$@") || exit 1
[ -n "$said" ] || exit 0
printf '%s\\n' "$said" | grep -vE '\\|(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|OUT_OF_MEMORY)\\|'
exit 0
"""
AWAY_S = 120.0
NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2\nexit 1\n"


def sacct_slow(stage: Stage) -> None:
    """sacct takes 20 s to answer, squeue has forgotten the jobs that ended, and one is killed without a word"""
    _whole_job_killed(stage, 'sleep 20\nexec $REAL "$@"\n')


def sacct_empty(stage: Stage) -> None:
    """sacct knows nothing, squeue has forgotten the jobs that ended, and one is killed without a word"""
    _whole_job_killed(stage, "exit 0\n")


def sacct_absent(stage: Stage) -> None:
    """no sacct (accounting: false), squeue has forgotten the jobs that ended, and one is killed without a word"""
    stage.settings["accounting"] = False
    _whole_job_killed(stage, NO_ACCOUNTING)


def _whole_job_killed(stage: Stage, sacct: str) -> None:
    stage.shim("sacct", sacct)
    stage.shim("squeue", FORGETFUL)
    stage.write(epochs=2 * 160)
    sweep = stage.start()
    key = stage.until_all_train()[0]
    job = stage.job(key)
    stage.kill_job(job)
    stage.finish(sweep)
    trial = stage.trials()[key]
    assert trial.attempts == 2, trial.attempts


def commands_unreachable(stage: Stage) -> None:
    """none of Slurm's commands answers for two minutes, while one job ends and another is killed"""
    for command in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
        stage.shim(
            command,
            '[ ! -e "$HERE/away" ] || { sleep 1; echo "Unable to contact slurm controller" >&2; exit 1; }\n'
            + 'exec $REAL "$@"\n',
        )
    stage.write(
        epochs=3 * 160, trials=[{"method": {"name": "trades", "beta": {"grid": [1, 2, 3]}}}], concurrency=2
    )
    sweep = stage.start()
    one, other = stage.until_all_train()
    victim = stage.job(one)
    (stage.folder / "away").touch()
    back = time.monotonic() + AWAY_S
    stage.kill_job(victim)
    stage.until(lambda: stage.trials()[other].finished)
    time.sleep(max(0.0, back - time.monotonic()))
    assert sweep.process.poll() is None, sweep.said
    (stage.folder / "away").unlink()
    stage.finish(sweep)
    assert [stage.trials()[key].attempts for key in (one, other)] == [2, 1]


def mlflow_down(stage: Stage) -> None:
    """MLflow's server killed -9 in the middle, away for two minutes"""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    stage.store = stage.folder / "server.db"
    stage.env["MLFLOW_TRACKING_URI"] = address
    server = _serve(stage, port)
    try:
        stage.inside(SLOW)
        stage.write(epochs=2 * 160)
        sweep = stage.start()
        stage.until_all_train()
        _kill(server)
        time.sleep(AWAY_S)
        server = _serve(stage, port)
        stage.finish(sweep)
        stage.record()
    finally:
        _kill(server)


def _serve(stage: Stage, port: int) -> subprocess.Popen[bytes]:
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{stage.store}"]
    words += ["--artifacts-destination", str(stage.folder / "artifacts")]
    with (stage.folder / "server.log").open("ab") as log:
        server = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, start_new_session=True)
    stage.until(lambda: _listens(port), 120)
    return server


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _kill(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

"""The last one out: ends what a sweep leaves behind, however its driver ends.

Jobs carry the sweep's token and their trial's key in their environment, and the processes of a sweep's own Ray keep
their logs open in a folder made for it. So all are found without asking anyone who may be dead. (After a kill -9 of
the driver most of Ray goes by itself; its agents do not.)

``python -m orchestrate.reaper RUNS SWEEP ...`` is started by the driver before everything else. It leaves the
driver's process tree, so that neither Ctrl-C nor ``ray job stop`` (which kills the driver with all its children after
3 s) reaches it; starts the tracking relay, whose standard input and output are the driver's; and waits. When the
driver is gone it kills Ray's processes, lets jobs write a last checkpoint, sees the relay out, and goes. Jobs on a
cluster where they outlive a sweep are ended only if the driver was about to: a stop file says so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from clusters.process import Process, others, process, users_of
from orchestrate.runs import Runs

TOKEN, KEY = "PARAPET_SWEEP_TOKEN", "PARAPET_JOB_KEY"  # names in the environment
GRACE_S = 10.0  # for a job to write its checkpoint
RELAY_S = 100.0  # for the relay to tell what is left, also to a server that is slow to answer
_POLL_S = 0.1


def jobs_of(token: str) -> list[Process]:
    """The sweep's live jobs on this machine: for each the process that leads its group."""
    found = []
    for pid in others():
        settings = _environment(pid)
        if settings.get(TOKEN) == token and settings.get(KEY):
            with contextlib.suppress(ProcessLookupError):
                leader = process(pid) if os.getpgid(pid) == pid else None
                if leader is not None and leader.alive():
                    found.append(leader)
    return found


def _environment(pid: int) -> dict[str, str]:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has gone, or is another user's
        return {}
    return dict(entry.partition("=")[::2] for entry in entries)


def end_jobs(token: str, grace_s: float = GRACE_S) -> None:
    """Ask all jobs of the sweep to end, those too that start meanwhile; kill what is left after ``grace_s``."""
    asked: set[Process] = set()
    end = time.monotonic() + grace_s
    while jobs := jobs_of(token):
        for job in jobs:
            if time.monotonic() > end:
                job.signal(signal.SIGKILL, group=True)
            elif job not in asked:
                job.signal(signal.SIGTERM)
                asked.add(job)
        time.sleep(_POLL_S)


def kill_users(folder: Path) -> None:
    """Kill the processes of the Ray whose folder this is: none of them has anything to lose."""
    while users := users_of(folder):
        for user in users:
            user.signal(signal.SIGKILL)
        time.sleep(_POLL_S)


def main() -> None:
    """The process; see the module."""
    parser = argparse.ArgumentParser(prog="python -m orchestrate.reaper")
    parser.add_argument("runs", type=Path)
    parser.add_argument("sweep")
    parser.add_argument("--driver", type=int, required=True, metavar="PID")
    parser.add_argument("--token", required=True)
    parser.add_argument("--log", type=Path, required=True, help="where the relay's complaints go")
    parser.add_argument("--scratch", type=Path, required=True, help="Ray's folder, to be removed")
    parser.add_argument("--cluster", default="local", help="where the sweep's jobs run")
    given = parser.parse_args()
    driver = process(given.driver)
    if driver is None or os.fork():
        os._exit(0)  # the child has no parent in the driver's tree
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    relay = _start_relay(given.runs, given.sweep, given.log)
    while driver.alive():
        relay.poll()
        time.sleep(2 * _POLL_S)
    kill_users(given.scratch)
    end_jobs(given.token)
    if given.cluster != "local":
        _end_elsewhere(Runs(given.runs), given.sweep, given.cluster)
    _see_out(relay, given.runs, given.sweep, given.log)
    shutil.rmtree(given.scratch, ignore_errors=True)


def _end_elsewhere(runs: Runs, sweep: str, cluster: str) -> None:
    """Finish what a driver has begun that was killed while it ended its jobs."""
    if runs.sweep(sweep).stop_file.exists():
        from orchestrate import remote

        opened = remote.open_cluster(cluster, runs)
        assert opened is not None
        remote.end(opened, sweep)


def _start_relay(runs: Path, sweep: str, log: Path) -> subprocess.Popen[bytes]:
    """The relay speaks with the driver through the pipes that were given to us; only it keeps them open."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "orchestrate.relay",
        str(runs),
        sweep,
        "--parent",
        str(os.getpid()),
    ]
    with log.open("ab") as complaints:
        relay = subprocess.Popen(command, stderr=complaints)
        os.dup2(complaints.fileno(), 2)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    return relay


def _see_out(relay: subprocess.Popen[bytes], runs: Path, sweep: str, log: Path) -> None:
    """Wait for the relay to tell how everything ended; in its place, should it have been killed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        relay.wait(RELAY_S)
    if relay.returncode is None or relay.returncode < 0:
        relay.kill()
        command = [sys.executable, "-P", "-m", "orchestrate.relay", str(runs), sweep, "--once"]
        with log.open("ab") as complaints, contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, stderr=complaints, stdin=subprocess.DEVNULL, timeout=RELAY_S)


if __name__ == "__main__":
    main()

"""Seconds from an event in a trial's directory to its numbers in MLflow: the relay, on an idle store and a busy one.

    python tests/bench/tracking.py [--seconds 30] [--trials 1 16] [--stores file server]

The relay is the real process, told by its driver's end of a pipe. Trials are threads of this process that write an
epoch each second, as fast training does. A number has arrived when the database beside MLflow shows it, which is
looked at every 20 ms.
"""

from __future__ import annotations

import argparse
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestrate"))

from written_trials import WrittenTrial, make_sweep

from orchestrate.runs import Runs, SweepDir

LOOK_S = 0.02
LATEST_S = 60.0  # that is waited for the last numbers
ARRIVED = """select m.rowid, m.timestamp from metrics m join tags t on t.run_uuid = m.run_uuid
             where t.key = 'parapet.key' and m.key = 'loss' and m.rowid > ?"""


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """An MLflow server as ``parapet ui`` starts one; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    words += ["--artifacts-destination", str(folder / "mlartifacts")]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 90
        while time.monotonic() < end and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def train(runs: Runs, sweep: SweepDir, number: int, seconds: float) -> None:
    """A trial that does an epoch each second."""
    trial = WrittenTrial(runs, sweep, f"{number:016x}", row=number).start()
    begun = time.monotonic()
    for epoch in range(int(seconds)):
        trial.epoch(epoch)
        time.sleep(max(0.0, begun + epoch + 1 - time.monotonic()))
    trial.end()
    trial.close("finished")


def measured(folder: Path, address: str | None, trials: int, seconds: float) -> list[float]:
    """The seconds of each event that arrived."""
    runs = Runs(folder)
    sweep = make_sweep(runs)
    env = os.environ | ({"MLFLOW_TRACKING_URI": address} if address else {})
    relay = subprocess.Popen(
        [sys.executable, "-m", "orchestrate.relay", str(runs.path), sweep.name, "--parent", str(os.getpid())],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert relay.stdin is not None
    assert relay.stdout is not None
    if not relay.stdout.readline().startswith("ready "):
        sys.exit("the relay did not begin")
    threads = [threading.Thread(target=train, args=(runs, sweep, n, seconds)) for n in range(trials)]
    for number, thread in enumerate(threads):
        thread.start()
        if number < len(threads) - 1:
            time.sleep(1 / trials)  # not all in the same moment
    late = _arrivals(folder / "mlflow.db", trials * int(seconds), seconds)
    for thread in threads:
        thread.join()
    relay.stdin.write("end FINISHED\n")
    relay.stdin.close()
    if relay.wait(120):
        sys.exit("the relay did not tell all")
    return late


def _arrivals(file: Path, expected: int, seconds: float) -> list[float]:
    late: list[float] = []
    row = 0
    end = time.monotonic() + seconds + LATEST_S
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as database:
        while len(late) < expected and time.monotonic() < end:
            seen = database.execute(ARRIVED, (row,)).fetchall()
            now = time.time()
            late += [now - t / 1000 for _, t in seen]
            row = max([row, *(id for id, _ in seen)])
            time.sleep(LOOK_S)
    if len(late) < expected:
        sys.exit(f"{expected - len(late)} of {expected} events never arrived")
    return late


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--stores", nargs="+", choices=("file", "server"), default=["file", "server"])
    given = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    print("seconds from event to MLflow    median   95 %    most")
    for store in given.stores:
        for trials in given.trials:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                if store == "server":
                    with server(folder) as address:
                        late = measured(folder, address, trials, given.seconds)
                else:
                    late = measured(folder, None, trials, given.seconds)
            late.sort()
            facts = (statistics.median(late), late[int(0.95 * (len(late) - 1))], late[-1])
            line = "   ".join(f"{value:5.2f}" for value in facts)
            print(f"{store:<8} {trials:>3} trials at once     {line}   ({len(late)} events)", flush=True)


if __name__ == "__main__":
    main()

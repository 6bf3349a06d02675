"""``parapet ui``: MLflow's own pages on the store, on this machine only unless asked otherwise."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO

from orchestrate.runs import Runs
from orchestrate.tracking.database import is_server, prepare, shown, uri
from training.errors import UserError

STARTING_S = 90.0
ENDING_S = 10.0
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGES = "/#/experiments?workflowType=machine_learning"  # its own choice would be those of language models
EVERYWHERE = ("0.0.0.0", "::")


def serve(runs: Runs, host: str = "127.0.0.1", port: int = 5000, allowed_hosts: tuple[str, ...] = ()) -> None:
    """Show the store until Ctrl-C, SIGTERM or the terminal's end; then no process is left.

    ``allowed_hosts`` are further names under which a browser may reach it (a login node behind a proxy). Raises
    UserError when the port is taken or the store cannot be used, before anything is started.
    """
    where = uri(runs)
    if is_server(where):
        print(f"MLFLOW_TRACKING_URI is a server already: {shown(where)}")
        return
    if not runs.path.exists():
        raise UserError(f"--runs: there is no folder {runs.path} (parapet sweep FILE makes it)")
    _refuse_taken_port(host, port)
    prepare(runs)
    url = f"http://{_browsed(host)}:{port}"
    if host not in LOOPBACK:
        print(f"Whoever can reach {host} can change this store: MLflow asks for no password.", flush=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"),
        *("--artifacts-destination", str(runs.path / "mlartifacts")),
        *("--allowed-hosts", ",".join(_names(host, allowed_hosts))),
    ]
    # The address is no argument: all users see those, and it may hold a password.
    ours = {"MLFLOW_BACKEND_STORE_URI": where, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with tempfile.TemporaryFile("w+") as said, _handled(_interrupt):
        # A session of its own: Ctrl-C reaches us alone, and the whole group is ended in order.
        server = subprocess.Popen(
            command, stdout=said, stderr=said, env=os.environ | ours, start_new_session=True
        )
        try:
            _wait_until_healthy(server, url, said)
            print(f"MLflow shows {shown(where)} at {url}{PAGES} (Ctrl-C ends it)", flush=True)
            server.wait()
            raise UserError(f"the MLflow server at {url} ended by itself: {_last_line(said)}")
        except KeyboardInterrupt:
            print()
        finally:
            with _handled(signal.SIG_IGN):  # a second Ctrl-C must not leave half of the group
                _end_group(server)


def _refuse_taken_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"--port: cannot listen on {host}:{port} ({error}); choose another") from None


def _browsed(host: str) -> str:
    """How a browser on this machine writes the host."""
    if host in EVERYWHERE:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _names(host: str, further: tuple[str, ...]) -> list[str]:
    """The names that a browser may call the server by, as MLflow's patterns: it answers 403 to any other."""
    names = ["127.0.0.1", "localhost", "[[]::1]", *further]
    if host not in LOOPBACK:
        names += [socket.gethostname(), socket.getfqdn()]
        names += [] if host in EVERYWHERE else [host]
    return [pattern for name in dict.fromkeys(names) for pattern in (name, f"{name}:*")]


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """What Ctrl-C, SIGTERM and the terminal's end do meanwhile."""
    before = {number: signal.signal(number, handler) for number in ENDINGS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, said: IO[str]) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + STARTING_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with direct.open(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UserError(f"the MLflow server at {url} did not start: {_last_line(said)}")


def _last_line(said: IO[str]) -> str:
    said.seek(0)
    lines = [line.strip() for line in said if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a process that leads its group and all that it started: asked first, killed when that takes too long."""
    for request in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + ENDING_S
        if not _signal_group(leader, request):
            return
        while time.monotonic() < deadline:
            if not _signal_group(leader, 0):
                return
            time.sleep(0.05)


def _signal_group(leader: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the group (0: only look); False when nothing of it is left."""
    leader.poll()  # a zombie leader would count as a member
    try:
        os.killpg(leader.pid, number)
    except ProcessLookupError:
        return False
    return True

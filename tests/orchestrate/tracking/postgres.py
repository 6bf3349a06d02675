"""A real PostgreSQL for tests: one server in a folder of its own, on loopback, with a password; it ends with the test.

PostgreSQL refuses to run as root, so root's tests start it as the user ``nobody``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("initdb", "postgres", "psql")
INSTALL = "apt-get install -y --no-install-recommends postgresql"
PASSWORD = "not-for/others@all"  # with what has to be escaped in an address


def missing() -> bool:
    """Is there no PostgreSQL on this machine?"""
    return any(shutil.which(name, path=_path()) is None for name in PROGRAMS)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database, password included."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    server = None
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "nobody")
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        log = (folder / "log").open("ab")
        data, port = folder / "data", _free_port()
        made = ["initdb", "--username=parapet", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
        subprocess.run([*made, str(data)], check=True, stdout=log, stderr=log, **_as_nobody())  # type: ignore[call-overload]
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder}
        words = [f"-c{name}={value}" for name, value in options.items()]
        server = subprocess.Popen(  # type: ignore[call-overload]
            ["postgres", "-D", str(data), "-cfsync=off", *words], stdout=log, stderr=log, **_as_nobody()
        )
        _create(port)
        quoted = PASSWORD.replace("/", "%2F").replace("@", "%40")
        yield f"postgresql://parapet:{quoted}@127.0.0.1:{port}/tracking"
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # does not wait for its clients to go
            server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def ask(address: str, query: str) -> list[list[str]]:
    """What the database itself says, read beside MLflow."""
    command = ["psql", address, "--no-align", "--tuples-only", "--quiet", "--command", query]
    env = os.environ | {"PATH": _path()}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    return [line.split("|") for line in told.splitlines()]


def _create(port: int) -> None:
    env = os.environ | {"PATH": _path(), "PGPASSWORD": PASSWORD}
    words = ["psql", "--host=127.0.0.1", f"--port={port}", "--username=parapet", "--dbname=postgres"]
    end = time.monotonic() + 20
    while True:
        command = [*words, "--command=create database tracking"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode == 0:
            return
        assert time.monotonic() < end, done.stderr
        time.sleep(0.1)


def _as_nobody() -> dict[str, object]:
    who = {"user": "nobody", "group": "nogroup", "extra_groups": ()} if os.getuid() == 0 else {}
    return {"env": os.environ | {"PATH": _path()}, "cwd": "/", **who}


def _path() -> str:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda bin: int(bin.parent.name))
    return os.pathsep.join([*map(str, reversed(places)), os.environ.get("PATH", "")])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

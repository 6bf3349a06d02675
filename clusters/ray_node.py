"""One node of a Ray cluster inside a Slurm job: ``python -m clusters.ray_node DIR``, started on each by srun.

The first task is the head: it takes free ports and writes down where it is; the others join it. What they write lies in
DIR, on the shared folder; Ray's own files go to a folder of this job on the node, below one that only its user can
enter. When Slurm ends the job (SIGTERM: scancel, the time limit) Ray's processes are killed, which have nothing to
lose; trials, which end with them, get the time to write a checkpoint, and a sweep's relay to tell of it. Then that
folder and the password are removed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from clusters.process import others, users_of

HEAD = "head.json"  # {"address", "dashboard", "host"}, written by the head once it has ports
AWAIT_HEAD_S = 300.0
GRACE_S = 25.0  # for trials and relays; Slurm kills 30 s after it has asked (KillWait)
_POLL_S = 0.2
_PORTS = ("object-manager-port", "node-manager-port", "dashboard-agent-listen-port", "metrics-export-port")


def main() -> NoReturn:
    """The process; see the module."""
    folder = Path(sys.argv[1])
    task = int(os.environ["SLURM_PROCID"])
    scratch = _scratch()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        words = _head(folder, scratch) if task == 0 else _worker(folder)
        print(f"task {task} on {socket.gethostname()}: ray {' '.join(words)}", flush=True)
        code = subprocess.call([_ray(), "start", "--block", *words], env=_environment(folder, scratch))
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while users := users_of(scratch):
            for user in users:
                user.signal(signal.SIGKILL)
            time.sleep(_POLL_S)
        _see_out(os.environ["SLURM_JOB_ID"])
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # another cluster's is in it
            scratch.parent.rmdir()
        if task == 0:
            (folder / "token").unlink(missing_ok=True)
    sys.exit(code)


def _scratch() -> Path:
    """This job's folder for Ray's files, the same on each node. Ray opens it to all users; the one around it is not."""
    around = Path(tempfile.gettempdir()) / f"parapet-ray-{os.getuid()}"
    around.mkdir(mode=0o700, exist_ok=True)
    if around.stat().st_uid != os.getuid() or around.stat().st_mode & 0o077:
        sys.exit(f"{around} is not this user's own: Ray's files would be open to others")
    scratch = around / os.environ["SLURM_JOB_ID"]
    scratch.mkdir(mode=0o700, exist_ok=True)
    return scratch


def _see_out(job: str) -> None:
    """Wait for the trials of this Slurm job on this node, and the processes that tell of them."""
    end = time.monotonic() + GRACE_S
    while any(_is_at_work(pid, job) for pid in others()) and time.monotonic() < end:
        time.sleep(_POLL_S)


def _is_at_work(pid: int, job: str) -> bool:
    """Is it a trial, a relay or a reaper of this Slurm job?"""
    with suppress(OSError):
        if b"-m\0orchestrate." in (Path(f"/proc/{pid}/cmdline")).read_bytes():
            return f"SLURM_JOB_ID={job}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _head(folder: Path, scratch: Path) -> list[str]:
    """Options of the head, once it is written down where it will be."""
    host = _address()
    port, dashboard, client, *others = _free_ports(3 + len(_PORTS))
    facts = {
        "address": f"{host}:{port}",
        "dashboard": f"http://{host}:{dashboard}",
        "host": socket.gethostname(),
    }
    draft = folder / f".{HEAD}.tmp"
    draft.write_text(json.dumps(facts))
    draft.replace(folder / HEAD)
    where = ["--head", f"--port={port}", f"--dashboard-host={host}", f"--dashboard-port={dashboard}"]
    where += [f"--ray-client-server-port={client}", f"--node-ip-address={host}", f"--temp-dir={scratch}"]
    return [*where, *_share(others)]


def _worker(folder: Path) -> list[str]:
    """Options of a worker, once there is a head."""
    end = time.monotonic() + AWAIT_HEAD_S
    while not (folder / HEAD).exists():
        if time.monotonic() > end:
            sys.exit("the head never said where it is")
        time.sleep(_POLL_S)
    address = json.loads((folder / HEAD).read_text())["address"]
    return [f"--address={address}", f"--node-ip-address={_own_address()}", *_share(_free_ports(len(_PORTS)))]


def _share(ports: list[int]) -> list[str]:
    """What Slurm gave this task, and ports of its own: several may be on one machine."""
    devices = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    cpus = os.environ.get("SLURM_CPUS_PER_TASK", "1")
    said = [f"--{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]
    said += ["--min-worker-port=0", "--max-worker-port=0"]  # any that are free
    return [f"--num-cpus={cpus}", f"--num-gpus={len(devices)}", "--disable-usage-stats", *said]


def _address() -> str:
    """The head's address, as other nodes reach it."""
    return os.environ.get("PARAPET_NODE_ADDRESS") or _own_address()


def _own_address() -> str:
    """What this node's name stands for; where that is Debian's 127.0.1.1, the address that it reaches others from."""
    named = socket.gethostbyname(socket.gethostname())
    return (_routed() or named) if named.startswith("127.0.1.") else named


def _routed() -> str | None:
    """The address that packets to other networks leave from; None where there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses a route
        return str(probe.getsockname()[0])
    return None


def _ray() -> str:
    return str(Path(sys.executable).with_name("ray"))


def _environment(folder: Path, scratch: Path) -> Mapping[str, str]:
    """Ray with a password; jobs find this Python's programs."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    password = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    # Ray would kill trials with their actors; of themselves they end with a checkpoint.
    password |= {"RAY_kill_child_processes_on_worker_exit": "0"}
    password |= {"PATH": path, "RAY_TMPDIR": str(scratch), "RAY_USAGE_STATS_ENABLED": "0"}
    kept = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
    }
    return kept | password


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [int(one.getsockname()[1]) for one in sockets]


if __name__ == "__main__":
    main()

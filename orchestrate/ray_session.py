"""Ray for one sweep: the cluster that RAY_ADDRESS names, or one of our own on this machine.

Our own listens on 127.0.0.1 only, asks for a password that nobody else has, writes only into a folder that is
removed afterwards, and is quiet.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrate.interruption import Interrupted, listen
from orchestrate.loading import loading
from orchestrate.plan import on_a_cluster

ENVIRONMENT = {  # of Ray and Tune; what the user sets wins
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one talks even when it is told not to
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no accuracy to report
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
WORKERS_AHEAD = (
    "RAY_prestart_worker_first_driver"  # 0: no idle process for every core; an actor starts its own
)
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: Ray listens on 127.0.0.1 only, also on Linux
OBJECT_STORE = 100_000_000  # bytes; nothing of ours goes through it


@contextlib.contextmanager
def ray_session(scratch: Path) -> Iterator[Mapping[str, float]]:
    """Start Ray, or connect to it; yields its resources (``CPU``, ``GPU``).

    Args:
        scratch: the folder for all that Ray and Tune write here; see :func:`scratch_folder`.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not on_a_cluster():
        os.environ |= {LOOPBACK: "0", WORKERS_AHEAD: "0"} | _password(scratch)
        options |= {"address": "local", "include_dashboard": False, "_temp_dir": str(scratch)}
        options |= {"object_store_memory": OBJECT_STORE}
    with loading("ray"):
        import ray

    try:
        ray.init(**options)
    except SystemExit:  # Ray has a handler of its own for SIGTERM while it starts
        raise Interrupted(signal.SIGTERM) from None
    finally:
        listen()
    try:
        yield ray.cluster_resources()
    except Interrupted:  # Tune's thread is still at work in it: it goes when this process does
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def scratch_folder() -> Path:
    """A new temporary folder with a short path: those of sockets are limited to 107 bytes, and Ray adds 70."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="parapet-", dir=usual if len(usual) < 24 else "/tmp"))


def _password(scratch: Path) -> dict[str, str]:
    """For our own Ray alone. Ray would leave one in the user's home, which `ray job submit` trips over."""
    file = scratch / "ray-token"
    file.touch(mode=0o600)
    file.write_text(secrets.token_hex(32))
    os.environ.pop("RAY_AUTH_TOKEN", None)  # it would win
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}

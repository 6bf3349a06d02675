"""The tiny job of ``parapet cluster check``: ``python -m orchestrate.probe DIR`` says what it finds where jobs run.

It writes ``DIR/found.json`` piece by piece, so that what hangs is known by what is missing, and then waits to be told
to end by SIGTERM, which is the last thing to be tried.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

from clusters.base import STOPPED
from orchestrate.runs import write_whole

WAIT_S = 60.0  # for the signal


def main() -> int:
    """Look around, then wait for the signal."""
    folder = Path(sys.argv[1])
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda n, _: told.append(n))
    found: dict[str, Any] = {
        "began": time.time(),
        "host": platform.node(),
        "python": platform.python_version(),
    }

    def tell(**facts: Any) -> None:
        found.update(facts)
        write_whole(folder / "found.json", json.dumps(found))

    tell(executable=sys.executable, read=(folder / "word").read_text())
    began = time.monotonic()
    try:
        import torch
    except ImportError as error:
        tell(torch_error=str(error))
    else:
        gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        tell(torch=torch.__version__, torch_seconds=round(time.monotonic() - began, 1), gpus=gpus)
    tell(devices=os.environ.get("CUDA_VISIBLE_DEVICES"), ready=True)
    end = time.monotonic() + WAIT_S
    while not told and time.monotonic() < end:
        time.sleep(0.05)
    tell(signal=signal.Signals(told[0]).name if told else None, ended=time.time())
    return STOPPED if told else 0


if __name__ == "__main__":
    sys.exit(main())

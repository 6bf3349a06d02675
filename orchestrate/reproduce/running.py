"""Runs a prepared script on a cluster, and shows what it prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import clusters
from clusters.base import Cluster, Handle, Job, Unavailable
from training.errors import UserError

POLL_S = (0.1, 2.0)  # shortest and longest pause between two looks
GRACE_S = 10.0


def run(job: Job, cluster: str, folder: Path) -> None:
    """Run the job, or follow the one that lives; returns when it has ended, however that was.

    Interrupted, a job that runs beside this process is asked to end; one that would outlive it goes on.

    Raises UserError when the cluster does not have it, or does not answer.
    """
    place = clusters.open(cluster, folder)
    show = _shower(job.log)
    try:
        found = place.find(job.key)
        handle = found or place.submit(place.plan(job))
    except Unavailable as error:
        raise UserError(f"--cluster {cluster}: {error}; try again in a moment") from error
    if place.share is not None:
        print(f"job {handle.id} on {cluster} {'goes on' if found else 'is submitted'}", flush=True)
    try:
        _follow(place, handle, show)
    except BaseException:
        if place.share is None:
            place.stop(handle, GRACE_S)
        raise
    finally:
        show()
        early = place.printed(handle)
        if early is not None and early.exists() and not job.log.exists():
            print(early.read_text(errors="replace"), end="")


def _follow(place: Cluster, handle: Handle, show: Callable[[], None]) -> None:
    pause, longest = POLL_S
    while place.state(handle).live:
        show()
        time.sleep(pause)
        pause = min(pause * 1.3, longest)


def _shower(log: Path) -> Callable[[], None]:
    """Prints what came to a log since the last call; what was there before is left out."""
    offset = log.stat().st_size if log.exists() else 0

    def show() -> None:
        nonlocal offset
        if log.exists():
            with log.open("rb") as text:
                text.seek(offset)
                new = text.read()
            offset += len(new)
            sys.stdout.write(new.decode(errors="replace"))
            sys.stdout.flush()

    return show

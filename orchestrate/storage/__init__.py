"""RUNS on an object store: ``--runs s3://BUCKET/PREFIX``, for nodes that share no disk and may be taken away.

What computes works on a local folder, and what it wrote is mirrored::

    head (driver, relay, commands)     a local copy of everything small; what is planned goes up before it is
                                       submitted, what trials wrote comes down while they run (:mod:`.head`)
    worker (a trial's job)             takes the trial's lease, brings its directory here, starts the process that
                                       trains, and carries up what that writes (:mod:`.job`, :mod:`.trial_mirror`)

The objects are named as the files in RUNS are (see :mod:`orchestrate.runs`), but for three things::

    trials/KEY/checkpoints/N-SHA.pt    a checkpoint of attempt N, written once, under the digest of its contents
    trials/KEY/checkpoints/N.json      which of them are last.pt, previous.pt and best.pt; the highest N counts
    .../lease/N.json                   who may write there (:mod:`.lease`); the highest N counts

Order makes the store right whenever a node vanishes: events go up before a checkpoint that is later than they
are, and an event that says that something is complete goes up after it. What a process writes that was believed dead
is in objects of its own attempt, which nobody reads.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from training.errors import UserError

MARK = "object-store"  # the file in a local copy that says what it is a copy of


def is_url(text: str) -> bool:
    """Is it the address of an object store rather than a folder?"""
    return "://" in text


def local_folder(url: str, use: str) -> Path:
    """The local copy, in PARAPET_SCRATCH or ~/.cache/parapet; ``use``: ``runs`` (the head) or ``nodes`` (a trial)."""
    root = os.environ.get("PARAPET_SCRATCH") or "~/.cache/parapet"
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    return Path(root).expanduser().resolve() / use / digest


def refuse(url: str, cluster: str, fresh: bool) -> None:
    """Raises UserError for what a sweep cannot do on an object store; without a ``url`` it is on none."""
    if url and cluster != "local":
        raise UserError(
            f"--runs: {url}: Slurm's jobs need a folder that all nodes share, not an object store"
        )
    if url and fresh:
        raise UserError(
            f"--fresh: {url}: is for a folder; on an object store give up the sweep (parapet clean)"
        )

"""Where a job runs. Knows jobs, not learning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clusters.base import Cluster


def open(name: str, folder: Path) -> Cluster:
    """The cluster of that name, for jobs whose directories are in ``folder``. Raises UserError."""
    from clusters.local import LocalCluster
    from training.errors import UserError

    if name != "local":
        raise UserError(f"--cluster: there is no cluster '{name}'; there is: local")
    return LocalCluster(folder)

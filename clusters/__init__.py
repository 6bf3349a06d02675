"""Where a job runs. Knows jobs, not learning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clusters.base import Cluster
    from clusters.slurm import SlurmCluster


def open(name: str, folder: Path) -> Cluster:
    """The cluster of that name, for jobs whose directories are in ``folder``. Raises UserError."""
    from clusters.local import LocalCluster
    from training.errors import UserError

    if name == "local":
        return LocalCluster(folder)
    kind, _, profile = name.partition(":")
    if kind != "slurm":
        raise UserError(f"--cluster: there is no cluster '{name}'; there is: local, slurm:PROFILE")
    if not profile:
        raise UserError("--cluster slurm: say which profile, like slurm:lab or slurm:./lab.yaml")
    return open_slurm(folder, profile)


def open_slurm(folder: Path, profile: str = "") -> SlurmCluster:
    """Slurm, by a profile's name or path; with none, only to look after jobs that are there. Raises UserError."""
    from clusters import profile as profiles
    from clusters.slurm import SlurmCluster

    return SlurmCluster(folder, profiles.read(profile) if profile else None)

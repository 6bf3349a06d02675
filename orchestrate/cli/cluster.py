"""Commands about where trials run: cluster check, reap."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from orchestrate.cli.common import RunsOption, SweepArgument, find_sweep
from orchestrate.runs import locate
from training.errors import UserError

app = typer.Typer(help="Where trials run: is a Slurm profile right?", pretty_exceptions_enable=False)


@app.callback()
def cluster(ctx: typer.Context, runs: RunsOption = None) -> None:
    """Where trials run."""
    if runs is not None:
        ctx.default_map = {"check": {"runs": runs}}


@app.command()
def check(
    profile: Annotated[
        str, typer.Argument(metavar="PROFILE", help="A profile's name or file, like slurm:lab.")
    ],
    wait: Annotated[
        float, typer.Option("--wait", min=1, metavar="S", help="Seconds that the job may wait in the queue.")
    ] = 300,
    runs: RunsOption = None,
) -> int:
    """Submit a tiny job, and say what works: python, torch, GPU, shared folder, signals, sacct.

    What does not work names the line of the profile to change.
    """
    import clusters
    from orchestrate.check import check as findings

    store = locate(runs)
    folder = store.path / "checks"
    opened = clusters.open_slurm(folder, profile.removeprefix("slurm:"))
    if opened.profile is None:
        raise UserError("cluster check: say which profile, like slurm:lab or ./lab.yaml")
    print(f"profile {opened.profile.file}")
    failed = 0
    for finding in findings(opened, wait):
        failed += finding.works is False
        word = {True: "ok", False: "FAILS", None: "-"}[finding.works]
        print(f"{finding.what:14} {word:6} {finding.says}", flush=True)
    if failed:
        print(f"{failed} of it does not work; what the job printed is in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def reap(
    name: SweepArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show them; end nothing.")] = False,
    runs: RunsOption = None,
) -> None:
    """End Slurm jobs of a sweep that nobody needs: their trial is over, or unknown, or has another job.

    Jobs of trials that are still to be finished go on, and are taken over when the sweep is resumed (parapet stop
    ends those too). Jobs that are not of this sweep are never touched.
    """
    import clusters
    from clusters.base import Unavailable
    from orchestrate import remote

    store = locate(runs)
    swept = find_sweep(store, name)
    cluster = clusters.open_slurm(store.path / "trials")
    try:
        kept = len(cluster.live(swept.name))
        found = remote.leftovers(store, swept.name, cluster)
    except Unavailable as error:
        raise UserError(f"reap: {error}") from None
    if dry_run:
        for one in found:
            print(f"job {one.job.id} ({one.job.name}, {one.job.state}): {one.why}")
    else:
        remote.reap(store, swept.name, cluster)
    print(f"{name}: {len(found)} jobs left over, {kept - len(found)} others of this sweep")

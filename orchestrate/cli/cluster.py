"""Commands about where trials run: cluster check, up, down; reap."""

from __future__ import annotations

import re
import shlex
import shutil
from typing import Annotated

import typer

from orchestrate.cli.common import RunsOption, SweepArgument, find_sweep
from orchestrate.runs import locate
from training.errors import UserError

app = typer.Typer(
    help="Where trials run: is a Slurm profile right? Ray on Slurm's nodes.", pretty_exceptions_enable=False
)


@app.callback()
def cluster(ctx: typer.Context, runs: RunsOption = None) -> None:
    """Where trials run."""
    if runs is not None:
        ctx.default_map = {name: {"runs": runs} for name in ("check", "up", "down")}


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


@app.command()
def up(
    profile: Annotated[
        str, typer.Argument(metavar="slurm:PROFILE", help="A profile's name or file, like slurm:lab.")
    ],
    nodes: Annotated[int, typer.Option("--nodes", min=1, metavar="N", help="How many nodes.")] = 1,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores of each; default: the profile's.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of each; default: the profile's.")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="M", help="Memory of each, like 64G; default: the profile's.")
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=1, metavar="S", help="Seconds until all nodes have to be there.")
    ] = 3600,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the sbatch script; submit nothing.")
    ] = False,
    runs: RunsOption = None,
) -> None:
    """Start Ray on nodes of Slurm, as one job, and say how sweeps are submitted to it.

    It ends at the profile's time limit, or with parapet cluster down.
    """
    from clusters import allocation
    from clusters import profile as profiles
    from clusters.base import Unavailable

    store = locate(runs)
    read = profiles.read(profile.removeprefix("slurm:"))
    if memory is not None and not re.fullmatch(r"[0-9]+[KMGT]", memory):
        raise UserError(f"--memory: '{memory}' is none, like 64G")
    size = allocation.Size(
        nodes, cpus or read.cpus, read.gpus if gpus is None else gpus, memory or read.memory
    )
    root = store.path.resolve() / "ray"
    if dry_run:
        print(allocation.script(read, size, root / "NONCE"), end="")
        return
    one = None
    try:
        one = allocation.up(read, size, root)
        allocation.wait(one, nodes, wait, lambda line: print(line, flush=True))
    except Unavailable as error:
        raise UserError(f"cluster up: {error}") from None
    except KeyboardInterrupt:
        if one is not None:
            allocation.down(one)
        raise
    head = one.head()
    assert head is not None
    where = f"--runs {shlex.quote(str(store.path.resolve()))}"
    print(
        f"Ray is up: {nodes} nodes of {size.cpus} cores and {size.gpus} GPUs, for {allocation.minutes_left(read)}"
    )
    print("To submit a sweep, with a RUNS that the nodes see too:")
    print(f"  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(str(one.token_file))}")
    print(f"  ray job submit --address {head['dashboard']} --working-dir . -- parapet sweep FILE {where}")
    print(f"To end it: parapet cluster down {one.job} {where}")


@app.command()
def down(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="Its number, if there are several.")
    ] = None,
    runs: RunsOption = None,
) -> int:
    """End Ray on Slurm's nodes, and what runs there; trials can go on elsewhere from their last checkpoints."""
    from clusters import allocation
    from clusters.base import Unavailable

    store = locate(runs)
    try:
        there = list(allocation.running(store.path / "ray"))
        chosen = [one for one in there if job in (None, one.job)]
        if not chosen:
            also = f"; there are: {', '.join(one.job for one in there)}" if there else ""
            raise UserError(f"cluster down: {store.path} has no Ray cluster{f' {job}' if job else ''}{also}")
        if len(chosen) > 1:
            raise UserError(f"cluster down: say which: {', '.join(one.job for one in chosen)}")
        ended = allocation.down(chosen[0])
    except Unavailable as error:
        raise UserError(f"cluster down: {error}") from None
    print(f"job {chosen[0].job}: {'ended' if ended else 'is cancelled and still about to end'}")
    return 0 if ended else 1


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

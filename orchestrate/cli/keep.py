"""The command that makes room: clean."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrate.cli.common import RunsOption, complete_sweep, find_sweep, in_bytes, size_of, table
from orchestrate.runs import locate
from training.errors import UserError


def clean(
    sweeps: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SWEEP]...", help="Give up these sweeps too.", autocompletion=complete_sweep),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs: RunsOption = None,
) -> None:
    """Show what nobody needs any more, ask, and remove it.

    Never what a run needs that is going on, nor a trial that a sweep mentions, nor a helper of one. Name a sweep to
    give it up, and with it the trials that only it needs.
    """
    from orchestrate.remote import refuse_jobs
    from orchestrate.tidy import remove, waste

    store = locate(runs)
    given_up = {find_sweep(store, name).name for name in sweeps or []}
    if store.url:
        from orchestrate.storage.head import Head

        if busy := Head(store).in_use():
            raise UserError(f"{store.url}: somebody is at work in it ({busy}); clean when it has ended")
    found = waste(store, given_up)
    if not found:
        print(f"{store.path}: nothing to clean")
        return
    refuse_jobs(store, [w.path.name for w in found if w.path.parent == store.path / "trials"], "clean")
    sizes = {w.path: size_of(w.path) for w in found}
    rows = [(in_bytes(sizes[w.path]), w.why, str(w.path.relative_to(store.path))) for w in found]
    table(("size", "why", "what"), rows)
    print(f"\n{in_bytes(sum(sizes.values()))} in all")
    if not yes:
        typer.confirm("Remove all of this?", abort=True)
    still = waste(store, given_up)  # something may have come to need it while the question stood
    for one in found:
        if one in still:
            remove(one, store)
            if store.url:
                Head(store).remove(one.path.relative_to(store.path).as_posix())
    print("removed")

"""The command that makes trials end: stop."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from orchestrate.cli.common import RunsOption, complete_either
from orchestrate.runs import Runs, locate
from training.errors import UserError

STOPPING_S = 30.0  # most time to wait until what was asked to stop has stopped


def stop(
    name: Annotated[
        str, typer.Argument(metavar="KEY|SWEEP", help="A trial or a sweep.", autocompletion=complete_either)
    ],
    runs: RunsOption = None,
) -> int:
    """Stop a trial or a whole sweep. Each trial writes a checkpoint first, from which it can go on."""
    store = locate(runs)
    if store.url:
        from orchestrate.storage.head import stop as stop_there

        return stop_there(store, name)
    if "/" not in name and store.sweep(name).sweep_file.exists():
        return _stop_sweep(store, name)
    try:
        trial = store.find(name)
    except UserError as error:
        raise UserError(f"{error}, and no sweep of that name") from None
    return _stop_trials(store, [trial.key])


def _stop_sweep(store: Runs, name: str) -> int:
    """Ask the driver, or, where it is gone, the trials that still run."""
    from orchestrate import ledger
    from orchestrate.locks import Watch
    from orchestrate.runs import write_whole

    swept = store.sweep(name)
    driver = Watch(swept.lock_file)
    if not driver.held():
        return _stop_trials(store, [row.key for row in ledger.read(swept.ledger_file) if row.state == "open"])
    write_whole(swept.stop_file, '{"why": "stopped"}')
    if not _gone([driver]):
        print(f"{name}: is asked to stop and still about to")
        return 1
    print(f"{name}: stopped; parapet sweep {name} --resume goes on with it")
    return 0


def _stop_trials(store: Runs, keys: list[str]) -> int:
    from orchestrate.locks import Watch
    from orchestrate.remote import stop_trials
    from orchestrate.runner import ask_to_stop

    running = [store.trial(key) for key in dict.fromkeys(keys) if Watch(store.trial(key).lock_file).held()]
    for trial in running:
        ask_to_stop(trial, "cancelled")
    elsewhere = stop_trials(store, keys)
    if not running:
        print(f"stopped: {', '.join(elsewhere)}" if elsewhere else "nothing of it is running")
    elif not _gone([Watch(trial.lock_file) for trial in running]):
        print(f"{len(running)} trials are asked to stop and still about to")
        return 1
    else:
        print(f"stopped: {', '.join(trial.key for trial in running)}")
    return 0


def _gone(locks: list[Any]) -> bool:
    """Wait until nobody holds any of these."""
    deadline = time.monotonic() + STOPPING_S
    while any(lock.held() for lock in locks):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True

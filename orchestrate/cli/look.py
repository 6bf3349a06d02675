"""Commands that look at what is there: front, ls, show, logs, ui."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Annotated

import typer

from orchestrate import accounts, events, ledger
from orchestrate.cli.common import (
    RunsOption,
    TrialArgument,
    complete_sweep,
    find_sweep,
    in_bytes,
    percent,
    rows_by_key,
    size_of,
    table,
)
from orchestrate.events import Story
from orchestrate.ledger import Row
from orchestrate.locks import Watch
from orchestrate.runs import Runs, SweepDir, TrialDir, locate
from training.errors import UserError

STATES = ("finished", "failed", "pruned", "open")  # of the rows of a ledger


def front(
    sweeps: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SWEEP]...", help="Default: all of them.", autocompletion=complete_sweep),
    ] = None,
    runs: RunsOption = None,
) -> None:
    """Show the front of accuracy against robustness, and draw it."""
    from orchestrate import report

    store = locate(runs)
    for name in sweeps or []:
        find_sweep(store, name)
    report.show(report.make(store, sweeps or None))


def ls(
    name: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="Only this one.", autocompletion=complete_sweep)
    ] = None,
    times: Annotated[bool, typer.Option("--time", help="Show what trials cost instead.")] = False,
    runs: RunsOption = None,
) -> None:
    """List sweeps and trials: how far they are, and how they came out; or what they cost."""
    store = locate(runs)
    swept = [find_sweep(store, name)] if name else list(store.sweeps())
    ledgers = {sweep.name: ledger.read(sweep.ledger_file) for sweep in swept}
    keys = {row.key for rows in ledgers.values() for row in rows}
    trials = [t for t in store.trials() if name is None or t.key in keys]
    if not swept and not trials:
        print(f"{store.path}: nothing here yet (parapet init writes a first sweep file)")
        return
    if swept:
        table(("sweep", "trials", *STATES, "driver"), [_sweep_line(s, ledgers[s.name]) for s in swept])
        print()
    rows = rows_by_key(store)
    if times:
        _show_times(store, trials, rows)
        return
    table(
        ("key", "state", "epochs", "clean", "robust", "seed", "label"),
        [_line(trial, rows.get(trial.key, [])) for trial in trials],
    )


def show(key: TrialArgument, runs: RunsOption = None) -> None:
    """Show one trial: its spec, its loss, its story, its results, its files."""
    import yaml

    store = locate(runs)
    trial = store.find(key)
    told, rows = events.story(trial.events), rows_by_key(store).get(trial.key, [])
    spec = trial.spec()
    print(f"trial    {trial.key}")
    print(f"label    {rows[-1].label if rows else spec.method.name}, seed {spec.seed}")
    print(f"loss     {_formula(trial, rows)}")
    print(f"state    {_state(trial, told)}{_why(told)}")
    print(f"sweeps   {', '.join(_sweeps_of(store, trial.key)) or 'none'}")
    if told.first_t and told.last_t:
        took = (told.last_t - told.first_t) / 60_000
        print(
            f"time     from {_clock(told.first_t)} to {_clock(told.last_t)} ({took:.1f} min), attempt {told.attempt}"
        )
    for one in accounts.of(trial.events).attempts:
        wait = "" if one.wait is None else f" after {accounts.duration(one.wait)} in the queue"
        job = f", job {one.job}" if one.job else ""
        print(
            f"attempt  {one.number} ran {accounts.duration(one.seconds)}{wait} on {one.node or 'an unknown node'}{job}:"
            f" {one.outcome or 'no end was heard'}, {one.gpu_hours:.2f} GPU-hours"
        )
    print(f"\nspec\n{_indented(yaml.safe_dump(spec.dump(), sort_keys=False))}")
    if told.epochs:
        last = told.epochs[-1]
        print(f"epoch {last['epoch'] + 1} of {spec.train.epochs}")
        print(_indented("\n".join(f"{name:<20} {value:.4g}" for name, value in last["metrics"].items())))
    for event in told.evaluated.values():
        print(f"evaluation {event['evaluation']} of {event['checkpoint']}.pt ({event['seconds']:.1f} s)")
        print(
            _indented("\n".join(f"{name:<20} {percent(value)} %" for name, value in event["metrics"].items()))
        )
    print("files")
    for file in sorted(file for file in trial.path.rglob("*") if file.is_file()):
        print(f"  {in_bytes(size_of(file)):>9}  {file}")


def logs(
    key: TrialArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial ends.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, metavar="N", help="Default: the last one.")] = None,
    runs: RunsOption = None,
) -> None:
    """Print what a trial printed."""
    trial = locate(runs).find(key)
    numbers = sorted(int(file.stem) for file in trial.logs.glob("*.txt") if file.stem.isdigit())
    if not numbers or (attempt is not None and attempt not in numbers):
        raise UserError(
            f"{trial.logs}: attempt {attempt or 1} has printed nothing (there are: {numbers or 'none'})"
        )
    file = trial.logs / f"{attempt or numbers[-1]}.txt"
    lock = Watch(trial.lock_file)
    with file.open(errors="replace") as lines:
        while True:
            live = follow and lock.held()  # asked before reading, so that the last words are not missed
            sys.stdout.write(lines.read())
            sys.stdout.flush()
            if not live:
                return
            time.sleep(0.3)


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    host: Annotated[str, typer.Option(help="127.0.0.1 is this machine only.")] = "127.0.0.1",
    allowed_hosts: Annotated[
        list[str] | None, typer.Option("--allowed-host", help="A further name that browsers may call it by.")
    ] = None,
    runs: RunsOption = None,
) -> None:
    """Show the tracked runs in MLflow's own pages, until Ctrl-C."""
    from orchestrate import store

    store.serve(locate(runs), host, port, tuple(allowed_hosts or ()))


def _sweep_line(sweep: SweepDir, rows: list[Row]) -> tuple[str, ...]:
    counts = [str(sum(row.state == state for row in rows)) for state in STATES]
    return (sweep.name, str(len(rows)), *counts, "running" if Watch(sweep.lock_file).held() else "-")


def _line(trial: TrialDir, rows: list[Row]) -> tuple[str, ...]:
    told, spec = events.story(trial.events), trial.spec()
    metrics = _judged(told, rows)
    return (
        trial.key,
        _state(trial, told),
        f"{len(told.epochs)}/{spec.train.epochs}",
        percent(metrics.get("clean")),
        percent(metrics.get("robust")),
        str(spec.seed),
        rows[-1].label if rows else spec.method.name,
    )


def _show_times(store: Runs, trials: list[TrialDir], rows: dict[str, list[Row]]) -> None:
    """What each trial cost, and all together."""
    told = {trial.key: accounts.of(trial.events) for trial in trials}
    lines = []
    for trial in trials:
        account, own = told[trial.key], rows.get(trial.key, [])
        lines.append(
            (
                trial.key,
                _state(trial, events.story(trial.events)),
                accounts.duration(account.wait),
                accounts.duration(account.seconds),
                f"{account.gpu_hours:.2f}",
                str(len(account.attempts)),
                ", ".join(account.nodes) or "-",
                own[-1].label if own else trial.spec().method.name,
            )
        )
    table(("key", "state", "waited", "ran", "GPU-h", "attempts", "node", "label"), lines)
    states = {key: own[-1].state for key, own in rows.items()}
    print(
        f"\nall: {accounts.total((told[t.key], states.get(t.key, ''), accounts.epochs_of(t)) for t in trials)}"
    )


def _judged(told: Story, rows: list[Row]) -> dict[str, float]:
    """The metrics that the trial's sweeps go by: of the first evaluation that they want and that is there."""
    wanted = [digest for row in reversed(rows) for digest in row.evaluations]
    for digest in [*wanted, *reversed(told.evaluated)]:
        if digest in told.evaluated:
            metrics: dict[str, float] = told.evaluated[digest]["metrics"]
            return metrics
    return {}


def _state(trial: TrialDir, told: Story) -> str:
    if told.state in ("running", "trained") and not Watch(trial.lock_file).held():
        return "interrupted"
    return told.state


def _why(told: Story) -> str:
    if told.failure:
        return f" ({told.failure['kind']}: {told.failure['reason']})"
    return f" ({told.stopped})" if told.stopped else ""


def _formula(trial: TrialDir, rows: list[Row]) -> str:
    if rows and rows[-1].formula:
        return rows[-1].formula
    from training.extensions import load_all
    from training.resolve import formula

    spec = trial.spec()
    load_all(spec.imports, trial.imports)
    return formula(spec)


def _sweeps_of(store: Runs, key: str) -> list[str]:
    return [s.name for s in store.sweeps() if any(row.key == key for row in ledger.read(s.ledger_file))]


def _clock(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).isoformat(" ", "seconds")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip("\n").split("\n"))

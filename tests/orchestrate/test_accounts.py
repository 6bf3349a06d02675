"""What trials cost, by hand-written events; and a sweep that stops submitting when its GPU-hours are spent."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_agenda import BASE, agenda_of, method, perform, sweep_of

from clusters.base import Handle, intend, record, submitted
from orchestrate import accounts, ledger
from orchestrate.accounts import Account, duration, total
from orchestrate.agenda import Pause
from orchestrate.budget import Budget
from orchestrate.ledger import Row
from orchestrate.runner import Runner, Task
from orchestrate.runs import Runs
from training.spec import TrialSpec

HOUR = 3_600_000  # milliseconds


def event(kind: str, t: float, **facts: Any) -> dict[str, Any]:
    """An event at ``t`` hours."""
    return {"event": kind, "t": int(t * HOUR)} | facts


def told(*events: dict[str, Any]) -> Account:
    account = Account()
    for one in events:
        account.tell(one)
    return account


def started(t: float, number: int = 1, **facts: Any) -> dict[str, Any]:
    return event("started", t, attempt=number, host=f"n{number}", threads=4, **facts)


LOST_ONCE = (
    started(1, submitted=int(0.5 * HOUR), gpus=1, job="7"),
    event("epoch", 1.5, epoch=0, metrics={"seconds": 1800.0}),
    event("checkpoint", 1.5),
    event("epoch", 2, epoch=1, metrics={"seconds": 1800.0}),
    # killed; requeued as the same job
    started(2.25, 2, submitted=int(0.5 * HOUR), gpus=1, job="7"),
    event("epoch", 2.75, epoch=1, metrics={"seconds": 1800.0}),
    event("trained", 3),
    event("evaluated", 3.25),
    event("finished", 3.25),
)


def test_waits_runs_and_what_was_lost_are_told_apart() -> None:
    account = told(*LOST_ONCE)
    first, second = account.attempts
    assert (first.wait, first.seconds, first.lost, first.outcome) == (1800, 3600, 1800, "")
    assert (second.wait, second.seconds, second.lost, second.outcome) == (900, 3600, 0, "finished")
    assert (account.wait, account.seconds, account.gpu_hours) == (2700, 7200, 2.0)
    assert account.nodes == ["n1", "n2"]
    assert (first.job, account.cpu_hours) == ("7", 8.0)


def test_clocks_that_disagree_make_no_wait_below_zero_and_an_old_trial_has_none() -> None:
    assert told(started(1, submitted=int(1.5 * HOUR))).wait == 0
    [attempt] = told(started(1)).attempts
    assert attempt.wait is None


def test_a_stopped_trial_has_lost_nothing_and_a_failed_one_what_was_not_saved() -> None:
    begun = (started(0), event("checkpoint", 1), event("epoch", 2, metrics={}))
    assert told(*begun, event("stopped", 2, why="pruned")).attempts[0].lost == 0
    assert told(*begun, event("failed", 3)).attempts[0].lost == 7200


def test_totals_count_gpus_where_there_are_any_and_what_pruning_saved() -> None:
    pruned = told(
        started(0, gpus=0.5),
        *(event("epoch", n + 1, metrics={"seconds": 3600.0}) for n in range(3)),
        event("stopped", 3, why="pruned"),
    )
    both = total([(told(*LOST_ONCE), "finished", 4), (pruned, "pruned", 10)])
    assert (both.on_gpus, both.hours, both.lost) == (True, 2 + 1.5, 0.5)
    assert both.saved == pytest.approx(7 * 0.5)
    assert both.waits == (1800, 900)
    said = "3.50 GPU-hours; of which 0.50 were lost with jobs that ended early; jobs waited 22 min in the middle,"
    assert str(both) == f"{said} 30 min at most; pruning 1 trials saved at least 3.50"
    assert str(total([(told(started(0), event("epoch", 2, metrics={})), "open", 9)])).startswith("8.00 core")
    assert str(total([])) == "0.00 core-hours"


def test_durations_are_short_words() -> None:
    assert [duration(s) for s in (0, 99, 100, 5399, 5400, 90_000)] == [
        "0 s", "99 s", "2 min", "90 min", "1.5 h", "25.0 h",
    ]  # fmt: skip


def test_the_time_of_a_submission_outlives_that_its_number_is_written_down(tmp_path: Path) -> None:
    nonce = intend(tmp_path)
    then = submitted(tmp_path)
    assert then is not None
    record(tmp_path, nonce, Handle("local", "1"))
    assert submitted(tmp_path) == then
    record(tmp_path, "another", Handle("local", "2"))
    assert submitted(tmp_path) is None


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def write(runs: Runs, key: str, *events: dict[str, Any]) -> None:
    folder = runs.trial(key).events
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    numbers = itertools.accumulate(int(one["event"] == "started") for one in events)
    for number, one in zip(numbers, events, strict=True):
        first = {"previous_lines": 9} if one["event"] == "started" else {}
        with (folder / f"{number}.jsonl").open("a") as file:
            file.write(json.dumps(one | first) + "\n")


def test_a_budget_counts_what_this_sweep_has_spent_and_says_when_it_is_over(runs: Runs) -> None:
    file = runs.sweep("s").ledger_file
    ledger.append(file, Row(0, "before", t=5 * HOUR))  # trained by another sweep, long ago
    ledger.append(file, Row(1, "ours", t=1))
    write(runs, "before", *LOST_ONCE)
    write(runs, "ours", *LOST_ONCE[:4])
    budget = Budget(runs, "s", 2.0)
    assert budget.spent() == 1.0
    assert not budget.reached()
    assert not runs.sweep("s").spent_file.exists()
    write(runs, "ours", *LOST_ONCE)
    budget = Budget(runs, "s", 2.0)
    assert budget.spent() == 2.0
    assert budget.reached()
    assert runs.sweep("s").spent_file.exists()
    assert not Budget(runs, "s", 3.0).reached(), "a larger one begins anew"
    assert not runs.sweep("s").spent_file.exists()
    assert not Budget(runs, "s", None).reached()


def test_a_sweep_hands_out_nothing_more_and_leaves_the_rest_open(runs: Runs) -> None:
    sweep = sweep_of(method("trades", beta={"grid": [1, 3]}), method("pgd-at"))
    spent = [False]
    agenda = agenda_of(sweep, runs, spent=lambda: spent[0])
    row = agenda.next()
    assert isinstance(row, Row)
    spent[0] = True
    assert agenda.next() is Pause.OVER
    perform(agenda, row)
    agenda.done(row, {"state": "finished", "done": True, "mine": True})
    assert agenda.next() is Pause.OVER
    again = agenda_of(sweep, runs)
    assert isinstance(again.next(), Row)
    assert next(one.state for one in ledger.read(agenda.file)) == "finished"


def test_nothing_is_submitted_again_once_it_is_spent(runs: Runs) -> None:
    trial = runs.trial("k")
    trial.create(TrialSpec.model_validate(BASE | {"method": {"name": "pgd-at"}}))
    spent = runs.sweep("s").spent_file
    spent.parent.mkdir(parents=True)
    spent.touch()
    report = Runner(Task(str(runs.path), "k", (), spent_file=str(spent))).step()
    assert (report["state"], report["done"]) == ("stopped", True)
    assert not trial.job_file.exists()


def test_an_account_is_read_from_a_trials_files(runs: Runs) -> None:
    write(runs, "k", *LOST_ONCE)
    assert accounts.of(runs.trial("k").events).gpu_hours == 2.0

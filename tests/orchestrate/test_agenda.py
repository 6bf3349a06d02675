"""What is run next is right at any moment, for a driver that begins, goes on, or finds its file changed."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrate import ledger
from orchestrate.agenda import DROPPED, Agenda, Pause
from orchestrate.events import EventWriter
from orchestrate.ledger import Row
from orchestrate.plan import Planner, Wanted
from orchestrate.runs import Runs
from orchestrate.search import Config, proposer
from orchestrate.sweep_file import Sweep, build
from training.spec import TrialSpec

BASE = {
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "train": {"epochs": 3},
    "attack": {"eps": 0.1},
}


class Plan:
    """Plans without torch or data: keys are readable; ``hat`` needs the helper ``standard``."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def want(self, config: Config, seed: int) -> Wanted:
        method = self.sweep.trials[config["trial"]]["method"]["name"]
        values = [str(value) for path, value in config.items() if path != "trial"]
        key = "-".join([method, *values, str(seed)])
        facts = BASE | {"method": {"name": method}, "seed": seed}
        evaluations = {f"e{e.pgd_steps}": e for e in self.sweep.evaluate.specs()}
        helpers: tuple[Wanted, ...] = ()
        if method == "hat":
            spec = TrialSpec.model_validate(BASE | {"method": {"name": "standard"}, "seed": 0})
            helpers = (Wanted({}, 0, spec, "standard-0", "CE", "standard (helper)"),)
        spec = TrialSpec.model_validate(facts)
        return Wanted(config, seed, spec, key, "CE", method, helpers, evaluations, 4.5, 1500, "c1")


class Told:
    """A search that remembers what it was told."""

    def __init__(self, sweep: Sweep) -> None:
        self.inner = proposer(sweep)
        self.told: list[tuple[Config, Any]] = []

    def ask(self) -> Config | None:
        return self.inner.ask()

    def tell(self, config: Config, values: Any) -> None:
        self.told.append((config, values))
        self.inner.tell(config, values)

    def recall(self, config: Config, values: Any) -> None:
        raise AssertionError("the agenda tells")


def sweep_of(*trials: Mapping[str, Any], **settings: Any) -> Sweep:
    return build({"name": "s", "base": BASE, "trials": list(trials)} | settings, "test")


def method(name: str, **parameters: Any) -> dict[str, Any]:
    return {"method": {"name": name} | parameters}


def agenda_of(sweep: Sweep, runs: Runs, **settings: Any) -> Agenda:
    plan: Planner = Plan(sweep)  # type: ignore[assignment]
    return Agenda(sweep, runs, plan, Told(sweep), **settings)


def perform(agenda: Agenda, row: Row, epochs: int = 3, trained: bool = True) -> None:
    """What the row's process would write."""
    events = EventWriter(agenda.runs.trial(row.key).events)
    events.started()
    for epoch in range(epochs):
        metrics = {"val/clean": 0.9, "val/robust": 0.1 * epoch}
        events.write("epoch", epoch=epoch, step=1, metrics=metrics, best=True)
    if trained:
        events.write("trained", epochs=epochs, best_epoch=0, metrics={"val/clean": 0.9, "val/robust": 0.5})
        for digest in row.evaluations:
            events.write("evaluated", evaluation=digest, metrics={"clean": 0.8, "robust": 0.4})
        events.write("finished", evaluations=row.evaluations)


FINISHED = {"state": "finished", "done": True, "mine": True}
FAILED = {"state": "failed", "kind": "diverged", "reason": "nan", "done": True, "mine": True}


def run_all(agenda: Agenda) -> list[str]:
    """Run everything, one at a time; the keys in order."""
    keys = []
    while isinstance(row := agenda.next(), Row):
        keys.append(row.key)
        perform(agenda, row)
        agenda.done(row, FINISHED)
    assert row is Pause.OVER
    return keys


def states(agenda: Agenda) -> dict[str, str]:
    return {row.key: row.state for row in ledger.read(agenda.file)}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_a_grid_runs_in_written_order_with_every_seed_and_is_over(runs: Runs) -> None:
    sweep = sweep_of(method("trades", beta={"grid": [1, 3]}), method("pgd-at"), seeds=[0, 1])
    agenda = agenda_of(sweep, runs)
    expected = ["trades-1-0", "trades-1-1", "trades-3-0", "trades-3-1", "pgd-at-0", "pgd-at-1"]
    assert run_all(agenda) == expected
    assert set(states(agenda).values()) == {"finished"}
    assert [config for config, _ in agenda.proposer.told] == [  # type: ignore[attr-defined]
        {"trial": 0, "method.beta": 1},
        {"trial": 0, "method.beta": 3},
        {"trial": 1},
    ]


def test_a_row_is_on_disk_with_spec_and_evaluations_before_it_is_handed_out(runs: Runs) -> None:
    agenda = agenda_of(sweep_of(method("pgd-at"), evaluate={"attacks": ["pgd"], "pgd_steps": 7}), runs)
    row = agenda.next()
    assert isinstance(row, Row)
    [written] = ledger.read(agenda.file)
    assert (written.key, written.images, written.configuration) == ("pgd-at-0", 1500, "c1")
    assert written.cost == 4.5
    trial = runs.trial(row.key)
    assert trial.spec().method.name == "pgd-at"
    assert row.evaluations == ["e7"]
    assert trial.evaluation_file("e7").exists()


def test_a_finished_trial_that_was_set_aside_meanwhile_runs_again(runs: Runs) -> None:
    """Another sweep trained it afresh as a helper: it is there, and not evaluated."""
    sweep = sweep_of(method("pgd-at"), method("trades", beta=1))
    run_all(agenda_of(sweep, runs))
    shutil.rmtree(runs.trial("pgd-at-0").path)
    assert run_all(agenda_of(sweep, runs)) == ["pgd-at-0"]
    assert run_all(agenda_of(sweep, runs)) == []


def test_a_search_is_told_validation_and_the_mean_over_seeds(runs: Runs) -> None:
    agenda = agenda_of(sweep_of(method("pgd-at"), seeds=[0, 1, 2]), runs)
    for robust, report in ((0.2, FINISHED), (0.4, FINISHED), (0.0, FAILED)):
        row = agenda.next()
        assert isinstance(row, Row)
        events = EventWriter(runs.trial(row.key).events)
        events.started()
        if report is FINISHED:
            events.write("trained", epochs=1, best_epoch=0, metrics={"val/clean": 0.8, "val/robust": robust})
            events.write("evaluated", evaluation=row.evaluations[0], metrics={"clean": 0.1, "robust": 0.1})
        assert agenda.proposer.told == []  # type: ignore[attr-defined]
        agenda.done(row, report)
    [(config, values)] = agenda.proposer.told  # type: ignore[attr-defined]
    assert config == {"trial": 0}
    assert values == pytest.approx((0.8, 0.3))


@pytest.mark.parametrize("search", [{"name": "random", "samples": 7}, {"name": "optuna", "samples": 7}])
def test_a_search_cut_short_goes_on_within_its_budget(runs: Runs, search: dict[str, Any]) -> None:
    sweep = sweep_of(method("trades", beta={"uniform": [1, 6]}), search=search, seeds=[0, 1])
    first = agenda_of(sweep, runs)
    handed_out = [first.next() for _ in range(7)]  # at once: three configurations, and one seed of a fourth
    for row in handed_out[:5]:
        assert isinstance(row, Row)
        perform(first, row)
        first.done(row, FINISHED)
    keys = run_all(agenda_of(sweep, runs))
    assert keys[:2] == [
        row.key for row in handed_out[5:] if isinstance(row, Row)
    ]  # what was open comes first
    rows = ledger.read(first.file)
    assert len(rows) == 14
    assert len({row.key for row in rows}) == 14
    assert set(states(first).values()) == {"finished"}
    assert run_all(agenda_of(sweep, runs)) == []


def test_an_extended_file_runs_only_what_is_new(runs: Runs) -> None:
    trials = [method("trades", beta={"grid": [1, 3]})]
    run_all(agenda_of(sweep_of(*trials), runs))
    longer = [method("trades", beta={"grid": [1, 2, 3]}), method("pgd-at")]
    assert run_all(agenda_of(sweep_of(*longer), runs)) == ["trades-2-0", "pgd-at-0"]
    assert run_all(agenda_of(sweep_of(*longer, seeds=[0, 1]), runs)) == [
        "trades-1-1",
        "trades-3-1",
        "trades-2-1",
        "pgd-at-1",
    ]


def test_trials_that_moved_in_the_file_are_known_by_their_results(runs: Runs) -> None:
    run_all(agenda_of(sweep_of(method("pgd-at"), method("standard")), runs))
    swapped = sweep_of(method("trades", beta=1), method("standard"), method("pgd-at"))
    assert run_all(agenda_of(swapped, runs)) == ["trades-0"]


def test_a_stronger_attack_evaluates_again(runs: Runs) -> None:
    weak = {"attacks": ["pgd"], "pgd_steps": 5}
    run_all(agenda_of(sweep_of(method("pgd-at"), evaluate=weak), runs))
    agenda = agenda_of(sweep_of(method("pgd-at"), evaluate=weak | {"pgd_steps": 50}), runs)
    row = agenda.next()
    assert isinstance(row, Row)
    assert (row.key, row.evaluations) == ("pgd-at-0", ["e50"])


def test_what_left_the_file_is_dropped_and_taken_up_again_when_it_returns(runs: Runs) -> None:
    both = sweep_of(method("pgd-at"), method("standard"))
    interrupted = agenda_of(both, runs)
    interrupted.next()
    interrupted.next()
    agenda = agenda_of(sweep_of(method("pgd-at")), runs)
    assert run_all(agenda) == ["pgd-at-0"]
    assert states(agenda) == {"pgd-at-0": "finished", "standard-0": "pruned"}
    assert ledger.read(agenda.file)[1].reason == DROPPED
    assert run_all(agenda_of(both, runs)) == ["standard-0"]


def test_a_failed_row_is_left_alone_until_it_is_opened_again(runs: Runs) -> None:
    sweep = sweep_of(method("pgd-at"))
    agenda = agenda_of(sweep, runs)
    row = agenda.next()
    assert isinstance(row, Row)
    agenda.done(row, FAILED)
    assert agenda.next() is Pause.OVER
    again = agenda_of(sweep, runs)
    assert again.next() is Pause.OVER
    assert ledger.read(agenda.file)[0].reason == "diverged: nan"
    ledger.close(agenda.file, row.row, "open")
    assert run_all(agenda_of(sweep, runs)) == ["pgd-at-0"]


def test_a_helper_is_trained_once_while_others_run_and_its_dependants_wait(runs: Runs) -> None:
    sweep = sweep_of(method("hat", beta={"grid": [1, 2]}), method("pgd-at"))
    agenda = agenda_of(sweep, runs)
    helper, other = agenda.next(), agenda.next()
    assert isinstance(helper, Row)
    assert isinstance(other, Row)
    assert (helper.key, helper.role, helper.evaluations) == ("standard-0", "helper", [])
    assert other.key == "pgd-at-0"
    assert agenda.next() is Pause.WAIT
    perform(agenda, helper)  # trained: dependants need not wait for its row to be closed
    first, second = agenda.next(), agenda.next()
    assert {row.key for row in (first, second) if isinstance(row, Row)} == {"hat-1-0", "hat-2-0"}
    assert agenda.next() is Pause.OVER


def test_a_helper_that_the_sweep_wants_anyway_is_one_trial(runs: Runs) -> None:
    helper_first = agenda_of(sweep_of(method("hat"), method("standard")), runs)
    assert run_all(helper_first) == ["standard-0", "hat-0", "standard-0"]  # at last only evaluated
    roles = [(row.key, row.role) for row in ledger.read(helper_first.file)]
    assert roles == [("hat-0", "trial"), ("standard-0", "helper"), ("standard-0", "trial")]


def test_a_trial_that_serves_as_helper_is_not_trained_beside_it(runs: Runs) -> None:
    agenda = agenda_of(sweep_of(method("standard"), method("hat")), runs)
    row = agenda.next()
    assert isinstance(row, Row)
    assert agenda.next() is Pause.WAIT
    perform(agenda, row)
    agenda.done(row, FINISHED)
    assert run_all(agenda) == ["hat-0"]
    assert len(ledger.read(agenda.file)) == 2


def test_a_helpers_own_row_ends_with_the_trial_that_it_is(runs: Runs) -> None:
    sweep = sweep_of(method("hat"), method("standard"))
    killed = agenda_of(sweep, runs)
    assert isinstance(killed.next(), Row)
    assert killed.next() is Pause.WAIT  # both rows of the standard trial are on disk now
    agenda = agenda_of(sweep, runs)
    assert run_all(agenda) == ["standard-0", "hat-0"]
    assert [row.state for row in ledger.read(agenda.file)] == ["finished"] * 3


def test_a_helper_that_another_sweep_trained_meanwhile_is_finished(runs: Runs) -> None:
    sweep = sweep_of(method("hat"), method("pgd-at"))
    helper = agenda_of(sweep, runs).next()
    assert isinstance(helper, Row)
    agenda = agenda_of(sweep, runs)
    perform(agenda, helper)
    assert run_all(agenda) == ["hat-0", "pgd-at-0"]
    assert {row.key: row.state for row in ledger.read(agenda.file)}["standard-0"] == "finished"


def test_a_trial_that_is_pruned_is_trained_to_its_end_where_it_is_a_helper(runs: Runs) -> None:
    agenda = agenda_of(sweep_of(method("standard"), method("hat")), runs)
    row = agenda.next()
    assert isinstance(row, Row)
    assert agenda.next() is Pause.WAIT
    perform(agenda, row, epochs=1, trained=False)
    agenda.done(row, {"state": "running", "done": True, "mine": True})
    assert run_all(agenda) == ["standard-0", "hat-0"]
    assert [(row.role, row.state) for row in ledger.read(agenda.file)] == [
        ("trial", "pruned"),
        ("trial", "finished"),
        ("helper", "finished"),
    ]


def test_a_failed_helper_fails_what_needs_it_and_nothing_else(runs: Runs) -> None:
    sweep = sweep_of(method("hat", beta={"grid": [1, 2]}), method("pgd-at"))
    agenda = agenda_of(sweep, runs)
    helper = agenda.next()
    assert isinstance(helper, Row)
    agenda.done(helper, FAILED)
    assert run_all(agenda) == ["pgd-at-0"]
    assert states(agenda) == {
        "hat-1-0": "failed",
        "standard-0": "failed",
        "hat-2-0": "failed",
        "pgd-at-0": "finished",
    }
    reasons = {row.key: row.reason for row in ledger.read(agenda.file)}
    assert reasons["hat-1-0"] == "helper: standard (helper) standard-0: diverged: nan"
    # Opened again, a dependant has its helper trained again first.
    ledger.close(agenda.file, 0, "open")
    assert run_all(agenda_of(sweep, runs)) == ["standard-0", "hat-1-0"]


def test_a_driver_killed_while_a_helper_trains_has_it_trained_first(runs: Runs) -> None:
    sweep = sweep_of(method("hat"))
    agenda_of(sweep, runs).next()
    assert run_all(agenda_of(sweep, runs)) == ["standard-0", "hat-0"]
    assert len(ledger.read(runs.sweep("s").ledger_file)) == 2


def test_a_pruned_trial_is_asked_to_stop_where_its_job_is_ours(runs: Runs) -> None:
    agenda = agenda_of(sweep_of(method("pgd-at"), method("standard")), runs)
    for mine in (True, False):
        row = agenda.next()
        assert isinstance(row, Row)
        perform(agenda, row, epochs=1, trained=False)
        agenda.done(row, {"state": "running", "done": True, "mine": mine})
        assert runs.trial(row.key).stop_file.exists() is mine
    assert set(states(agenda).values()) == {"pruned"}
    values = [values for _, values in agenda.proposer.told]  # type: ignore[attr-defined]
    assert values == [(0.9, 0.0), (0.9, 0.0)]


def test_finished_is_finished_even_where_a_scheduler_would_have_stopped_it(runs: Runs) -> None:
    sweep = sweep_of(method("pgd-at"), method("standard"), method("trades", beta=1))
    first = agenda_of(sweep, runs, replay=True)
    ended, cut, open_ = first.next(), first.next(), first.next()
    assert isinstance(ended, Row)
    assert isinstance(cut, Row)
    assert isinstance(open_, Row)
    perform(first, ended)
    first.done(ended, FINISHED)
    perform(first, cut, epochs=1, trained=False)
    first.done(cut, {"state": "running", "done": True, "mine": True})
    agenda = agenda_of(sweep, runs, replay=True)
    again = [agenda.next(), agenda.next()]
    assert [row.key for row in again if isinstance(row, Row)] == [ended.key, cut.key]
    for row in again:
        assert isinstance(row, Row)
        agenda.done(row, {"state": "running", "done": True, "mine": False})
    assert states(agenda) == {ended.key: "finished", cut.key: "pruned", open_.key: "open"}
    row = agenda.next()
    assert isinstance(row, Row)
    perform(agenda, row)  # it finishes in the moment in which the scheduler stops it
    agenda.done(row, {"state": "running", "done": True, "mine": True})
    assert states(agenda)[open_.key] == "finished"


def test_a_sweep_that_is_stopped_leaves_its_rows_open(runs: Runs) -> None:
    agenda = agenda_of(sweep_of(method("pgd-at")), runs)
    row = agenda.next()
    assert isinstance(row, Row)
    agenda.done(row, {"state": "stopped", "done": True, "mine": False})
    assert states(agenda) == {"pgd-at-0": "open"}


def test_a_row_put_back_comes_again(runs: Runs) -> None:
    agenda = agenda_of(sweep_of(method("pgd-at"), method("standard")), runs)
    row = agenda.next()
    assert isinstance(row, Row)
    agenda.put_back(row)
    assert run_all(agenda) == ["pgd-at-0", "standard-0"]


def test_what_another_sweep_finished_is_not_run(runs: Runs) -> None:
    run_all(agenda_of(sweep_of(method("pgd-at"), name="s"), runs))
    other = agenda_of(sweep_of(method("pgd-at"), method("standard"), name="t"), runs)
    assert run_all(other) == ["standard-0"]
    assert states(other) == {"pgd-at-0": "finished", "standard-0": "finished"}

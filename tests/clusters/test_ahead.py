"""What a sweep submits ahead, as an array: all that can run, nothing that somebody runs, nothing before its helpers."""

from pathlib import Path
from typing import Any

import pytest
from fake import FakeSlurm

import clusters
from clusters.base import recorded
from clusters.slurm import SlurmCluster
from orchestrate import ahead, ledger
from orchestrate.agenda import Agenda
from orchestrate.ahead import Ahead
from orchestrate.ledger import Row
from orchestrate.locks import Lock
from orchestrate.plan import Planner, Wanted
from orchestrate.runner import Task
from orchestrate.runs import Runs
from orchestrate.search import proposer
from orchestrate.sweep_file import Sweep, build
from training.spec import TrialSpec

BASE = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "attack": {"eps": 0.1}}


class Plan:
    """Keys are readable; ``hat`` needs the helper ``standard``."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def want(self, config: dict[str, Any], seed: int) -> Wanted:
        name = self.sweep.trials[config["trial"]]["method"]["name"]
        helpers: tuple[Wanted, ...] = ()
        if name == "hat":
            helpers = (Wanted({}, 0, spec_of("standard"), "standard", "CE", "standard (helper)"),)
        return Wanted(config, seed, spec_of(name), f"{name}-{seed}", "CE", name, helpers)


def spec_of(method: str) -> TrialSpec:
    return TrialSpec.model_validate(BASE | {"method": {"name": method}})


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture
def cluster(fake: FakeSlurm, runs: Runs) -> SlurmCluster:
    (runs.path / "lab.yaml").write_text("time: 60\npoll: 0.02\n")
    return clusters.open_slurm(runs.path / "trials", str(runs.path / "lab.yaml"))


def begin(runs: Runs, cluster: SlurmCluster, *methods: str, **settings: Any) -> tuple[Agenda, Ahead]:
    content = {"name": "s", "base": BASE, "trials": [{"method": {"name": name}} for name in methods]}
    sweep = build(content | settings, "test")
    plan: Planner = Plan(sweep)  # type: ignore[assignment]
    agenda = Agenda(sweep, runs, plan, proposer(sweep))

    def task_of(row: Row) -> Task:
        return Task(str(runs.path), row.key, (), cluster.name, sweep="s")

    return agenda, Ahead(runs, "s", cluster, agenda, task_of, parallel=2)


def hand_out(agenda: Agenda, one: Ahead) -> str:
    row = agenda.next()
    assert isinstance(row, Row)
    one.submit(row)
    return row.key


def test_all_that_can_run_is_one_array_and_is_still_handed_out_in_order(
    runs: Runs, cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    agenda, one = begin(runs, cluster, "pgd-at", "trades", seeds=[0, 1])
    keys = ["pgd-at-0", "pgd-at-1", "trades-0", "trades-1"]
    assert [hand_out(agenda, one) for _ in keys] == keys
    assert list(one.nonces) == keys
    assert len(fake.calls("sbatch")) == 1
    assert fake.states() == dict.fromkeys([f"100_{n}" for n in range(4)], "PENDING")
    assert [row.state for row in ledger.read(agenda.file)] == ["open"] * 4


def test_what_somebody_runs_or_is_about_to_run_is_left_alone(
    runs: Runs, cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    agenda, one = begin(runs, cluster, "pgd-at", "trades", seeds=[0, 1, 2])
    with Lock(runs.trial("pgd-at-1").lock_file), Lock(runs.trial("trades-0").path / "submit.lock"):
        hand_out(agenda, one)
    assert list(one.nonces) == ["pgd-at-0", "pgd-at-2", "trades-1", "trades-2"]
    again, other = begin(runs, cluster, "pgd-at", "trades", seeds=[0, 1, 2])  # the next driver
    hand_out(again, other)
    assert list(other.nonces) == ["pgd-at-1", "trades-0"]
    assert "--array=0-1%1" in (fake.bin.parent / "last").read_text(), "four others have the places"


def test_a_single_trial_is_no_array(runs: Runs, cluster: SlurmCluster, fake: FakeSlurm) -> None:
    hand_out(*begin(runs, cluster, "pgd-at"))
    assert not fake.calls("sbatch")


def test_nothing_goes_ahead_while_helpers_are_missing(
    runs: Runs, cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    from orchestrate.events import EventWriter

    agenda, one = begin(runs, cluster, "hat", "trades", seeds=[0, 1])
    assert hand_out(agenda, one) == "standard"
    assert hand_out(agenda, one) == "trades-0"
    assert not fake.calls("sbatch")
    events = EventWriter(runs.trial("standard").events)
    events.started()
    events.write("trained", epochs=1, best_epoch=0, metrics={})
    helper = next(row for row in agenda.rows.values() if row.role == "helper")
    agenda.done(helper, {"state": "finished", "done": True, "mine": True})
    hand_out(agenda, one)
    assert sorted(one.nonces) == ["hat-0", "hat-1", "trades-1"]


def test_an_array_gets_the_places_that_others_give_back(
    runs: Runs, cluster: SlurmCluster, fake: FakeSlurm
) -> None:
    other = f"{cluster.folder}/other"
    fake.job("50", "RUNNING", comment="parapet sweep=s key=other nonce=ab", name="s.other", place=other)
    hand_out(*(pair := begin(runs, cluster, "pgd-at", "trades")))
    assert "--array=0-1%1" in (fake.bin.parent / "last").read_text()
    pair[1].settle()
    assert not fake.calls("scontrol")[1:], "it has its place still"
    fake.job("50", "COMPLETED")
    pair[1].settle()
    pair[1].settle()
    assert fake.calls("scontrol")[1:] == [["update", "JobId=100", "ArrayTaskThrottle=2"]]


def test_a_refusal_leaves_the_trials_to_their_actors(
    runs: Runs, cluster: SlurmCluster, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.set(refuses="Batch job submission failed: Invalid job array specification")
    agenda, one = begin(runs, cluster, "pgd-at", "trades")
    hand_out(agenda, one)
    assert one.nonces == {}
    assert "submitted one by one" in capsys.readouterr().err
    assert recorded(runs.trial("pgd-at-0").path) is None
    assert not (runs.trial("pgd-at-0").path / "submit.lock").exists()


@pytest.mark.parametrize(
    ("settings", "may"),
    [
        ({}, True),
        ({"search": {"name": "random", "samples": 3}}, True),
        ({"search": {"name": "optuna", "samples": 3}}, False),
        ({"scheduler": {"name": "asha"}}, False),
        ({"limits": {"gpu_hours": 3}}, False),
    ],
)
def test_only_a_sweep_whose_trials_hang_on_no_result_goes_ahead(settings: dict[str, Any], may: bool) -> None:
    beta = {"uniform": [1, 4]} if "search" in settings else {"grid": [1, 4]}
    trials = [{"method": {"name": "trades", "beta": beta}}]
    sweep = build({"name": "s", "base": BASE, "trials": trials} | settings, "test")
    assert ahead.suits(sweep) is may

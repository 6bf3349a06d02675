"""The report compares what can be compared, says what it rests on, and loses nothing over a damaged file."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_trials import SPEC, make_sweep

from evaluation import outcomes
from evaluation.front import non_dominated
from orchestrate import ledger, report
from orchestrate.ledger import Row
from orchestrate.results import in_words
from orchestrate.runs import Runs, SweepDir
from training.errors import UserError
from training.spec import TrialSpec


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


@pytest.fixture
def sweep(runs: Runs) -> SweepDir:
    return make_sweep(runs)


numbers = itertools.count()


def judge(
    runs: Runs,
    sweep: SweepDir,
    method: dict[str, Any],
    clean: float,
    robust: float,
    *,
    seed: int = 0,
    key: str = "",
    train: dict[str, Any] | None = None,
    selection: str = "val",
    **judged: Any,
) -> Row:
    """A finished trial that holds on so many of 100 images."""
    n = next(numbers)
    judged = {"eps": 8 / 255, "attacks": ["autoattack"], "checkpoint": "best", "images": "i"} | judged
    key = key or f"{n:016x}"
    attack = {"eps": judged["eps"]}
    facts = {"method": method, "seed": seed, "train": train or {}, "attack": attack, "selection": selection}
    spec = TrialSpec.model_validate(SPEC | facts)
    trial = runs.trial(key)
    trial.create(spec)
    columns = {
        "index": np.arange(100),
        "label": np.zeros(100, int),
        "clean_prediction": np.zeros(100, int),
        "clean_margin": np.zeros(100),
        "correct": np.arange(100) < round(100 * clean),
        "robust": np.arange(100) < round(100 * robust),
    }
    known = {
        "key": key,
        "spec": {"attacks": judged["attacks"], "pgd_steps": 20, "checkpoint": judged["checkpoint"]},
        "threat": {"norm": "linf", "eps": judged["eps"]},
        "checkpoint": judged["checkpoint"],
        "data": judged["images"],
    }
    digest = f"e{n}"
    trial.outcomes.mkdir(exist_ok=True)
    whole = {name: known.get(name) for name in outcomes.FACTS}
    outcomes.write(outcomes.Outcome(columns, whole), trial.outcome_file(digest))
    beta = f" beta={method['beta']}" if "beta" in method else ""
    row = Row(n, key, seed=seed, evaluations=[digest], label=f"{method['name']}{beta}", formula="CE(clean)")
    ledger.append(sweep.ledger_file, row)
    ledger.close(sweep.ledger_file, n, "finished")
    return row


def trades(beta: float) -> dict[str, Any]:
    return {"name": "trades", "beta": beta}


def test_the_front_is_written_as_pictures_and_tables(runs: Runs, sweep: SweepDir) -> None:
    values = [(0.98, 0.2), (0.9, 0.5), (0.85, 0.4), (0.8, 0.6)]
    for beta, (clean, robust) in enumerate(values):
        judge(runs, sweep, trades(beta), clean, robust)
    made = report.make(runs, ["digits"])
    [front] = made.fronts
    assert {p.label for p in front.points if p.front} == {"trades beta=0", "trades beta=1", "trades beta=3"}
    assert [p.front for p in front.points] == non_dominated(
        [(p.clean, p.robust) for p in front.points]
    ).tolist()
    assert front.hypervolume == pytest.approx(0.98 * 0.2 + 0.9 * 0.3 + 0.8 * 0.1)
    files = {file.name for file in sweep.report.iterdir()}
    assert files == {"front.png", "front.svg", "front.html", "front.csv", "front.parquet"}
    with (sweep.report / "front.csv").open() as table:
        rows = {row["label"]: row for row in csv.DictReader(table)}
    assert float(rows["trades beta=1"]["robust"]) == 0.5
    assert rows["trades beta=1"]["parameter.beta"] == "1.0"


def test_seeds_of_one_configuration_are_one_point(runs: Runs, sweep: SweepDir) -> None:
    for seed, robust in enumerate((0.4, 0.5)):
        judge(runs, sweep, trades(1), 0.9, robust, seed=seed)
    [front] = report.make(runs, ["digits"]).fronts
    [point] = front.points
    assert point.seeds == (0, 1)
    assert point.robust == pytest.approx(0.45)
    assert point.robust_sd == pytest.approx(np.std([0.4, 0.5], ddof=1))


def test_configurations_that_differ_in_anything_stay_apart(runs: Runs, sweep: SweepDir) -> None:
    judge(runs, sweep, trades(1), 0.9, 0.4, train={"epochs": 5})
    judge(runs, sweep, trades(1), 0.9, 0.5, train={"epochs": 9})
    [front] = report.make(runs, ["digits"]).fronts
    assert {p.parameters["train.epochs"] for p in front.points} == {5, 9}
    assert not any("train.lr" in p.parameters for p in front.points), "what is the same in all says nothing"


def test_only_a_best_checkpoint_can_have_been_selected_on_test_images(runs: Runs, sweep: SweepDir) -> None:
    judge(runs, sweep, trades(1), 0.9, 0.4, selection="test", checkpoint="last")
    judge(runs, sweep, trades(1), 0.9, 0.4, selection="test")
    told = {f.ground.checkpoint: f.points[0].remarks for f in report.make(runs, ["digits"]).fronts}
    assert "checkpoint selected on test images" in told["best"]
    assert "checkpoint selected on test images" not in told["last"]


def test_a_modifier_without_a_parameter_makes_another_configuration(runs: Runs, sweep: SweepDir) -> None:
    for robust, added in ((0.4, {}), (0.5, {"fat": {"tau": None}}), (0.6, {"two-neighbours": {}})):
        judge(runs, sweep, trades(1) | {"with": added}, 0.9, robust)
    [front] = report.make(runs, ["digits"]).fronts
    found = {p.parameters.get("modifiers"): p.robust for p in front.points}
    assert found == {None: 0.4, "fat": 0.5, "two-neighbours": 0.6}


def test_what_was_judged_differently_is_never_on_one_front(runs: Runs, sweep: SweepDir) -> None:
    judge(runs, sweep, trades(1), 0.9, 0.4)
    judge(runs, sweep, trades(2), 0.9, 0.5)
    judge(runs, sweep, trades(3), 0.9, 0.8, attacks=["pgd"])
    judge(runs, sweep, trades(4), 0.9, 0.7, eps=4 / 255)
    judge(runs, sweep, trades(5), 0.9, 0.6, images="others")
    judge(runs, sweep, trades(6), 0.9, 0.6, checkpoint="last")
    made = report.make(runs, ["digits"])
    assert [len(front.points) for front in made.fronts] == [2, 1, 1, 1, 1]
    assert str(made.fronts[0].ground) == "digits, AutoAttack, Linf, eps = 8/255"
    assert "digits, PGD-20, Linf, eps = 8/255" in {str(front.ground) for front in made.fronts}
    places = [front.picture.parent for front in made.fronts]
    assert places[0] == sweep.report
    assert len(set(places)) == 5
    assert all(front.picture.exists() for front in made.fronts)


def test_several_sweeps_are_compared_in_a_place_of_their_own_and_share_trials(
    runs: Runs, sweep: SweepDir
) -> None:
    other = make_sweep(runs, "other")
    shared = judge(runs, sweep, trades(1), 0.9, 0.4)
    ledger.append(other.ledger_file, shared)
    ledger.close(other.ledger_file, shared.row, "finished")
    judge(runs, other, trades(2), 0.8, 0.5)
    [front] = report.make(runs).fronts
    assert len(front.points) == 2
    assert front.picture == runs.path / "report" / "front.png"


def test_a_damaged_outcome_is_left_out_and_said(runs: Runs, sweep: SweepDir) -> None:
    judge(runs, sweep, trades(1), 0.9, 0.4)
    row = judge(runs, sweep, trades(2), 0.9, 0.5)
    file = runs.trial(row.key).outcome_file(row.evaluations[0])
    file.write_bytes(file.read_bytes()[:100])
    made = report.make(runs, ["digits"])
    assert [p.label for p in made.fronts[0].points] == ["trades beta=1"]
    [sentence] = made.left_out
    assert "trades beta=2 seed 0" in sentence
    assert str(file) in sentence


@pytest.mark.parametrize(("names", "named"), [(["digit"], "did you mean 'digits'"), (["x"], "no sweep 'x'")])
def test_a_sweep_that_is_not_there_is_named(
    runs: Runs, sweep: SweepDir, names: list[str], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        report.make(runs, names)


def test_a_person_reads_the_table_what_it_rests_on_and_what_failed(
    runs: Runs, sweep: SweepDir, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(runs, sweep, trades(1), 0.9, 0.4, seed=0)
    judge(runs, sweep, trades(1), 0.92, 0.44, seed=1)
    judge(runs, sweep, trades(3), 0.8, 0.3, selection="test")
    failed = Row(50, "f" * 16, label="hat beta=[9]", seed=1)
    ledger.append(sweep.ledger_file, failed)
    ledger.close(sweep.ledger_file, 50, "failed", "diverged: the loss is NaN")
    ledger.append(sweep.ledger_file, Row(51, "0" * 16))
    (runs.trial(failed.key).logs).mkdir(parents=True)
    (runs.trial(failed.key).logs / "1.txt").write_text("\n".join(f"line {i} [x]" for i in range(20)))
    report.show(report.make(runs, ["digits"]))
    said = capsys.readouterr().out
    assert "91.0 ± 1.4" in said
    assert "hypervolume 0.3822 above the reference point" in said
    assert "checkpoint selected on test images: trades beta=3" in said
    assert "one seed: trades beta=3" in said
    assert "failed: hat beta=[9] seed 1 (ffffffffffffffff): diverged: the loss is NaN" in said
    assert "| line 19 [x]" in said
    assert "line 5 " not in said
    assert "1 of its trials have not ended" in said
    assert str(sweep.report / "front.png") in said
    assert f"parapet ui --runs {runs.path}" in said


def test_without_a_finished_trial_it_says_so(
    runs: Runs, sweep: SweepDir, capsys: pytest.CaptureFixture[str]
) -> None:
    report.show(report.make(runs, ["digits"]))
    assert "digits: no finished trial to compare" in capsys.readouterr().out


def test_radii_are_written_as_people_write_them() -> None:
    assert [in_words(e) for e in (8 / 255, 0.5, 0.2, 1 / 255, 0.1234)] == [
        "8/255",
        "0.5",
        "0.2",
        "1/255",
        "0.1234",
    ]

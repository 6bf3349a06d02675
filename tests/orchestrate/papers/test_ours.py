"""What is found in MLflow for a row, and what is made of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student
from small_sheet import Store, built

from evaluation.front import wilson
from orchestrate.papers import ours, sheet, tables, verdict
from orchestrate.papers.ours import configuration_of, tag_of
from orchestrate.papers.sheet import Printed, Spread
from orchestrate.papers.verdict import Compared
from orchestrate.runs import Runs

SHEET = built()
TRADES, HAT, OTHER = SHEET.rows


FULL = {"parapet.configuration": configuration_of(TRADES)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """TRADES three times by some sweep, HAT only scaled down, and something else."""
    store = Store(tmp_path_factory.mktemp("store"))
    for seed, clean in enumerate((0.826, 0.828, 0.830)):
        store.add(clean, 0.488, tags=FULL, seed=seed)
    store.add(0.5, 0.4, tags={tag_of(HAT.id): "data=digits"}, images=200)
    store.add(0.1, 0.1, tags={"parapet.configuration": "another"})
    return store


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    """A store of the test's own."""
    return Store(tmp_path)


def judged(store: Store) -> Compared:
    """What is made of TRADES' runs."""
    return verdict.compare(SHEET, TRADES, ours.find(store.runs, [SHEET]).get(TRADES.id, []))


def compared(store: Store) -> dict[str, Compared]:
    found = ours.find(store.runs, [SHEET])
    return {row.name: verdict.compare(SHEET, row, found.get(row.id, [])) for row in SHEET.rows}


def test_repetitions_are_known_by_their_configuration_whoever_ran_them(store: Store) -> None:
    one = compared(store)["trades"]
    assert (one.runs, one.scaled) == (3, "")
    clean = one.cells["clean"]
    assert clean.ours == pytest.approx(82.8)
    assert clean.sd == pytest.approx(0.2)
    assert clean.difference == pytest.approx(0.07)
    assert one.verdict == "within the spread", "which no number of PGD is printed for"
    assert one.cells["pgd"].ours is None, "nobody ran PGD"


def test_a_scaled_down_run_has_no_difference_and_no_verdict(store: Store) -> None:
    one = compared(store)["hat+wa"]
    assert one.scaled == "data=digits"
    assert one.verdict == "scaled-down: data=digits"
    [line] = tables.lines([one], ("clean", "robust"))
    assert line[3] == "-"
    says = [cells[-1] for cells in tables.cells_of(one, SHEET.content.columns)]
    assert says == ["scaled-down", "scaled-down", "not yet"]


def test_what_cannot_be_trained_or_measured_says_so(store: Store) -> None:
    found = compared(store)
    assert found["other"].verdict == "not trained here"
    assert tables.lines([found["other"]], ("clean",)).__next__()[5] == "not trained here"
    assert found["hat+wa"].cells["cw"].not_yet == "CW"


def test_a_repetition_judged_on_a_part_of_the_images_is_scaled_down(empty: Store) -> None:
    empty.add(0.83, 0.49, tags=FULL, images=500, part=True)
    assert judged(empty).verdict == "scaled-down: 500 test images"
    # A whole evaluation of another seed is what counts then.
    empty.add(0.83, 0.49, tags=FULL, seed=1)
    one = judged(empty)
    assert one.scaled == ""
    assert one.cells["robust"].runs == 1
    empty.add(0.83, 0.1, tags=FULL, seed=2, images=300)  # all test images of some other CIFAR-10
    assert judged(empty).cells["robust"].runs == 1


@pytest.mark.parametrize(
    ("tags", "evaluation", "verdict_"),
    [
        ({}, {"eps": 1 / 255}, "incomplete: robust not evaluated"),
        ({}, {"attacks": ["pgd"], "pgd_steps": 10}, "incomplete: robust not evaluated"),
        ({"parapet.superseded": "k"}, {"key": None}, "not run"),
        ({"parapet.images": "300"}, {}, "scaled-down: 300 training images in place of 50,000"),
        ({"parapet.images": "50000"}, {}, "within the spread"),
        ({"parapet.role": "helper"}, {}, "within the spread"),
    ],
)
def test_what_is_no_repetition_does_not_count_and_what_is_does(
    empty: Store, tags: dict[str, str], evaluation: dict[str, Any], verdict_: str
) -> None:
    run = empty.add(0.8273, 0.488, tags=FULL | tags, **({} if "key" in evaluation else evaluation))
    if "key" in evaluation:  # thrown away by --fresh
        empty.client.delete_tag(run, "parapet.key")
    assert judged(empty).verdict == verdict_


def test_one_network_in_two_runs_is_one_with_both_their_evaluations(empty: Store) -> None:
    empty.add(0.8273, 0.488, tags=FULL, key="k")
    empty.add(0.8273, 0.52, tags=FULL, key="k", attacks=["pgd"], pgd_steps=20)
    empty.add(0.8, 0.4, tags=FULL, key="k", images=100, part=True)
    one = judged(empty)
    assert (one.runs, one.scaled) == (1, "")
    assert (one.cells["robust"].ours, one.cells["pgd"].ours) == pytest.approx((48.8, 52.0))


def test_autoattack_is_read_out_of_an_evaluation_by_more(empty: Store) -> None:
    empty.add(0.8273, 0.488, tags=FULL, attacks=["pgd", "autoattack"], pgd_steps=10)
    one = judged(empty)
    assert one.cells["robust"].ours == pytest.approx(48.8)
    assert one.cells["pgd"].ours is None, "of 10 steps, where the column has 20"


def test_a_hypersphere_network_counts_by_what_stands_at_both_scales(empty: Store) -> None:
    empty.add(0.8273, 0.488, tags=FULL, unscaled=0.45, attacks=["pgd", "autoattack"], pgd_steps=20)
    one = judged(empty)
    assert (one.cells["robust"].ours, one.cells["pgd"].ours) == pytest.approx((45.0, 45.0))


def test_only_an_attack_of_the_same_strength_and_checkpoint_fills_a_column(empty: Store) -> None:
    others: list[dict[str, Any]] = [
        {"pgd_steps": 20, "pgd_restarts": 5},
        {"pgd_steps": 20, "pgd_step_size": 0.003},
        {"pgd_steps": 20, "checkpoint": "last"},
        {"pgd_steps": 40},
    ]
    for seed, other in enumerate(others):
        empty.add(0.8273, 0.5, tags=FULL, seed=seed, attacks=["pgd"], **other)
    assert judged(empty).cells["pgd"].ours is None
    empty.add(0.8273, 0.5, tags=FULL, seed=9, attacks=["pgd"], pgd_steps=20, pgd_step_size=2 / 255)
    assert judged(empty).cells["pgd"].runs == 1, "2/255 is eps / 4 said in full"


def test_a_run_that_has_not_finished_does_not_count(empty: Store) -> None:
    empty.add(0.8273, 0.488, tags=FULL, status="FAILED")
    assert judged(empty).verdict == "not run"


def test_one_network_told_of_twice_is_scaled_down_if_either_says_so(empty: Store) -> None:
    """The same key is the same images; an older run said nothing of their number."""
    empty.add(0.8273, 0.488, tags=FULL, key="k")
    empty.add(0.8273, 0.488, tags=FULL | {"parapet.images": "300"}, key="k")
    assert judged(empty).verdict.startswith("scaled-down: 300 training images")
    empty.add(0.8273, 0.488, tags=FULL, key="k2")
    assert judged(empty).cells["clean"].runs == 1


def test_a_verdict_on_files_that_were_given_says_so() -> None:
    row = sheet.read("hat/table4").rows[0]
    cells = {"clean": verdict.cell(row.given.published["clean"], row.spread, [83.5], 10_000)}
    assert Compared(row, cells, 1).verdict == "within the spread (with the files that were given)"


def test_a_scaled_down_number_does_not_borrow_the_papers_deviation(empty: Store) -> None:
    empty.add(0.5, 0.4, tags={tag_of(TRADES.id): "data=digits"})
    low, high = wilson(0.5, 10_000)
    assert judged(empty).cells["clean"].half == pytest.approx(50 * (high - low))


def test_scaled_down_runs_of_different_kinds_are_not_averaged(empty: Store) -> None:
    for clean, text in ((0.5, "data=digits"), (0.9, "train.epochs=1")):
        empty.add(clean, 0.4, tags={tag_of(TRADES.id): text})
    one = judged(empty)
    assert one.cells["clean"].ours == pytest.approx(90.0), "the last one's"
    assert (one.runs, one.scaled, one.hidden) == (1, "train.epochs=1", ("data=digits",))
    empty.add(0.83, 0.49, tags=FULL, seed=3)
    assert set(judged(empty).hidden) == {"train.epochs=1", "data=digits"}


def test_two_seeds_far_apart_tell_nothing() -> None:
    wide = verdict.cell(Printed(value=50.0), Spread(), [48.0, 51.0], 10_000)
    assert wide.agrees
    assert wide.loose
    compared = Compared(TRADES, {"clean": wide}, 2)
    assert compared.verdict.startswith("too few to tell: clean ±")


def test_without_a_store_nothing_was_run(tmp_path: Path) -> None:
    assert ours.find(Runs(tmp_path / "none"), [SHEET]) == {}
    assert verdict.compare(SHEET, TRADES, []).verdict == "not run"
    assert not (tmp_path / "none").exists()


def test_deviations_are_pooled_and_intervals_are_students_and_wilsons() -> None:
    printed, spread = Printed(value=50.0, spread=0.3), Spread(kind="sd", runs=3)
    cell = verdict.cell(printed, spread, [49.0, 50.0, 51.0, 52.0], 10_000)
    pooled = math.sqrt((2 * 0.3**2 + 3 * np.var([49, 50, 51, 52], ddof=1)) / 5)
    t5 = student.ppf(0.975, 5)
    low, high = wilson(0.505, 10_000)
    half = math.hypot(t5 * pooled / math.sqrt(4), 50 * (high - low))
    assert cell.half == pytest.approx(half)
    assert cell.tolerance == pytest.approx(math.hypot(half, t5 * pooled / math.sqrt(3)))


def test_a_deviation_that_divides_by_n_is_made_one_that_divides_by_n_minus_1() -> None:
    printed = Printed(value=50.0, spread=float(np.std([1.0, 2.0, 4.0])))
    found = verdict.per_run_sd(printed, Spread(kind="population-sd", runs=3))
    assert found == pytest.approx(np.std([1.0, 2.0, 4.0], ddof=1))


def test_one_seed_borrows_the_papers_deviation() -> None:
    printed = Printed(value=50.0, spread=0.1)
    one = verdict.cell(printed, Spread(kind="interval95", runs=7), [50.0], 10**8)
    t6 = student.ppf(0.975, 6)
    sd = 0.1 * math.sqrt(7) / t6
    assert one.half == pytest.approx(t6 * sd, rel=1e-2)
    assert one.tolerance == pytest.approx(math.hypot(t6 * sd, 0.1), rel=1e-2)
    alone = verdict.cell(Printed(value=50.0), Spread(), [50.0], 10_000)
    assert alone.half == pytest.approx(50 * (wilson(0.5, 10_000)[1] - wilson(0.5, 10_000)[0]))


@pytest.mark.parametrize(("ours_value", "agrees"), [(50.9, True), (51.2, False), (48.8, False)])
def test_within_the_spread_or_not(ours_value: float, agrees: bool) -> None:
    cell = verdict.cell(Printed(value=50.0), Spread(), [ours_value], 10_000)
    assert cell.agrees is agrees


def test_latex_escapes_and_marks(store: Store) -> None:
    found = compared(store)
    text = tables.latex(SHEET, list(found.values()))
    assert r"HAT \& WA\textsuperscript{\dag}" in text
    assert text.count("not yet") == 3, "a column that is not there yet is shown, in every row"
    assert "82.73\\,$\\pm$\\,0.30" in text, "with the printed spread"
    assert text.count(r"\\") >= 6
    assert "82.80\\,$\\pm$" in text


def test_gains_are_of_alike_runs_only(store: Store) -> None:
    lines = list(tables.gains(SHEET, list(compared(store).values())))
    assert [line[3] for line in lines] == ["+2.17", "+0.28"]
    assert [line[4] for line in lines] == ["-", "-"], "one is a repetition, the other scaled down"

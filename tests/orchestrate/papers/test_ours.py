"""What is found in MLflow for a row, and what is made of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy.stats import t as student
from small_sheet import Store, built

from evaluation.front import wilson
from orchestrate.papers import ours, tables, verdict
from orchestrate.papers.ours import configuration_of, tag_of
from orchestrate.papers.sheet import Printed, Spread
from orchestrate.papers.verdict import Compared
from orchestrate.runs import Runs

SHEET = built()
TRADES, HAT, OTHER = SHEET.rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """TRADES three times by some sweep, once in part; HAT only scaled down, and once by a wrong attack."""
    store = Store(tmp_path_factory.mktemp("store"))
    full = {"parapet.configuration": configuration_of(TRADES)}
    for seed, clean in enumerate((0.826, 0.828, 0.830)):
        store.add(clean, 0.488, tags=full, seed=seed)
    store.add(0.5, 0.4, tags={tag_of(HAT.id): "data=digits"}, images=200)
    store.add(0.1, 0.1, tags={"parapet.configuration": "another"})
    return store


def compared(store: Store) -> dict[str, Compared]:
    found = ours.find(store.runs, [SHEET])
    return {row.name: verdict.compare(SHEET, row, found.get(row.id, [])) for row in SHEET.rows}


def test_repetitions_are_known_by_their_configuration_whoever_ran_them(store: Store) -> None:
    one = compared(store)["trades"]
    assert (one.runs, one.scaled) == (3, ())
    clean = one.cells["clean"]
    assert clean.ours == pytest.approx(82.8)
    assert clean.sd == pytest.approx(0.2)
    assert clean.difference == pytest.approx(0.07)
    assert one.verdict == "within the spread"
    assert one.cells["pgd"].ours is None, "nobody ran PGD"


def test_a_scaled_down_run_has_no_difference_and_no_verdict(store: Store) -> None:
    one = compared(store)["hat+wa"]
    assert one.scaled == ("data=digits",)
    assert one.verdict == "scaled-down: data=digits"
    [line] = tables.lines([one], ("clean", "robust"))
    assert line[3] == "-"
    says = [cells[-1] for cells in tables.cells_of(one, SHEET.content.columns)]
    assert says == ["scaled-down: data=digits", "scaled-down: data=digits", "not yet: CW"]


def test_what_cannot_be_trained_or_measured_says_so(store: Store) -> None:
    found = compared(store)
    assert found["other"].verdict == "not trained here"
    assert tables.lines([found["other"]], ("clean",)).__next__()[5] == "not trained here"
    assert found["hat+wa"].cells["cw"].not_yet == "CW"


def test_a_repetition_judged_on_a_part_of_the_images_is_scaled_down(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tags = {"parapet.configuration": configuration_of(TRADES)}
    store.add(0.83, 0.49, tags=tags, images=500, part=True)
    found = ours.find(store.runs, [SHEET])
    one = verdict.compare(SHEET, TRADES, found[TRADES.id])
    assert one.verdict == "scaled-down: 500 test images"
    # A whole evaluation of another seed is what counts then.
    store.add(0.83, 0.49, tags=tags, seed=1)
    store.add(0.83, 0.45, tags=tags, seed=1, key="pgd", attacks=["pgd"], pgd_steps=20)
    one = verdict.compare(SHEET, TRADES, ours.find(store.runs, [SHEET])[TRADES.id])
    assert one.scaled == ()
    assert one.cells["robust"].runs == 1
    assert one.cells["pgd"].ours == pytest.approx(45.0)


def test_without_a_store_nothing_was_run(tmp_path: Path) -> None:
    assert ours.find(Runs(tmp_path / "none"), [SHEET]) == {}
    assert verdict.compare(SHEET, TRADES, []).verdict == "not run"
    assert not (tmp_path / "none").exists()


def test_intervals_are_students_and_wilsons() -> None:
    printed, spread = Printed(value=50.0, spread=0.3), Spread(kind="sd", runs=3)
    values = [49.0, 50.0, 51.0]
    cell = verdict.cell(printed, spread, values, 10_000)
    t2 = student.ppf(0.975, 2)
    low, high = wilson(0.5, 10_000)
    half = math.hypot(t2 * 1.0 / math.sqrt(3), 50 * (high - low))
    assert cell.half == pytest.approx(half)
    assert cell.tolerance == pytest.approx(math.hypot(half, t2 * 0.3 / math.sqrt(3)))


def test_one_seed_borrows_the_papers_deviation() -> None:
    printed = Printed(value=50.0, spread=0.1)
    one = verdict.cell(printed, Spread(kind="interval95", runs=7), [50.0], 10**8)
    t6 = student.ppf(0.975, 6)
    sd = 0.1 * math.sqrt(7) / t6
    assert one.half == pytest.approx(t6 * sd, rel=1e-2)
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
    assert "CW" not in text, "what is not there yet is no column"
    assert text.count(r"\\") >= 6
    assert "82.80\\,$\\pm$" in text


def test_gains_are_of_alike_runs_only(store: Store) -> None:
    lines = list(tables.gains(SHEET, list(compared(store).values())))
    assert [line[3] for line in lines] == ["+2.17", "+0.28"]
    assert [line[4] for line in lines] == ["-", "-"], "one is a repetition, the other scaled down"

"""The front and its area, against moocore and brute force."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.front import TrialResult, hypervolume, non_dominated, summarise, wilson

GRID = st.integers(-2, 5).map(lambda i: i / 4)  # few values, so that ties and duplicates are common
REALS = st.floats(-1, 2, allow_nan=False, width=32)
POINTS = st.lists(st.tuples(GRID, GRID) | st.tuples(REALS, REALS), max_size=30)


@settings(max_examples=300)
@given(POINTS)
def test_the_front_is_what_moocore_and_brute_force_say(points: list[tuple[float, float]]) -> None:
    mask = non_dominated(points)
    assert mask.tolist() == [
        not any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points
    ]
    if points:
        theirs = moocore.is_nondominated(np.array(points), maximise=True, keep_weakly=True)
        assert mask.tolist() == theirs.tolist()


@settings(max_examples=300)
@given(POINTS.filter(len))
def test_the_hypervolume_is_what_moocore_says(points: list[tuple[float, float]]) -> None:
    theirs = moocore.hypervolume(np.array(points), ref=[0.0, 0.0], maximise=True)
    assert hypervolume(points) == pytest.approx(float(theirs), rel=1e-12, abs=1e-300)


@given(POINTS, st.tuples(GRID, GRID))
def test_moving_points_and_reference_together_changes_nothing(points, by: tuple[float, float]) -> None:
    moved = [(x + by[0], y + by[1]) for x, y in points]
    assert hypervolume(moved, by) == pytest.approx(hypervolume(points), rel=1e-6, abs=1e-6)


def test_a_big_random_front_agrees_with_moocore() -> None:
    points = np.random.default_rng(0).random((20_000, 2)).round(3)
    theirs = moocore.is_nondominated(points, maximise=True, keep_weakly=True)
    assert non_dominated(points).tolist() == theirs.tolist()
    area = float(moocore.hypervolume(points, ref=[0.0, 0.0], maximise=True))
    assert hypervolume(points) == pytest.approx(area, rel=1e-12)


def test_nothing_has_an_empty_front_without_area() -> None:
    assert non_dominated([]).shape == (0,)
    assert hypervolume([]) == 0.0
    assert summarise([]) == []


def test_points_below_the_reference_contribute_nothing() -> None:
    assert hypervolume([(0.9, 0.0), (0.0, 0.9), (-1.0, 5.0)]) == 0.0
    assert hypervolume([(0.5, 0.5), (0.9, 0.1)], (0.4, 0.2)) == pytest.approx(0.1 * 0.3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"point 1 is \(0\.5, (nan|inf)\)"):
        non_dominated([(0.1, 0.2), (0.5, bad)])
    with pytest.raises(ValueError, match="finite"):
        hypervolume([(0.1, bad)])
    with pytest.raises(ValueError, match="not a finite number"):
        summarise([_trial(robust=bad)])


def test_points_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        non_dominated([(0.1, 0.2, 0.3)])


def _trial(key: str = "k", beta: float = 1.0, seed: int = 0, clean: float = 0.9, robust: float = 0.5, **more):
    return TrialResult(
        key, f"trades beta={beta}", "trades", "CE", {"beta": beta}, seed, clean, robust, 1000, **more
    )


def test_trials_of_one_configuration_become_one_point_over_its_seeds() -> None:
    trials = [
        _trial("b", seed=1, robust=0.54),
        _trial("a", seed=0, robust=0.50),
        _trial("c", 6.0, robust=0.6),
    ]
    high, low = summarise(trials)
    assert (high.keys, high.robust_sd) == (("c",), None)
    assert (low.keys, low.seeds) == (("a", "b"), (0, 1))
    assert low.robust == pytest.approx(0.52)
    assert low.robust_sd == pytest.approx(np.std([0.50, 0.54], ddof=1))
    assert low.clean_sd == 0.0


def test_the_front_is_marked_on_means_and_ties_stay() -> None:
    # The means of the first two are equal on paper; in floating point 0.1 + 0.2 is not 0.3.
    trials = [_trial("a", 1, 0, 0.9, 0.1), _trial("b", 1, 1, 0.9, 0.2), _trial("c", 2, 0, 0.9, 0.15)]
    trials += [_trial("d", 3, 0, 0.95, 0.14), _trial("e", 4, 0, 0.9, 0.14)]
    assert {p.parameters["beta"]: p.front for p in summarise(trials)} == {1: True, 2: True, 3: True, 4: False}


def test_a_trial_that_two_sweeps_share_counts_once() -> None:
    (point,) = summarise([_trial("a"), _trial("a")])
    assert point.seeds == (0,)
    with pytest.raises(ValueError, match="trial a comes with two different results"):
        summarise([_trial("a"), _trial("a", robust=0.6)])


def test_results_on_other_images_or_other_selection_are_other_points() -> None:
    more_images = dataclasses.replace(_trial("b", seed=1), images=200)
    points = summarise([_trial("a"), more_images, _trial("c", seed=2, selection="test")])
    assert len(points) == 3
    remarks = {p.keys: p.remarks for p in points}
    assert remarks[("a",)] == ("one seed",)
    assert remarks[("b",)] == ("one seed", "only 200 images")
    assert "checkpoint selected on test images" in remarks[("c",)]


def test_a_point_with_enough_behind_it_has_no_remarks() -> None:
    trials = [dataclasses.replace(_trial(f"{s}", seed=s), images=10_000) for s in range(3)]
    assert summarise(trials)[0].remarks == ()


@pytest.mark.parametrize(("right", "images"), [(0, 200), (1, 200), (327, 500), (500, 500)])
def test_intervals_are_wilsons(right: int, images: int) -> None:
    from scipy.stats import binomtest

    theirs = binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson(right / images, images) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_ten_thousand_trials_are_quick() -> None:
    random = np.random.default_rng(0)
    trials = [_trial(f"{i}", i // 2, i % 2, *random.random(2)) for i in range(10_000)]
    began = time.perf_counter()
    assert len(summarise(trials)) == 5_000
    assert time.perf_counter() - began < 3.0


def test_the_module_needs_numpy_only() -> None:
    code = (
        "import sys, evaluation.front, evaluation.spec, evaluation.tables, evaluation.figures\n"
        "print({'torch', 'matplotlib', 'plotly', 'pyarrow', 'pandas', 'ray', 'mlflow'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

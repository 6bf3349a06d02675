"""Searches: what is proposed, in which order, how often, and how a search that was cut short goes on."""

import itertools
import json

import pytest

from orchestrate.search import OptunaSearch, fits, proposer
from orchestrate.sweep_file import build

BASE = {"data": {"name": "digits"}, "model": {"name": "small-cnn"}, "attack": {"eps": 0.1}}


def sweep(trials, **search):
    return build({"name": "x", "base": BASE, "trials": trials, "search": search}, "f.yaml")


def method(**parameters):
    return {"method": {"name": "m", **parameters}}


def everything(search, results=None):
    asked = []
    while (config := search.ask()) is not None:
        asked.append(config)
        if results:
            search.tell(config, results(config))
    return asked


def test_a_grid_is_every_combination_in_written_order():
    trials = [method(), method(beta={"grid": [1, 3]}, gamma={"choice": ["a", "b"]})]
    expected = [{"trial": 0}] + [
        {"trial": 1, "method.beta": b, "method.gamma": g} for b, g in itertools.product([1, 3], ["a", "b"])
    ]
    assert everything(proposer(sweep(trials, name="grid"))) == expected


def test_a_dimension_of_base_is_searched_in_every_trial_that_does_not_fix_it():
    trials = [method(), method() | {"attack": {"steps": 3}}]
    file = {"name": "x", "base": BASE | {"attack": {"eps": 0.1, "steps": {"grid": [1, 2]}}}, "trials": trials}
    assert everything(proposer(build(file, "f"))) == [
        {"trial": 0, "attack.steps": 1},
        {"trial": 0, "attack.steps": 2},
        {"trial": 1},
    ]


SAMPLED = [method(), method(beta={"uniform": [1, 6]}), method(n={"int": [1, 3]})]


@pytest.mark.parametrize(
    "search",
    [
        {"name": "random", "samples": 9},
        {"name": "optuna", "samples": 9},
        {"name": "optuna", "samples": 9, "sampler": "nsga2"},
    ],
)
def test_samples_are_distinct_fit_the_space_and_survive_json(search):
    swept = sweep(SAMPLED, **search)
    asked = everything(proposer(swept), results=lambda c: (0.9, c.get("method.beta", 0) / 10))
    assert len(asked) == 9
    assert len({json.dumps(c, sort_keys=True) for c in asked}) == 9
    assert all(fits(json.loads(json.dumps(c)), swept) for c in asked)
    assert {c["trial"] for c in asked} == {0, 1, 2}
    assert everything(proposer(sweep(SAMPLED, **search, seed=1))) != asked


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_a_small_space_ends_before_its_samples(name):
    swept = sweep([method(), method(n={"int": [1, 3]})], name=name, samples=50)
    asked = everything(proposer(swept), results=lambda c: (0.5, 0.5))
    assert sorted(json.dumps(c) for c in asked) == sorted(
        json.dumps(c) for c in [{"trial": 0}, *({"trial": 1, "method.n": n} for n in (1, 2, 3))]
    )


def test_random_does_not_depend_on_results_or_their_order():
    swept = sweep(SAMPLED, name="random", samples=12)
    plain = everything(proposer(swept))
    assert everything(proposer(swept), results=lambda c: None) == plain
    assert everything(proposer(sweep(SAMPLED, name="random", samples=20)))[:12] == plain, "extended, not new"


@pytest.mark.parametrize("name", ["grid", "random", "optuna"])
def test_a_search_that_was_cut_short_goes_on(name):
    trials = [method(), method(beta={"grid": [1, 2, 3, 4, 5]})]
    budget = {} if name == "grid" else {"samples": 5}
    swept = sweep(trials, name=name, **budget)
    first = proposer(swept)
    done = [first.ask() for _ in range(3)]
    second = proposer(swept)
    for config in done:
        second.recall(json.loads(json.dumps(config)), (0.9, 0.5))
        second.recall(config, (0.9, 0.5))  # twice is once
    rest = everything(second)
    assert len(rest) == (6 if name == "grid" else 5) - 3
    assert all(config not in done for config in rest)


@pytest.mark.parametrize("name", ["grid", "random", "optuna"])
@pytest.mark.parametrize(
    "stale",
    [{"trial": 7}, {"trial": 1}, {"trial": 1, "method.beta": 99}, {"trial": 0, "method.beta": 1}, {}],
)
def test_what_an_earlier_version_of_the_file_proposed_does_not_count(name, stale):
    trials = [method(), method(beta={"grid": [1, 2]})]
    search = proposer(sweep(trials, name=name, **({} if name == "grid" else {"samples": 3})))
    search.recall(stale, (0.9, 0.5))
    assert len(everything(search)) == 3


def test_optuna_learns_from_results_of_this_and_of_an_earlier_run():
    """With beta near 6 best in both objectives, proposals after 30 results lie higher than blind ones (mean 3.5)."""
    trials = [method(beta={"uniform": [1, 6]})]

    def outcome(config):
        return (config["method.beta"] / 6, config["method.beta"] / 6)

    told = OptunaSearch(sweep(trials, name="optuna", samples=40))
    asked = everything(told, results=outcome)
    recalled = OptunaSearch(sweep(trials, name="optuna", samples=40))
    for config in asked[:30]:
        recalled.recall(config, outcome(config))
    for late in (asked[30:], everything(recalled, results=outcome)):
        assert len(late) == 10
        assert sum(c["method.beta"] for c in late) / 10 > 4.5


def test_optuna_does_not_take_a_failure_for_a_result():
    search = OptunaSearch(sweep([method(beta={"uniform": [1, 6]})], name="optuna", samples=4))
    for values in ((0.9, 0.1), None, (0.8, 0.3)):
        search.tell(search.ask(), values)
    states = [trial.state.name for trial in search.study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]


def test_optuna_can_have_several_out_at_once_and_hear_back_in_any_order():
    search = OptunaSearch(sweep([method(beta={"loguniform": [1, 6]})], name="optuna", samples=8))
    out = [search.ask() for _ in range(8)]
    assert search.ask() is None
    for config in reversed(out):
        search.tell(config, (config["method.beta"], 0.0))
    by_value = {t.params["0/method.beta"]: t.values[0] for t in search.study.trials}
    assert all(beta == value for beta, value in by_value.items())
    assert len(by_value) == 8

"""Rows as a sweep: what runs, how it is tagged, and what makes it a scaled-down one."""

from __future__ import annotations

import pytest
from small_sheet import CONTENT, built

from orchestrate.papers import planned, sheet
from orchestrate.papers.ours import FULL, tag_of
from training.errors import UserError

SHEET = built()


def tags(plan: planned.Planned) -> list[str]:
    return [next(iter(trial["tags"].values())) for trial in plan.sweep.trials]


def test_a_row_is_run_as_it_is_printed() -> None:
    plan = planned.plan(SHEET, SHEET.rows, 3, [])
    assert tags(plan) == [FULL, FULL]
    assert plan.scaled == ()
    assert [next(iter(trial["tags"])) for trial in plan.sweep.trials] == [
        "paper/hat/table99/a/trades",
        "paper/hat/table99/a/hat:wa",
    ]
    assert plan.sweep.seeds == (0, 1, 2)
    first, pgd = plan.sweep.evaluate.specs()
    assert (first.attacks, pgd.attacks, pgd.pgd_steps) == (("autoattack",), ("pgd",), 20)
    assert plan.left_out == ("hat/table99/a/other: is of another paper",)


@pytest.mark.parametrize(
    "override",
    [
        "data.root=somewhere",
        "train.channels_last=true",
        "resources.cpus=2",
        "concurrency=1",
        "evaluate.batch_size=64",
    ],
)
def test_where_and_how_fast_it_runs_is_no_change(override: str) -> None:
    assert tags(planned.plan(SHEET, SHEET.rows, 1, [override])) == [FULL, FULL]


@pytest.mark.parametrize(
    "override",
    [
        "train.epochs=5",
        "data=digits",
        "model.width=8",
        "evaluate.images=100",
        "train.precision=bf16",
        "method.beta=1",
    ],
)
def test_what_changes_the_training_or_its_judgement_scales_it_down(override: str) -> None:
    plan = planned.plan(SHEET, SHEET.rows, 1, [override])
    assert set(tags(plan)) == {override}
    assert len(plan.scaled) == 2


def test_a_change_that_changes_nothing_is_none() -> None:
    assert tags(planned.plan(SHEET, SHEET.rows, 1, ["train.epochs=50"])) == [FULL, FULL]


def test_digits_bring_a_small_network_unless_one_is_named() -> None:
    plan = planned.plan(SHEET, SHEET.rows, 1, ["data=digits"])
    assert plan.sweep.template(0)["model"] == {"name": "small-cnn"}
    assert plan.sweep.template(0)["data"] == planned.DIGITS_DATA
    assert plan.sweep.evaluate.images == 200
    own = planned.plan(SHEET, SHEET.rows, 1, ["data=digits", "model=mlp", "evaluate.images=50"])
    assert own.sweep.template(0)["model"] == {"name": "mlp"}
    assert own.sweep.evaluate.images == 50


@pytest.mark.parametrize("name", ["he/table4", "lbgat/table6", "hat/table4", "he/table7"])
def test_digits_need_neither_a_size_nor_extra_images(name: str) -> None:
    one = sheet.read(name)
    plan = planned.plan(one, one.rows, 1, ["data=digits"])
    assert plan.rows
    assert all("extra images, and digits have none" in sentence for sentence in plan.left_out)


def test_where_no_column_can_be_measured_the_judgement_is_cheap() -> None:
    one = sheet.read("he/table7")
    assert planned.plan(one, one.rows, 1, []).sweep.evaluate.attacks == ("pgd",)


def test_lbgats_second_network_is_narrow_on_digits_too() -> None:
    one = sheet.read("lbgat/table3")
    plan = planned.plan(one, one.select("cifar10/pgd-at+lbgat"), 1, ["data=digits"])
    assert plan.sweep.template(0)["method"]["with"]["lbgat"]["model"] is None


def test_a_row_that_needs_a_file_is_left_out_until_it_is_given() -> None:
    one = sheet.read("lbgat/table3")
    plan = planned.plan(one, one.select("cifar10"), 1, [])
    assert any("helpers.natural-2.path=FILE" in sentence for sentence in plan.left_out)
    assert "pgd-at+bgat" not in [row.name for row in plan.rows]
    with pytest.raises(UserError, match=r"nothing can be run: .*helpers\.natural-2\.path"):
        planned.plan(one, one.select("cifar10/pgd-at+bgat"), 1, [])
    given = planned.plan(one, one.select("cifar10/pgd-at+bgat"), 1, ["helpers.natural-2.path=w.pt"])
    assert [row.name for row in given.rows] == ["pgd-at+bgat"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trials=[{method: trades}]", "the trials are the sheet's rows"),
        ("train.epocs=5", "did you mean 'epochs'"),
        ("method.beta={grid: [1, 2]}", "a row is one training"),
        ("model.widht=3", "model"),
        ("search={name: random, samples: 3}", "rows are run as they are"),
    ],
)
def test_a_wrong_override_is_told_before_anything_starts(override: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        planned.plan(SHEET, SHEET.rows[:1], 1, [override])


def test_rows_that_lack_the_same_file_are_told_together() -> None:
    one = sheet.read("hat/table4")
    with pytest.raises(UserError) as caught:
        planned.plan(one, one.rows, 1, [])
    said = str(caught.value)
    assert "hat/table4/cifar10-prn-18-ddpm/trades+wa and " in said
    assert len(said) < 1200


def test_a_sheet_of_rows_that_nobody_can_train_says_so() -> None:
    rows = {"other": CONTENT["groups"]["a"]["rows"]["other"]}
    one = built(CONTENT | {"groups": {"a": {"rows": rows}}})
    with pytest.raises(UserError, match="none of these rows can be trained here"):
        planned.plan(one, one.rows, 1, [])


def test_other_overrides_make_another_sweep() -> None:
    names = {
        planned.plan(SHEET, SHEET.rows, 1, given, picked).sweep.name
        for given, picked in (([], ""), (["train.epochs=5"], ""), (["train.epochs=6"], ""), ([], "a/trades"))
    }
    assert len(names) == 4
    assert planned.plan(SHEET, SHEET.rows, 1, ["data.root=x"], "").sweep.name == "hat-table99"
    assert planned.plan(SHEET, SHEET.rows, 1, ["name=mine"], "").sweep.name == "mine"


def test_tags_are_names_that_mlflow_takes() -> None:
    from orchestrate.sweep_file import TAG

    assert all(TAG.match(tag_of(row.id)) for one in sheet.all_sheets() for row in one.rows)

"""Sheets: what a file may say, and how a mistake in one is told."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from small_sheet import CONTENT, built

from orchestrate import configuration
from orchestrate.papers import sheet
from training.errors import UserError


def changed(path: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    *above, last = path.split(".")
    place = content
    for name in above:
        place = place[name]
    place[last] = value
    return content


def test_a_row_is_its_own_sections_over_those_of_its_group_and_sheet() -> None:
    trades, hat, other = built().rows
    assert (trades.id, hat.label) == ("hat/table99/a/trades", "HAT & WA")
    assert hat.compared_with == trades.id
    spec = hat.spec()
    assert spec is not None
    assert (spec.method.name, list(spec.method.with_), spec.model.name, spec.train.epochs) == (
        "hat",
        ["wa"],
        "resnet18",
        50,
    )
    assert other.spec() is None


def test_a_printed_number_may_have_a_spread() -> None:
    printed = built().rows[0].given.published
    assert (printed["clean"].value, printed["clean"].spread) == (82.73, 0.3)
    assert (str(printed["clean"]), str(printed["robust"])) == ("82.73 ± 0.30", "48.80")


def resolve_all(content: dict[str, Any]) -> None:
    """Read a sheet, and what only the recipes know of its rows."""
    for row in built(content).rows:
        if (spec := row.spec()) is not None:
            configuration.of(spec)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("groups.a.rows.trades.method", "tradse", "no method 'tradse'"),
        ("groups.a.rows.trades.published", {"clen": 1}, "no column 'clen' (did you mean 'clean'?)"),
        ("groups.a.rows.hat+wa.from", "trade", "no row 'trade'"),
        ("groups.a.rows.hat+wa.train", {"epocs": 1}, "epocs"),
        ("groups.a.rows.other.method", "trades", "untrained has no method"),
        ("groups.a.rows.trades.needs", {"data.extra.path": "images"}, "needs.data.extra.path: is no '?'"),
        (
            "groups.a.rows.trades.data",
            {"extra": {"path": "?", "share": 0.5}},
            "needs.data.extra.path: is missing",
        ),
        ("groups.a.rows.trades.published", {}, "needs a note"),
        ("axes", ["clean", "robst"], "axes: no column 'robst'"),
        ("spread", {"kind": "sd", "runs": 1}, "sd is of 2 runs or more"),
        ("columns.cw", {"title": "CW", "not_yet": "x", "attacks": ["pgd"]}, "has no attacks"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file_and_the_field(path: str, value: Any, told: str) -> None:
    content = changed(path, value)
    with pytest.raises(UserError) as caught:
        resolve_all(content)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_are_chosen_by_group_or_name() -> None:
    one = sheet.read("hat/table2")
    assert {row.group for row in one.select("cifar10")} == {"cifar10"}
    assert [row.id for row in one.select("cifar10/hat,svhn/at")] == [
        "hat/table2/cifar10/hat",
        "hat/table2/svhn/at",
    ]
    assert len(one.select("hat")) == 3
    assert one.select(None) == one.rows
    with pytest.raises(UserError, match="no row 'cifar1'"):
        one.select("cifar1")


def test_sheets_come_paper_by_paper_and_tables_in_their_order() -> None:
    names = sheet.names()
    assert names.index("hat/table9") < names.index("hat/table10") < names.index("he/table2")
    with pytest.raises(UserError, match="did you mean 'hat/table2'"):
        sheet.read("hat/tabel2")

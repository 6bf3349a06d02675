"""The commands, the picture and the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sheet import Store

from orchestrate.cli import main
from orchestrate.papers import hours, ours, page, picture, sheet, verdict
from orchestrate.papers.ours import configuration_of, tag_of

ROOT = Path(__file__).parents[3]
TABLE = sheet.read("hat/table2")


def test_the_page_is_made_from_the_sheets() -> None:
    assert (ROOT / "docs" / "papers.md").read_text() == "\n".join(page.page()) + "\n"


def test_the_list_has_every_sheet_and_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["papers", "--runs", str(tmp_path / "none")]) == 0
    said = capsys.readouterr().out
    rows = [row for one in sheet.all_sheets() for row in one.rows]
    assert all(f"\n{row.id} " in said for row in rows)
    assert f"{len(sheet.names())} sheets, {len(rows)} rows" in said


def test_one_table_is_shown_with_its_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    full = {"parapet.configuration": configuration_of(TABLE.rows[2])}
    store.add(0.83, 0.487, tags=full)
    store.add(0.9, 0.8, tags={tag_of("hat/table2/cifar10/hat"): "train.epochs=5"}, images=200)
    assert main(["papers", "show", "hat/table2", "--rows", "cifar10", "--runs", str(store.runs.path)]) == 0
    said = capsys.readouterr().out
    assert "83.00 ± " in said
    assert "scaled-down: train.epochs=5" in said
    png, html = (store.runs.path / "papers" / f"hat-table2.{end}" for end in ("png", "html"))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "no reproduction" in html.read_text()
    assert main(["papers", "show", "hat/table2", "--latex", "--runs", str(store.runs.path)]) == 0
    assert capsys.readouterr().out.startswith("% HAT Table 2")


def test_scaled_down_rows_are_drawn_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(0.9, 0.8, tags={tag_of("hat/table2/cifar10/hat"): "train.epochs=5"}, images=200)
    found = ours.find(store.runs, [TABLE])
    compared = [verdict.compare(TABLE, row, found.get(row.id, [])) for row in TABLE.rows]
    panels = [p for group in TABLE.content.groups for p in picture._panels(TABLE, compared, group)]
    assert [panel.scaled for panel in panels] == [False, True, False, False]
    assert panels[0].remark.startswith("not in sight: Standard")
    assert all(mark.printed is None for mark in panels[1].marks)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["papers", "--only", "hats"], "--only: no paper or sheet 'hats'"),
        (["papers", "show", "hat/tabel2"], "did you mean 'hat/table2'"),
        (["papers", "show", "hat/table2", "--rows", "cifar11"], "no row 'cifar11'"),
        (["papers", "run", "hat/table2", "train.epocs=1"], "did you mean 'epochs'"),
        (["papers", "run", "hat/table2", "--seeds", "0"], "--seeds"),
        (["papers", "run", "hat/table2", "--seeds", "1000000"], "--seeds"),
        (["papers", "show", "hat/table2", "--output", "/nowhere"], "there is no folder /nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--runs", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.strip().splitlines()) == 1


def test_runs_that_are_no_folder_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["papers", "--runs", str(tmp_path / "file")]) == 2
    assert f"--runs: {tmp_path / 'file'} is no folder" in capsys.readouterr().err


def test_a_dry_run_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "papers",
        "run",
        "hat/table2",
        "data=digits",
        "train.epochs=1",
        "--rows",
        "cifar10/trades",
        "--dry-run",
    ]
    assert main([*words, "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "scaled-down, so no reproduction: 1 of 1 rows" in said
    assert "Nothing was started" in said
    assert not (tmp_path / "runs").exists()


def test_hours_follow_from_the_printed_epochs() -> None:
    rows = {row.id: row for row in TABLE.rows}
    at = hours.of(rows["hat/table2/cifar10/at"])
    assert at == pytest.approx(50 * hours.MEASURED["resnet18"] / 3600)
    # TRADES: three passes more than PGD-AT's 23, of which a clean forward and a longer backward.
    trades = hours.of(rows["hat/table2/cifar10/trades"])
    assert at is not None
    assert trades is not None
    assert 1 < trades / at < 1.3
    assert hours.total([rows["hat/table2/cifar10/at"]] * 2) == pytest.approx(at)
    both = hours.total([rows["hat/table2/cifar10/hat"]])
    own = hours.of(rows["hat/table2/cifar10/hat"])
    standard = hours.of(rows["hat/table2/cifar10/standard"])
    assert own is not None
    assert standard is not None
    assert both == pytest.approx(own + standard), "its helper network is the standard row's"
    assert hours.total([rows["hat/table2/cifar10/hat"]], 3) == pytest.approx(3 * own + standard)

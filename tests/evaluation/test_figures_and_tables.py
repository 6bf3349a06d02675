"""Figures and tables of a front: what they show, and that they come out for any set of points."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from PIL import Image

from evaluation import figures, tables
from evaluation.front import Point, TrialResult, summarise


def _points(*rows: tuple[str, dict[str, object], int, float, float]) -> list[Point]:
    """A trial per (method, parameters, seed, clean, robust); its key is its place in eight digits or more."""
    return summarise(
        [
            TrialResult(
                f"{i:016d}",
                " ".join([method, *map(str, given.values())]),
                method,
                "CE(adv)",
                given,
                *rest,
                500,
            )
            for i, (method, given, *rest) in enumerate(rows)
        ]
    )


DEMO = _points(
    ("standard", {}, 0, 0.982, 0.002),
    ("trades", {"beta": 1}, 0, 0.985, 0.58),
    ("trades", {"beta": 1}, 1, 0.983, 0.60),
    ("trades", {"beta": 6.0}, 0, 0.960, 0.64),
    ("hat", {"beta": 3.0, "with": {"awp": {"radius": 0.005}}}, 0, 0.978, 0.636),
    ("hat", {"beta": 1.5, "form": "trades"}, 0, 0.977, 0.62),
)
CROWD = _points(
    *(("ab"[i % 2], {"x": i}, 0, *pair) for i, pair in enumerate(np.random.default_rng(0).random((60, 2))))
)
CASES = {
    "none": [],
    "one": DEMO[:1],
    "two": _points(("a", {}, 0, 0.9, 0.1), ("b", {}, 0, 0.8, 0.4)),
    "all at zero": _points(*(("standard", {"lr": i}, 0, 0.9 + i / 100, 0.0) for i in range(3))),
    "all the same": _points(*(("standard", {"lr": i}, 0, 0.9, 0.5) for i in range(3))),
    "perfect": _points(("a", {}, 0, 1.0, 1.0)),
    "demo": DEMO,
    "crowd": CROWD,
    "crowded front": _points(
        ("far", {}, 0, 0.2, 0.1), *(("a", {"x": i}, 0, 0.9 + i / 1000, 0.5 - i / 1000) for i in range(12))
    ),
    "many methods": _points(*((f"method-{i}", {}, 0, i / 20, 1 - i / 20) for i in range(15))),
}


@pytest.mark.parametrize("case", CASES)
def test_every_front_can_be_drawn(case: str, tmp_path: Path) -> None:
    png, svg, page = figures.draw(CASES[case], tmp_path / "report", "A <front> & more", "AutoAttack, Linf")
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert round(image.info["dpi"][0]) == 200
        assert image.width > 1200
        assert len(image.getcolors(1 << 24)) > 50
    drawn = "".join(ElementTree.parse(svg).getroot().itertext())
    assert "A <front> & more" in drawn
    assert "AutoAttack, Linf" in drawn
    assert page.stat().st_size > 1e6
    assert sorted(f.name for f in (tmp_path / "report").iterdir()) == ["front.html", "front.png", "front.svg"]


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in (*figure.texts, *figure.axes[0].texts)]


def test_the_picture_names_the_front_and_says_what_was_measured() -> None:
    figure = figures._front(DEMO, "digits", "AutoAttack, Linf, eps = 0.2")
    title, caption, *names = _texts(figure)
    assert title == "digits"
    assert caption.startswith("robust: AutoAttack, Linf, eps = 0.2, on 500 test images\n")
    assert "standard deviation over 1 to 2 seeds" in caption
    assert "above (0, 0)" in caption
    short = {label: label for label in (p.label for p in DEMO) if len(label) <= 32}
    assert sorted(names) == sorted(short.get(p.label, p.label.split()[0]) for p in DEMO if p.front)
    assert {t.get_text() for t in figure.axes[0].get_legend().get_texts()} == {"standard", "trades", "hat"}


@pytest.mark.parametrize(
    "case", ["demo", "crowd", "crowded front", "many methods", "all at zero", "all the same"]
)
def test_names_overlap_neither_each_other_nor_points_and_stay_inside(case: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    points = CASES[case]
    figure = figures._front(points, "digits", "AutoAttack")
    axes = figure.axes[0]
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert boxes
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        for p in points:
            assert not box.contains(*axes.transData.transform((100 * p.clean, 100 * p.robust)))
        frame = axes.get_window_extent(renderer)
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1


def test_all_points_with_their_spreads_are_inside_the_picture() -> None:
    for points in CASES.values():
        axes = figures._front(points, "", "").axes[0]
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        for p in points:
            assert left <= 100 * (p.clean - (p.clean_sd or 0)) <= 100 * (p.clean + (p.clean_sd or 0)) <= right
            assert (
                low <= 100 * (p.robust - (p.robust_sd or 0)) <= 100 * (p.robust + (p.robust_sd or 0)) <= high
            )


def test_the_staircase_is_the_border_of_what_is_dominated() -> None:
    x, y = figures._staircase(CROWD, -5.0, -5.0)
    front = [p for p in CROWD if p.front]
    for clean in np.linspace(0, max(p.clean for p in front), 200):
        reached = max(p.robust for p in front if p.clean >= clean)
        corner = np.searchsorted(x, 100 * clean, side="left")
        assert y[corner] == pytest.approx(100 * reached)


def test_methods_differ_in_colour_or_marker() -> None:
    looks = figures._looks(_points(*((f"{i}", {}, 0, 0.5, 0.5) for i in range(42))))
    assert len(set(looks.values())) == 42


def test_the_page_needs_no_network_and_hovering_tells_everything(tmp_path: Path) -> None:
    _, _, file = figures.draw(DEMO, tmp_path, "digits", "AutoAttack")
    page = file.read_text()
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    for p in DEMO:
        assert all(key in page for key in p.keys)
    assert re.search(r"beta: 6\.0\b.*seeds: 0\b", page)
    assert "seeds: 0, 1" in page
    assert "method: trades" in page
    assert "one seed" in page


def test_names_from_outside_cannot_put_scripts_on_the_page(tmp_path: Path) -> None:
    points = _points(("<script>alert(1)</script>", {"<b>": "<img src=x>"}, 0, 0.5, 0.5))
    _, _, file = figures.draw(points, tmp_path, "<script>alert(2)</script>", "<img src=y>")
    page = file.read_text()
    assert "<script>alert" not in page
    assert "<img src" not in page
    assert figures._hover(points[0]).startswith("<b>&lt;script&gt;alert(1)")
    assert "&lt;b&gt;: &lt;img src=x&gt;<br>" in figures._hover(points[0])


def test_thousands_of_points_are_drawn(tmp_path: Path) -> None:
    pairs = np.random.default_rng(0).normal(0.5, 0.1, (5000, 2)).clip(0, 1)
    points = _points(*(("ab"[i % 2], {"x": i}, 0, *pair) for i, pair in enumerate(pairs)))
    assert len(figures.draw(points, tmp_path, "many", "AutoAttack")) == 3


def test_the_tables_hold_every_point(tmp_path: Path) -> None:
    spreadsheet, parquet = tables.write(DEMO, tmp_path / "report")
    rows = pq.read_table(parquet).to_pylist()
    assert [row["label"] for row in rows] == [p.label for p in DEMO]
    for row, p in zip(rows, DEMO, strict=True):
        assert (row["clean"], row["robust_sd"], row["front"]) == (p.clean, p.robust_sd, p.front)
        assert (row["robust_low"], row["robust_high"]) == p.robust_interval
        assert (tuple(row["keys"]), tuple(row["seeds"])) == (p.keys, p.seeds)
    by_label = {row["label"]: row for row in rows}
    assert by_label["trades 6.0"]["parameter.beta"] == 6.0
    assert by_label["standard"]["parameter.beta"] is None
    assert by_label["hat 1.5 trades"]["parameter.form"] == "trades"
    assert any(row["parameter.with"] == '{"awp": {"radius": 0.005}}' for row in rows)

    with spreadsheet.open(newline="") as file:
        texts = list(csv.DictReader(file))
    assert list(texts[0]) == list(rows[0])
    for text, row in zip(texts, rows, strict=True):
        assert float(text["robust"]) == row["robust"]
        assert text["keys"] == " ".join(row["keys"])
        assert text["clean_sd"] == ("" if row["clean_sd"] is None else str(row["clean_sd"]))


def test_an_empty_front_makes_empty_tables(tmp_path: Path) -> None:
    spreadsheet, parquet = tables.write([], tmp_path)
    assert pq.read_table(parquet).num_rows == 0
    assert spreadsheet.read_text().count("\n") == 1


def test_rows_for_people() -> None:
    rows = tables.rows_for_display(DEMO)
    assert all(len(row) == len(tables.HEADER) for row in rows)
    assert ("*", "trades 1", "98.4 ± 0.1", "59.0 ± 1.4", "2", "500", "00000000 00000000") in rows
    assert ("", "standard", "98.2", "0.2", "1", "500", "00000000") in rows


def test_learning_curves_of_a_trial(tmp_path: Path) -> None:
    epochs = [
        {
            "epoch": e,
            "best": e == 1,
            "metrics": {"loss": 2.0 - e / 4, "loss/CE.clean": 1.0, "loss/KL.adv.clean": 0.1 * e}
            | ({"val/clean": 0.9, "val/robust": 0.1 * e} if e % 2 else {}),
        }
        for e in range(6)
    ]
    figures.curves(epochs, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > image.height > 400
    at, values = figures._series(epochs, "val/robust")
    assert at == [2, 4, 6]
    assert values.tolist() == pytest.approx([0.1, 0.3, 0.5])


def test_curves_of_a_trial_without_epochs_are_empty(tmp_path: Path) -> None:
    figures.curves([], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0

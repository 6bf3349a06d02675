"""The page docs/papers.md, made from the sheets: ``python -m orchestrate.papers.page > docs/papers.md``."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrate.papers import hours, sheet
from orchestrate.papers.sheet import Printed, Sheet

INTRODUCTION = """\
# The papers' tables

Every results table of five papers, as sheets that can be run: {rows} rows in {sheets} sheets, {trained} of them with
the spec of their training, {different} different trainings. This page is made from the sheets in
`orchestrate/papers/PAPER/TABLE.yaml` (`python -m orchestrate.papers.page > docs/papers.md`).

```
parapet papers                                          # every row: published, ours, difference, runs, verdict
parapet papers run hat/table2 --rows cifar10 --seeds 3 data.root=PATH   # run rows; what is there is not run again
parapet papers show hat/table2                          # all columns, gains over the baselines, the picture; --latex
parapet papers run hat/table2 --rows cifar10 data=digits train.epochs=5 # a scaled-down try on the embedded digits
```

![HAT Table 2: printed, and a scaled-down try on digits apart from it](papers-hat-table2.png)

*`parapet papers show hat/table2` after the last of these commands: arrows lead from a baseline to a method.*

## What counts
- **A repetition** is a finished run whose configuration is the row's (everything that is trained but the seed),
  trained on as many images as the data set has, and evaluated in the row's threat model by the column's attack on all
  test images. It is found in MLflow whichever sweep trained it.
- **Scaled-down** is a run that `papers run` made with overrides that change what is trained or how it is judged. It
  is shown with what was changed, has no difference and no verdict, and never counts. With `data=digits` the networks
  become the small CNN and 200 images are attacked, unless `model=` or
  `evaluate.images=` say otherwise: a wide ResNet is not made for 8x8 images.
- **Verdicts.** The deviation between trainings is pooled from the paper's (a printed standard deviation, or the one
  that a printed interval implies) and ours over seeds, as far as either is there; each mean has an interval of t s /
  sqrt(count). Ours has that of test images besides (Wilson), in quadrature. They agree, *within the spread*, when
  they differ by no more than both intervals in quadrature, in every printed column that can be measured; else the row
  is *incomplete*; where they differ by more it is *outside*. An agreement that allows more than 3 points is *too few to
  tell*. With one seed and no printed spread only test images are in it, and the table says "one seed".
- **What is shown.** Repetitions, where there are any; else the scaled-down runs that are like the last one. What is not
  shown is named below the table of `papers show`.
- **Not yet**: a column whose attack or measure is not built. Its numbers are shown, the row trains all the same.
- **Rows in a comparison** (`from` in a sheet, arrows in the picture) are of one recipe: same data, network,
  optimiser, schedule, search and selection. A test holds every sheet to that, but for ADR's AWP, which its program
  runs without Nesterov momentum. The same baseline differs by several points between the papers' recipes.
- **Files that nobody can make here** (generated or pseudo-labelled images, one network of BGAT's ensemble) are given
  by path; without it the row is left out and says what it needs. A verdict says that it is with the files given.

## What it costs
GPU-hours are of one training, without its helper network and without evaluation, on one {card}: network passes times
the network's multiplications, over the rate at which that card did PGD-AT in {source} (81 s per epoch with ResNet-18,
575 s with WRN-34-10, CIFAR-10, batch 128). These are that paper's step times; parapet's own on a GPU are not measured
yet. A sheet's total has each different training once, and each helper network once. All sheets together, with what
they share counted once: {total:,.0f} GPU-hours.
"""


def main() -> None:
    """Print the page."""
    print("\n".join(page()))


def page() -> Iterator[str]:
    """The lines of the page."""
    from orchestrate.papers.ours import configuration_of

    sheets = list(sheet.all_sheets())
    rows = [row for one in sheets for row in one.rows]
    trained = [row for row in rows if row.sections is not None]
    yield INTRODUCTION.format(
        rows=len(rows),
        sheets=len(sheets),
        trained=len(trained),
        different=len({configuration_of(row) for row in trained}),
        card=hours.CARD,
        source=hours.SOURCE,
        total=hours.total(trained),
    )
    paper = ""
    for one in sheets:
        if one.paper != paper:
            paper = one.paper
            yield f"## {sheet.PAPERS[paper]}\n"
        yield from _section(one)


def _section(one: Sheet) -> Iterator[str]:
    content = one.content
    yield f"### {one.name}: {content.title}\n"
    yield f"{_line(content.says)}\n"
    if content.chosen:
        yield f"*Chosen:* {_line(content.chosen)}\n"
    missing = [
        f"{column.title}: {_line(column.not_yet)}" for column in content.columns.values() if column.not_yet
    ]
    if missing:
        yield f"*Not yet:* {'; '.join(missing)}\n"
    heads = ["row", *(_title(column.title, column.unit) for column in content.columns.values()), "GPU-hours"]
    yield _table_line(heads)
    yield _table_line(["---"] * len(heads))
    for row in one.rows:
        cost = hours.of(row)
        told = "not trained here" if row.sections is None else "-" if cost is None else f"{cost:.2f}"
        printed = [_printed(row.given.published.get(name)) for name in content.columns]
        yield _table_line([f"{row.group}/{row.name}", *printed, told])
    total = hours.total(one.rows)
    yield f"\nTogether, with helper networks: {total:,.1f} GPU-hours."
    notes = [row for row in one.rows if row.given.note or row.given.untrained or row.given.needs]
    for row in notes:
        said = [row.given.note, row.given.untrained and f"not trained here: {row.given.untrained}"]
        said += [f"needs `{field}`: {what}" for field, what in row.given.needs.items()]
        yield f"- {row.group}/{row.name}: {'; '.join(_line(text) for text in said if text)}"
    yield ""


def _printed(printed: Printed | None) -> str:
    return "" if printed is None else str(printed)


def _title(title: str, unit: str) -> str:
    return title if unit == "%" else f"{title} ({unit})"


def _table_line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()

"""Five rows of the faults table, two at a time; ``make faults`` plays them all."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import rows_driver
import rows_services
import rows_slurm
import rows_training
from real_slurm import RealSlurm
from stage import Undisturbed
from table import Line, Play, play

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

QUICK: tuple[Play, ...] = (
    rows_driver.killed_during_submission,
    rows_training.killed_in_the_middle_of_a_checkpoint,
    rows_slurm.requeued,
    rows_services.sacct_absent,
    rows_driver.two_drivers,
)


@pytest.fixture(scope="module")
def played(
    site: RealSlurm, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Line]]]:
    """The rows whose tests are run. Much of each is waiting, so they are played side by side."""
    wanted = {item.name for item in request.session.items}
    folder = tmp_path_factory.mktemp("faults")
    undisturbed = Undisturbed(folder / "undisturbed")
    with ThreadPoolExecutor(2) as pool:
        rows = [row for row in QUICK if f"test_a_fault_breaks_no_invariant[{row.__name__}]" in wanted]
        yield {row.__name__: pool.submit(play, row, site, folder, undisturbed) for row in rows}


@pytest.mark.parametrize("row", [row.__name__ for row in QUICK])
def test_a_fault_breaks_no_invariant(played: dict[str, Future[Line]], row: str) -> None:
    line = played[row].result()
    assert not line.trouble
    assert [finding.broken for finding in line.findings] == [[]] * 6
    assert line.finished == line.trials == 2
    assert all(finding.seen for finding in line.findings if finding.letter != "d")


def test_the_table_is_what_the_rows_were(tmp_path: Path) -> None:
    from checker import Finding
    from table import BEGIN, END, put, written

    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put(
        written([Line("a fault", 2, 1, 3, 4, 5.0, [Finding("a", 7, ["bad"])], "it broke")], "slurm 22"),
        page=page,
    )
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| a fault | 1 of 2 | 3 | 4 | **1 of 7 broken** | 5 | **it broke** |" in text
    assert "old" not in text

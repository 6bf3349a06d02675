"""Five faults of the table in two sweeps, side by side; ``make faults`` plays each fault by itself."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from checker import Finding
from real_slurm import RealSlurm
from rows_driver import killed_during_submission, refused
from rows_services import FORGETFUL, NO_ACCOUNTING
from rows_training import TORN
from stage import Stage, Undisturbed
from sweep_process import SLOW
from table import BEGIN, END, Line, play, put, written

pytestmark = pytest.mark.slow


def driver_killed_during_submission_and_two_drivers(stage: Stage) -> None:
    """driver killed during submission, and two drivers started on what goes on"""
    stage.inside(SLOW)
    stage.epochs = 40  # of half a second
    killed_during_submission(stage, meanwhile=refused)


def jobs_torn_requeued_and_killed_without_sacct(stage: Stage) -> None:
    """killed in the middle of a checkpoint; then one job requeued, one killed without a word; no sacct"""
    stage.settings["accounting"] = False
    stage.shim("sacct", NO_ACCOUNTING)
    stage.shim("squeue", FORGETFUL)
    stage.inside(TORN + SLOW)
    stage.write(epochs=40, limits={"checkpoint_minutes": 0.01})
    sweep = stage.start()
    stage.until(lambda: [trial.attempts for trial in stage.trials().values()] == [2, 2])
    assert all(trial.of("started")[1]["resumes_at"] > [0, 0] for trial in stage.trials().values())
    one, other = stage.until_all_train()
    stage.slurm("scontrol", "requeue", stage.job(one))
    stage.slurm("scancel", "--signal=KILL", "--full", stage.job(other))
    stage.finish(sweep)
    assert [trial.attempts for trial in stage.trials().values()] == [3, 3]


ROWS = (driver_killed_during_submission_and_two_drivers, jobs_torn_requeued_and_killed_without_sacct)


@pytest.fixture(scope="module")
def played(
    site: RealSlurm, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Line]]]:
    """The rows whose tests are run. Much of each is waiting."""
    wanted = {item.name for item in request.session.items}
    folder = tmp_path_factory.mktemp("faults")
    undisturbed = Undisturbed(folder / "undisturbed")
    with ThreadPoolExecutor(len(ROWS)) as pool:
        rows = [row for row in ROWS if f"test_faults_break_no_invariant[{row.__name__}]" in wanted]
        yield {row.__name__: pool.submit(play, row, site, folder, undisturbed) for row in rows}


@pytest.mark.parametrize("row", [row.__name__ for row in ROWS])
def test_faults_break_no_invariant(played: dict[str, Future[Line]], row: str) -> None:
    line = played[row].result()
    assert not line.trouble
    assert [finding.broken for finding in line.findings] == [[]] * 6
    assert line.finished == line.trials == 2
    assert all(finding.seen for finding in line.findings if finding.letter != "d")


def test_the_table_is_what_the_rows_were(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    line = Line("a fault", 2, 1, 3, 4, 5.0, [Finding("a", 7, ["bad"])], "it broke")
    put(written([line], "slurm 22"), page=page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| a fault | 1 of 2 | 3 | 4 | **1 of 7 broken** | 5 | **it broke** |" in text
    assert "old" not in text

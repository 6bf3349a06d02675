"""What a person sees of a sweep: each happening once, the right numbers, and never an error because of it."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from written_trials import WrittenTrial, make_sweep

from orchestrate import live
from orchestrate.board import Board, Line
from orchestrate.live import Live, News, chosen, summary, table
from orchestrate.runs import Runs, SweepDir


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture
def sweep(runs: Runs) -> SweepDir:
    return make_sweep(runs)


@pytest.fixture
def trials(runs: Runs, sweep: SweepDir) -> Iterator[list[WrittenTrial]]:
    """Four suggestions; locks that a test leaves are released."""
    made = [WrittenTrial(runs, sweep, str(i) * 16, row=i, label=f"trades beta={i}", seed=i) for i in range(4)]
    yield made
    for trial in made:
        if trial.lock:
            trial.vanish()


def test_a_line_follows_its_trial_from_the_first_epoch_to_the_verdict(
    runs: Runs, sweep: SweepDir, trials: list[WrittenTrial]
) -> None:
    board = Board(sweep, runs)

    def line() -> Line:
        return board.lines()[0]

    assert (line().state, line().epoch, line().share) == ("waiting", 0, 0.0)
    trial = trials[0].start()
    trial.epoch(0)
    assert (line().state, line().epoch, line().epochs, line().val) == ("training", 1, 3, (0.8, 0.0))
    before = line().share
    trial.epoch(1)
    assert line().share > before > 0
    trial.trained()
    trial.events.write("evaluating", evaluation="e1", attack="apgd-t", done=120, of=200)
    assert line().state == "attacking"
    assert live.progress(line()) == "apgd-t 120/200"
    trial.evaluated()
    trial.end()
    trial.close("finished")
    assert (line().state, line().test, line().share, line().done) == ("finished", (0.9, 0.4), 1.0, True)


def test_a_trial_that_an_earlier_driver_left_waits_until_it_goes_on(
    runs: Runs, sweep: SweepDir, trials: list[WrittenTrial]
) -> None:
    trials[0].start().epoch(0)
    trials[0].vanish()
    trials[1].start().end("stopped", why="signal")
    time.sleep(0.002)
    board = Board(sweep, runs)
    assert [line.state for line in board.lines()[:2]] == ["waiting", "waiting"]
    trials[0].start()
    assert [line.state for line in board.lines()[:2]] == ["training", "waiting"]


def test_what_a_job_waits_for_is_told_and_what_to_do_when_it_is_held(
    runs: Runs, sweep: SweepDir, trials: list[WrittenTrial]
) -> None:
    keys = [trial.dir.key for trial in trials]
    queue = {keys[0]: ("12", "Resources"), keys[1]: ("13", "Resources")}
    board = Board(sweep, runs, waits=lambda: queue)
    news = News(board)
    assert not list(news.of(board.lines()))
    assert live.progress(board.lines()[0]) == "job 12: Resources"
    assert ", 2 in the queue (Resources)" in live.summary(board, board.lines())
    trials[0].start().epoch(0)
    assert board.lines()[0].state == "training", "the queue's word is older than the event"
    trials[0].events.write("stopped", why="signal")
    queue[keys[0]] = ("12", "launch failed requeued held")
    told = [line.partition("] ")[2] for line in news.of(board.lines())]
    name = board.lines()[0].name
    assert told == [f"{name}: job 12: launch failed requeued held; scontrol release 12 lets it go on"]
    assert not list(news.of(board.lines())), "once"
    assert live.progress(board.lines()[0]) == "held: scontrol release 12"
    del queue[keys[0]]
    assert board.lines()[0].state == "stopped"
    trials[1].dir.waits_file.write_text("sbatch: unable to contact the controller")
    del queue[keys[1]]
    assert live.progress(board.lines()[1]) == "sbatch: unable to contact the controller"


def test_a_suggestion_whose_directory_is_not_written_yet_is_shown(runs: Runs, sweep: SweepDir) -> None:
    from orchestrate import ledger

    ledger.append(sweep.ledger_file, ledger.Row(0, "k" * 16, label="trades"))
    [line] = Board(sweep, runs).lines()
    assert (line.state, line.epochs) == ("waiting", 0)


def test_time_left_is_what_is_open_at_the_pace_of_what_finished(
    runs: Runs, sweep: SweepDir, trials: list[WrittenTrial], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(sweep, runs, expected=6)
    assert board.seconds_left(board.lines()) is None
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    trials[0].start()
    now += 4_000_000_000
    trials[0].trained()
    now += 6_000_000_000
    trials[0].evaluated()
    trials[0].end()
    trials[0].close("finished")
    for trial in trials[1:3]:
        trial.start()
    lines = board.lines()
    assert board.seconds_left(lines) == pytest.approx(5 * 10 / 2), "five of 10 s, two at a time"
    trials[1].trained()  # which was 4 of 10 s
    assert board.seconds_left(board.lines()) == pytest.approx((4 + (0.6)) * 10 / 2)
    assert "1/6 done, 2 running, about 0:23 left" in summary(board, board.lines())


def test_time_left_knows_what_trainings_cost(
    runs: Runs, sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap, dear = (
        WrittenTrial(runs, sweep, key * 16, row=row, cost=cost)
        for row, (key, cost) in enumerate((("a", 1.0), ("b", 9.0)))
    )
    board = Board(sweep, runs, expected=2)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    cheap.start()
    now += 10_000_000_000
    cheap.trained()
    now += 20_000_000_000
    cheap.evaluated()
    cheap.end()
    cheap.close("finished")
    assert board.seconds_left(board.lines()) == pytest.approx(9 * 10 + 20)
    dear.start()
    dear.epoch(0)  # one of three
    assert board.seconds_left(board.lines()) == pytest.approx(6 * 10 + 20)
    assert board.lines()[1].share == pytest.approx(30 / 110)
    now += 40_000_000_000
    dear.trained()
    assert board.seconds_left(board.lines()) == pytest.approx(20)
    dear.vanish()


def test_helpers_count_beside_what_was_expected(runs: Runs, sweep: SweepDir) -> None:
    WrittenTrial(runs, sweep, "a" * 16, row=0, role="helper").whole()
    WrittenTrial(runs, sweep, "b" * 16, row=1)
    board = Board(sweep, runs, expected=3)
    assert board.total(board.lines()) == 4


def test_everything_that_happens_is_one_line_once(
    runs: Runs, sweep: SweepDir, trials: list[WrittenTrial]
) -> None:
    trials[3].whole()
    news = News(Board(sweep, runs))

    def told() -> list[str]:
        return [text.partition("] ")[2] for text in news.of(news.board.lines())]

    assert told() == ["1 of 4 were done before"]
    trials[0].start().epoch(0)
    assert told() == [f"trades beta=0 seed 0: starts ({'0' * 16})"]
    trials[0].epoch(1)
    assert told() == []
    trials[0].trained()
    assert told() == ["trades beta=0 seed 0: trained, validation 80.0 / 10.0"]
    trials[0].evaluated()
    trials[0].end()
    trials[0].close("finished")
    trials[1].start().end("failed", kind="diverged", reason="the loss is NaN")
    trials[1].close("failed", "diverged: the loss is NaN")
    assert told() == [
        "trades beta=0 seed 0: finished in 0:00, test 90.0 / 40.0",
        "trades beta=1 seed 1: failed (diverged: the loss is NaN)",
    ]


def test_a_heartbeat_comes_when_nothing_else_does(
    runs: Runs, sweep: SweepDir, trials: list[WrittenTrial], monkeypatch: pytest.MonkeyPatch
) -> None:
    news = News(Board(sweep, runs))
    trials[0].start()
    list(news.of(news.board.lines()))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 14)
    assert list(news.of(news.board.lines())) == []
    trials[0].epoch(0)
    monkeypatch.setattr(time, "monotonic", lambda: now + 16)
    [heartbeat] = news.of(news.board.lines())
    assert "0/4 done, 1 running" in heartbeat
    assert heartbeat.endswith("; trades beta=0 seed 0 epoch 1/3")
    assert list(news.of(news.board.lines())) == []


def drawn(board: Board, height: int | None = None, width: int = 100) -> str:
    out = io.StringIO()
    shown = table("digits", board, board.lines(), height, width)
    Console(file=out, width=width, color_system=None).print(shown)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_shows_every_trial_and_how_far_it_is(
    runs: Runs, sweep: SweepDir, trials: list[WrittenTrial], width: int
) -> None:
    board = Board(sweep, runs)
    trials[0].whole()
    trials[1].start().epoch(1)
    shown = drawn(board, width=width)
    assert "digits: 1/4 done, 1 running" in shown
    rows = {text.strip()[:13]: text for text in shown.splitlines() if "trades" in text}
    assert len(rows) == 4
    assert "90.0 / 40.0" in rows["trades beta=0"]
    assert "epoch 2/3" in rows["trades beta=1"]
    assert "80.0 / 10.0" in rows["trades beta=1"]
    assert "waiting" in rows["trades beta=2"]


def test_brackets_in_a_label_are_no_markup(runs: Runs, sweep: SweepDir) -> None:
    WrittenTrial(runs, sweep, "a" * 16, label="pgd-at lr=[red]1")
    assert "pgd-at lr=[red]1" in drawn(Board(sweep, runs))


def test_more_trials_than_the_screen_has_rows_shows_what_runs_and_what_ended_last(
    runs: Runs, sweep: SweepDir, trials: list[WrittenTrial]
) -> None:
    board = Board(sweep, runs)
    trials[0].whole()
    time.sleep(0.002)
    trials[1].whole()
    trials[3].start()
    assert [line.row.row for line in chosen(board.lines(), 2)] == [1, 3]
    assert [line.row.row for line in chosen(board.lines(), 1)] == [3]
    assert "2 more trials" in drawn(board, height=2)


def test_it_shows_while_the_block_runs_and_says_the_last_word(
    runs: Runs, sweep: SweepDir, trials: list[WrittenTrial], capsys: pytest.CaptureFixture[str]
) -> None:
    with Live(sweep, runs, expected=4):
        trials[0].start()
        time.sleep(1.5)
        trials[0].end("failed", kind="crash", reason="boom")
        trials[0].close("failed", "boom")
    said = capsys.readouterr().out
    assert "beta=0 seed 0: starts" in said
    assert "beta=0 seed 0: failed (boom)" in said


def test_a_display_that_breaks_does_not_break_the_sweep(
    runs: Runs, sweep: SweepDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Board) -> list[Line]:
        raise OSError("stale file handle")

    monkeypatch.setattr(Board, "lines", broken)
    with Live(sweep, runs):
        pass
    assert "stale file handle" in capsys.readouterr().err


SHOW = """
import sys, time
from pathlib import Path
from orchestrate.live import Live
from orchestrate.runs import Runs
runs = Runs(Path(sys.argv[1]))
with Live(runs.sweep("digits"), runs):
    time.sleep(1.2)
    print("a word of the driver")
"""


def test_a_terminal_gets_a_table(runs: Runs, sweep: SweepDir, trials: list[WrittenTrial]) -> None:
    trials[0].whole()
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    command = [sys.executable, "-c", SHOW, str(runs.path)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as showing:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the terminal is closed
            while piece := os.read(ours, 4096):
                said += piece
    os.close(ours)
    text = said.decode()
    assert showing.returncode == 0
    assert "90.0 / 40.0" in text
    assert "a word of the driver" in text
    assert "\x1b[" in text
    assert "Traceback" not in text

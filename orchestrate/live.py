"""Shows a sweep while it runs: a table on a terminal, a line for whatever happens anywhere else."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestrate.board import Board, Line, Waits
from orchestrate.runs import Runs, SweepDir

if TYPE_CHECKING:
    from rich.live import Live as Screen
    from rich.table import Table

PERIOD_S = 1.0
HEARTBEAT_S = 15.0
FURNITURE = 8  # lines of a screen that are no rows: title, head, rules, count
WIDE = 100  # columns from which there is room for progress bars
COLOURS = {
    "training": "cyan",
    "attacking": "magenta",
    "finished": "green",
    "failed": "red",
    "failing": "red",
    "pruned": "yellow",
    "stopped": "yellow",
}


class Live:
    """``with Live(...):`` shows the sweep from a thread of its own until the block ends.

    Whatever goes wrong with showing is said once and never reaches the block: a sweep is not lost for a table.
    """

    def __init__(
        self, sweep: SweepDir, runs: Runs, expected: int | None = None, waits: Waits = lambda: {}
    ) -> None:
        self.sweep = sweep
        self.board = Board(sweep, runs, expected, waits)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        try:
            if sys.stdout.isatty():
                self._show_table()
            else:
                self._print_lines()
        except Exception:  # showing must not end what it shows
            print("the display of the sweep ended; the sweep goes on:", file=sys.stderr)
            traceback.print_exc()

    def _show_table(self) -> None:
        from rich.console import Console
        from rich.live import Live as Screen

        console = Console()
        screen: Screen
        with Screen(console=console, auto_refresh=False) as screen:
            while True:
                last = self._done.wait(PERIOD_S)
                lines = self.board.lines()
                height = None if last else max(3, console.height - FURNITURE)
                screen.update(table(self.sweep.name, self.board, lines, height, console.width), refresh=True)
                if last:
                    return

    def _print_lines(self) -> None:
        news = News(self.board)
        while True:
            last = self._done.wait(PERIOD_S)
            for text in news.of(self.board.lines()):
                print(text, flush=True)
            if last:
                return


class News:
    """What happened since it was last asked, as lines of text; a heartbeat when nothing does for a while."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.began = time.monotonic()
        self._spoke = self.began
        self._states: dict[int, str] | None = None
        self._held: set[int] = set()

    def of(self, lines: list[Line]) -> Iterator[str]:
        """The news in ``lines``. What was over before we began is one line together."""
        before = self._states
        self._states = {line.row.row: line.state for line in lines}
        if before is None:
            before = {line.row.row: line.state for line in lines if line.done}
            if before:
                yield self._say(f"{len(before)} of {self.board.total(lines)} were done before")
        for line in lines:
            happened = _happened(before.get(line.row.row, "waiting"), line)
            if happened:
                yield self._say(f"{line.name}: {happened}")
            if line.held and line.row.row not in self._held:
                yield self._say(f"{line.name}: {line.reason}; {held(line)} lets it go on")
        self._held = {line.row.row for line in lines if line.held}
        if time.monotonic() - self._spoke >= HEARTBEAT_S:
            running = ", ".join(f"{line.name} {progress(line)}" for line in lines if line.live)
            yield self._say(f"{summary(self.board, lines)}{f'; {running}' if running else ''}")

    def _say(self, text: str) -> str:
        self._spoke = time.monotonic()
        return f"[{clock(self._spoke - self.began)}] {text}"


def _happened(before: str, line: Line) -> str:
    """What a change of state means, in words; empty when it means nothing to a reader."""
    if line.state == before:
        return ""
    if line.state == "training":
        return f"{'goes on' if line.attempt > 1 else 'starts'} ({line.row.key})"
    if line.state == "attacking":
        return f"trained, validation {accuracies(line.val)}"
    if line.state == "finished":
        judged = f", test {accuracies(line.test)}" if line.test else ""  # a helper may not be attacked
        return f"finished in {clock(line.seconds)}{judged}"
    if line.state in ("failed", "failing", "pruned", "stopped"):
        return f"{line.state}{f' ({line.reason})' if line.reason else ''}"
    return ""


def held(line: Line) -> str:
    """What lets a job go on that the queue holds."""
    return f"scontrol release {line.reason.partition(':')[0].removeprefix('job ')}"


def summary(board: Board, lines: list[Line]) -> str:
    """``5/12 done, 1 failed, 2 running, about 2:10 left``."""
    failed = sum(line.state == "failed" for line in lines)
    left = board.seconds_left(lines)
    parts = [
        f"{sum(line.done for line in lines)}/{board.total(lines)} done",
        f"{failed} failed" if failed else "",
        f"{sum(line.live for line in lines)} running",
        waiting(lines),
        f"about {clock(left)} left" if left else "",
    ]
    return ", ".join(part for part in parts if part)


def waiting(lines: list[Line]) -> str:
    """``3 in the queue (Resources)``, with the reason that most of them have."""
    reasons = Counter(
        line.reason.partition(": ")[2] for line in lines if line.state == "waiting" and line.reason
    )
    return f"{reasons.total()} in the queue ({reasons.most_common(1)[0][0]})" if reasons else ""


def progress(line: Line) -> str:
    """Where a trial is: ``epoch 7/20``, ``apgd-t 120/200``, or why it ended."""
    if line.attacking:
        return f"{line.attacking['attack']} {line.attacking['done']}/{line.attacking['of']}"
    if line.state == "attacking":
        return "evaluation"
    if line.state == "finished":
        return clock(line.seconds)
    if line.state in ("failed", "failing", "pruned", "stopped"):
        return line.reason
    if line.state == "waiting":
        return f"held: {held(line)}" if line.held else line.reason
    return f"epoch {line.epoch}/{line.epochs}"


def accuracies(clean_and_robust: tuple[float | None, float | None]) -> str:
    """``97.2 / 61.0`` in percent."""
    if clean_and_robust[0] is None:
        return ""
    return " / ".join("-" if value is None else f"{100 * value:.1f}" for value in clean_and_robust)


def clock(seconds: float) -> str:
    """``1:05`` or ``2:00:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def table(title: str, board: Board, lines: list[Line], height: int | None, width: int) -> Table:
    """The sweep as a table of at most ``height`` rows (None: all): what runs, then what changed last."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    def cut(text: str) -> Text:  # on one line, whatever the width; no markup
        return Text(text, no_wrap=True, overflow="ellipsis")

    shown = chosen(lines, height)
    elapsed = clock((time.time_ns() // 1_000_000 - board.since) / 1000)
    more = f"; {len(lines) - len(shown)} more trials" if len(shown) < len(lines) else ""
    drawn = Table(
        title=f"{title}: {summary(board, lines)}, {elapsed} elapsed",
        caption=f"accuracies: clean / robust{more}",
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        header_style="underline",
        box=None,
        padding=(0, 2, 0, 0),
        expand=True,
    )
    drawn.add_column("trial", ratio=1)
    drawn.add_column("seed", justify="right", min_width=4)
    drawn.add_column("state", min_width=9)
    if width >= WIDE:
        drawn.add_column("", min_width=12)
    drawn.add_column("progress", ratio=1, min_width=17)
    drawn.add_column("val %", justify="right", min_width=11)
    drawn.add_column("test %", justify="right", min_width=11, style="bold")
    for line in shown:
        bar = ProgressBar(total=1.0, completed=line.share, width=12) if line.live else ""
        drawn.add_row(
            cut(line.row.label or line.row.key),
            str(line.row.seed),
            Text(line.state, style=COLOURS.get(line.state, "dim")),
            *([bar] if width >= WIDE else []),
            cut(progress(line)),
            accuracies(line.val),
            accuracies(line.test),
        )
    return drawn


def chosen(lines: list[Line], height: int | None) -> list[Line]:
    """Those that fit a screen, in the sweep's order: running ones first, then those that changed last."""
    if height is None or len(lines) <= height:
        return lines
    urgent = sorted(lines, key=lambda line: (line.live, line.state != "waiting", line.changed), reverse=True)
    kept = {line.row.row for line in urgent[:height]}
    return [line for line in lines if line.row.row in kept]

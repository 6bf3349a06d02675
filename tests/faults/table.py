"""``make faults``: one sweep per row, DESIGN.md's invariants checked afterwards, and the table in docs/reliability.md.

``python tests/faults [--rows NAME ...] [--keep]``. Needs a real Slurm's packages, and root where it says so.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import platform
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import rows_driver as driver
import rows_services as services
import rows_slurm as slurm
import rows_training as training
from checker import WORDS, Finding
from real_slurm import INSTALL, RealSlurm, install, missing
from stage import Stage, Undisturbed

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
BEGIN, END = "<!-- make faults: begin -->", "<!-- make faults: end -->"
Play = Callable[[Stage], None]
ROWS: tuple[Play, ...] = (
    slurm.time_limit,  # takes the longest
    driver.killed_before_submission,
    driver.killed_during_submission,
    driver.killed_after_submission,
    driver.killed_while_it_prunes,
    driver.proxy_killed,
    driver.ray_killed,
    driver.head_rebooted,
    driver.two_drivers,
    training.training_killed,
    training.killed_in_the_middle_of_a_checkpoint,
    training.disk_full,
    training.clock_skew,
    slurm.preempted,
    slurm.requeued,
    slurm.node_down,
    slurm.node_cut_off,
    slurm.cancelled_by_its_user,
    slurm.controller_restarted,
    services.sacct_slow,
    services.sacct_empty,
    services.sacct_absent,
    services.commands_unreachable,
    services.mlflow_down,
    slurm.numbers_used_again,  # last: it wipes the controller's memory
)


@dataclass
class Line:
    """A row as it was played: counts, findings, and what went otherwise than it should."""

    fault: str
    trials: int = 0
    finished: int = 0
    jobs: int = 0
    attempts: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    trouble: str = ""
    notes: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return not self.trouble and not any(finding.broken for finding in self.findings)

    def __str__(self) -> str:
        counts = [f"{self.finished} of {self.trials}", str(self.jobs), str(self.attempts)]
        verdicts = [str(finding) for finding in self.findings] or ["?"] * len(WORDS)
        words = "; ".join([*([f"**{self.trouble}**"] if self.trouble else []), *self.notes])
        return f"| {' | '.join([self.fault, *counts, *verdicts, f'{self.seconds:.0f}', words])} |"


def play(row: Play, site: RealSlurm, folder: Path, undisturbed: Undisturbed) -> Line:
    """One row, from the sweep's start to the checker's findings."""
    line = Line(" ".join((row.__doc__ or row.__name__).split()))
    with Stage(folder / row.__name__, site, row.__name__.replace("_", "-")[:20]) as stage:
        try:
            row(stage)
        except Exception as error:
            line.trouble = " ".join(f"{type(error).__name__}: {error}".split())[:120].replace("|", "/")
            print(f"{row.__name__}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        line.seconds = time.monotonic() - stage.began
        found = stage.record()
        line.findings = stage.findings(undisturbed, found)
        line.notes = tuple(stage.notes)
        line.trials, line.finished = len(found.trials), sum(t.finished for t in found.trials.values())
        line.jobs = len({job.id for job in found.jobs})
        line.attempts = sum(trial.attempts for trial in found.trials.values())
    for finding in line.findings:
        for broken in finding.broken:
            print(f"{row.__name__}: ({finding.letter}) {broken}", file=sys.stderr, flush=True)
    return line


def written(lines: list[Line], slurm: str) -> str:
    """The table, as it goes into the page."""
    titles = ["fault", "trials finished", "jobs", "attempts", *(f"({letter})" for letter in WORDS), "s", ""]
    packages = ", ".join(f"{name} {version(name)}" for name in ("ray", "mlflow", "submitit", "torch"))
    total = sum(line.seconds for line in lines)
    seen = sum(finding.seen for line in lines for finding in line.findings)
    broken = sum(len(finding.broken) for line in lines for finding in line.findings)
    return "\n".join(
        [
            BEGIN,
            f"`make faults` on {datetime.date.today()}: {slurm}, {packages}, Python"
            f" {platform.python_version()}, {len(lines)} rows in {total / 60:.0f} minutes;"
            f" {seen} checks, {broken} broken.",
            "",
            f"| {' | '.join(titles)} |",
            f"|{'---|' * len(titles)}",
            *[str(line) for line in lines],
            END,
        ]
    )


def put(text: str, begin: str = BEGIN, end: str = END, page: Path = PAGE) -> None:
    """Put a text where the page has what was there before, between two marks that it brings itself."""
    old = page.read_text()
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(before + text + after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", help="only these; the page is then left as it is")
    parser.add_argument("--keep", action="store_true", help="leave the stores for a look")
    parser.add_argument("--sites", type=int, default=2, help="so many Slurms, and rows at a time")
    given = parser.parse_args()
    rows = [row for row in ROWS if not given.rows or row.__name__ in given.rows]
    install(*([] if training.FAKETIME.exists() else ["libfaketime"]))
    if missing():
        print(f"make faults needs a real Slurm: {INSTALL}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))
    folder.chmod(0o755)  # munge asks for that
    sites = [RealSlurm(folder / f"site{number}") for number in range(given.sites)]
    left, lines = deque(rows), dict[Play, Line]()
    undisturbed = Undisturbed(folder / "undisturbed")

    def play_all(site: RealSlurm) -> None:
        with contextlib.suppress(IndexError):
            while row := left.popleft():
                lines[row] = play(row, site, folder, undisturbed)
                print(lines[row], flush=True)

    try:
        for site in sites:
            site.start()
        version_of_slurm = sites[0].run("sbatch", "--version").strip()
        with ThreadPoolExecutor(len(sites)) as pool:
            for done in [pool.submit(play_all, site) for site in sites]:
                done.result()
    finally:
        for site in sites:
            site.stop()
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if not given.rows:
        put(written([lines[row] for row in rows], version_of_slurm))
    return 0 if all(line.good for line in lines.values()) else 1

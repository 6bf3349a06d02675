"""The checker of the faults table can fail: a record that is as it should be, and each way of spoiling it."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import record
import torch
from checker import check
from pyarrow import Table, parquet

KEY, OTHER = "k" * 8, "o" * 8
T = 1_700_000_000


class Made:
    """A store of two trials that were interrupted, one finished, one pruned; and Slurm's words about them."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.alone = folder / "runs", folder / "alone"
        for runs in (self.runs, self.alone):
            for key in (KEY, OTHER):
                _trial(runs / "trials" / key)
        shutil.copy(self.events(KEY), self.events(KEY, 2))
        late = {"event": "epoch", "t": 9, "epoch": 9, "metrics": {}}  # of a process that was believed dead
        self.change(KEY, lambda lines: [*lines[:3], late])
        head = {"event": "started", "t": T, "pid": 2, "previous_lines": 3}
        self.change(KEY, lambda lines: [head, *lines[2:]], 2)  # epoch 1 once more
        self.change(OTHER, lambda lines: lines[:3])
        (self.runs / "sweeps/tiny").mkdir(parents=True)
        self.ledger = [{"row": row, "key": key, "t": T * 1000} for row, key in enumerate((KEY, OTHER))]
        self.ledger += [
            {"row": 0, "state": "finished", "t": T},
            {"row": 1, "state": "pruned", "t": (T + 50) * 1000},
        ]
        self.accounts = [
            self.job("7", KEY, T, T + 20, "PREEMPTED"),
            self.job("7", KEY, T + 20, T + 60),
            self.job("8", OTHER, T, T + 53),
        ]
        self.queue: list[str] = []
        self.together: list[str] = []
        self.processes: list[tuple[int, str]] = []
        self.sql: list[str] = []

    def events(self, key: str, number: int = 1) -> Path:
        return self.runs / "trials" / key / f"events/{number}.jsonl"

    def change(self, key: str, how: Callable[[list[Any]], list[Any]], number: int = 1) -> None:
        file = self.events(key, number)
        lines = how([json.loads(line) for line in file.read_text().splitlines()])
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def job(self, id: str, key: str, began: int, ended: int, state: str = "COMPLETED") -> str:
        return f"{id}|tiny.{key}|{state}|{began}|{ended}|{(self.runs / 'trials' / key).resolve()}"

    def slurm(self, *command: str) -> str:
        return "\n".join(self.accounts if command[0] == "sacct" else self.queue)

    def broken(self) -> str:
        """The letters of the invariants that the checker finds broken."""
        lines = "".join(json.dumps(line) + "\n" for line in self.ledger)
        (self.runs / "sweeps/tiny/ledger.jsonl").write_text(lines)
        _mlflow(self.runs / "mlflow.db", self.sql)
        found = record.read(self.runs, self.slurm, None, tuple(self.together))
        found.processes += self.processes
        undisturbed = {key: self.alone / "trials" / key for key in (KEY, OTHER)}
        return "".join(finding.letter for finding in check(found, undisturbed) if finding.broken)


def _trial(folder: Path) -> None:
    """Two epochs, an evaluation, checkpoints and verdicts."""
    for part in ("events", "checkpoints", "outcomes"):
        (folder / part).mkdir(parents=True)
    (folder / "spec.yaml").write_text("{}\n")
    events: list[dict[str, Any]] = [{"event": "started", "t": T, "pid": 1, "previous_lines": 0}]
    events += [
        {"event": "epoch", "t": T + n, "epoch": n, "metrics": {"loss": 0.5 + n, "seconds": 3}} for n in (0, 1)
    ]
    events += [{"event": "evaluated", "t": T + 9, "evaluation": "e", "metrics": {"robust": 0.25}}]
    events += [{"event": "finished", "t": T + 9, "evaluations": ["e"]}]
    (folder / "events/1.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    for name in ("last.pt", "best.pt"):
        torch.save({"networks": {"student": {"w": torch.arange(3.0)}}}, folder / "checkpoints" / name)
    parquet.write_table(Table.from_pylist([{"image": 0, "pgd": True}]), folder / "outcomes/e.parquet")


def _mlflow(file: Path, changes: list[str]) -> None:
    file.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(file)) as store, store:
        store.execute("create table runs (run_uuid, status, lifecycle_stage)")
        store.execute("create table tags (run_uuid, key, value)")
        store.execute("create table metrics (run_uuid, key, step, value)")
        for run, key, status in (("r", KEY, "FINISHED"), ("s", OTHER, "KILLED"), ("p", "", "FINISHED")):
            store.execute("insert into runs values (?, ?, 'active')", (run, status))
            if key:
                store.execute("insert into tags values (?, 'parapet.key', ?)", (run, key))
        for step in (0, 1):
            for run in "rs":
                store.execute("insert into metrics values (?, 'loss', ?, ?)", (run, step, 0.5 + step))
            store.execute("insert into metrics values ('r', 'seconds', ?, 3)", (step,))
        store.execute("insert into metrics values ('r', 'robust', 0, 0.25)")
        for change in changes:
            store.execute(change)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_a_record_as_it_should_be_breaks_nothing(made: Made) -> None:
    assert made.broken() == ""


def weights(made: Made) -> None:
    other = {"networks": {"student": {"w": torch.tensor([0, 1, 2.0000002])}}}
    torch.save(other, made.runs / "trials" / KEY / "checkpoints/last.pt")


def verdict(made: Made) -> None:
    file = made.runs / "trials" / KEY / "outcomes/e.parquet"
    parquet.write_table(Table.from_pylist([{"image": 0, "pgd": False}]), file)


def epoch(made: Made, key: str) -> None:
    made.change(key, lambda lines: [lines[0], lines[1] | {"metrics": {"loss": 0.50001}}, *lines[2:]])


def queued(made: Made, *ids: str) -> None:
    made.queue = [f"{id}|parapet key={KEY}|RUNNING|{(made.runs / 'trials' / KEY).resolve()}" for id in ids]


SPOILT: dict[str, tuple[str, Callable[[Made], Any]]] = {
    "two jobs of one trial overlap": ("a", lambda m: m.accounts.append(m.job("9", KEY, T + 59, T + 70))),
    "a job began while one of the trial ran on for ever": (
        "a",
        lambda m: m.accounts.insert(0, m.job("9", KEY, T - 9, 0).replace("|0|", "|Unknown|")),
    ),
    "two processes trained at once": ("a", lambda m: m.together.append(f"{KEY}: processes 1 and 2")),
    "two jobs of one trial are left": ("ab", lambda m: queued(m, "7", "9")),
    "a job is left": ("b", lambda m: queued(m, "7")),
    "a process is left": ("b", lambda m: m.processes.append((1, KEY))),
    "a point came twice": ("c", lambda m: m.sql.append("insert into metrics values ('s', 'loss', 1, 2.5)")),
    "a point is missing": (
        "c",
        lambda m: m.sql.append("delete from metrics where run_uuid = 'r' and step = 1"),
    ),
    "a point is another": ("c", lambda m: m.sql.append("update metrics set value = 9 where key = 'robust'")),
    "a trial has two runs": (
        "c",
        lambda m: m.sql.append(f"insert into tags values ('p', 'parapet.key', '{KEY}')"),
    ),
    "a trial has no run": ("c", lambda m: m.sql.append(f"delete from tags where value = '{OTHER}'")),
    "a pruned trial's job went on": ("d", lambda m: m.accounts.append(m.job("8", OTHER, T + 53, T + 90))),
    "the last weights differ": ("e", weights),
    "a verdict differs": ("e", verdict),
    "an epoch differs in a pruned trial": ("e", lambda m: epoch(m, OTHER)),
    "an evaluation differs": (
        "ce",
        lambda m: m.change(KEY, lambda ls: [*ls[:-2], ls[-2] | {"metrics": {"robust": 0.5}}, ls[-1]], 2),
    ),
    "an epoch is missing": (
        "ce",
        lambda m: m.change(KEY, lambda ls: [ls[0] | {"previous_lines": 2}, *ls[2:]], 2),
    ),
    "a run is RUNNING": (
        "f",
        lambda m: m.sql.append("update runs set status = 'RUNNING' where run_uuid = 's'"),
    ),
    "the sweep's run is RUNNING": (
        "f",
        lambda m: m.sql.append("update runs set status = 'RUNNING' where run_uuid='p'"),
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_record_is_found(made: Made, what: str) -> None:
    letters, spoil = SPOILT[what]
    spoil(made)
    assert made.broken() == letters


def test_a_job_that_is_live_covers_a_run_that_is_running(made: Made) -> None:
    made.sql.append("update runs set status = 'RUNNING' where run_uuid = 'r'")
    assert made.broken() == "f"
    queued(made, "7")
    assert made.broken() == "b"


def test_a_task_of_an_array_is_known_by_the_arrays_table(made: Made) -> None:
    table = made.runs / "arrays/0a1b/tasks.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps([OTHER, KEY]))
    place = (made.runs / "trials").resolve()
    made.queue = [
        f"9_1|parapet sweep=tiny nonce=0a1b|RUNNING|{place}",
        f"8_1|other nonce=ffff|RUNNING|{place}",
    ]
    assert made.broken() == "b"
    made.queue = []
    made.accounts.append(f"9_1|tiny.array|COMPLETED|{T + 30}|{T + 40}|{place}")
    assert made.broken() == ""  # nothing says whose it was
    (table.parent / "9_1_0_log.out").touch()
    assert made.broken() == "a"

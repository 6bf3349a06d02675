"""Events read while they are written are those read afterwards, and the rules of attempts hold."""

import json
import random
from pathlib import Path
from typing import Any

from orchestrate.events import EventWriter, Follower, read, story


def append(folder: Path, attempt: int, *events: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / f"{attempt}.jsonl").open("a") as out:
        out.writelines(json.dumps({"t": 1} | event) + "\n" for event in events)


def started(attempt: int, previous_lines: int) -> dict[str, Any]:
    return {"event": "started", "attempt": attempt, "previous_lines": previous_lines}


def epoch(n: int, tag: str = "") -> dict[str, Any]:
    return {"event": "epoch", "epoch": n, "step": n, "tag": tag, "metrics": {}}


def test_each_event_comes_once_however_the_file_grows(tmp_path: Path) -> None:
    whole = "".join(json.dumps({"t": i, "event": "epoch", "epoch": i}) + "\n" for i in range(40)).encode()
    folder = tmp_path / "events"
    folder.mkdir()
    follower, seen, rng = Follower(folder), [], random.Random(0)
    assert follower.new() == []
    with (folder / "1.jsonl").open("ab", buffering=0) as out:
        at = 0
        while at < len(whole):  # pieces that end inside lines
            n = rng.randint(1, 90)
            out.write(whole[at : at + n])
            at += n
            seen += follower.new()
    assert [event["epoch"] for event in seen] == list(range(40))
    assert follower.new() == []


def test_lines_that_a_process_believed_dead_writes_later_are_ignored(tmp_path: Path) -> None:
    append(tmp_path, 1, started(1, 0), epoch(0))
    append(tmp_path, 2, started(2, 2), epoch(1, "second"))
    append(tmp_path, 1, epoch(1, "zombie"), epoch(2, "zombie"))
    told = [(e["event"], e.get("tag")) for e in read(tmp_path)]
    assert told == [("started", None), ("epoch", ""), ("started", None), ("epoch", "second")]


def test_a_replayed_epoch_counts_once_the_first_time(tmp_path: Path) -> None:
    append(tmp_path, 1, started(1, 0), epoch(0, "a"), epoch(1, "a"))
    append(tmp_path, 2, started(2, 3), epoch(1, "b"), epoch(2, "b"))
    assert [(e["epoch"], e["tag"]) for e in story(tmp_path).epochs] == [(0, "a"), (1, "a"), (2, "b")]


def test_a_torn_last_line_counts_neither_before_nor_after_the_next_attempt(tmp_path: Path) -> None:
    append(tmp_path, 1, started(1, 0), epoch(0))
    with (tmp_path / "1.jsonl").open("a") as out:
        out.write('{"event": "epoch", "epoch": 1, "t"')
    follower = Follower(tmp_path)
    assert len(follower.new()) == 2
    writer = EventWriter(tmp_path)
    writer.started()
    assert writer.previous_lines == 2
    assert [e["event"] for e in follower.new()] == ["started"]


def test_an_attempt_that_died_before_its_first_event_hides_nothing(tmp_path: Path) -> None:
    append(tmp_path, 1, started(1, 0), epoch(0))
    follower = Follower(tmp_path)
    follower.new()
    (tmp_path / "2.jsonl").touch()
    append(tmp_path, 1, epoch(1))  # the first attempt still lives
    assert [e["epoch"] for e in follower.new()] == [1]
    append(tmp_path, 3, started(3, 0), epoch(2))
    assert [e["event"] for e in follower.new()] == ["started", "epoch"]
    assert [e["event"] for e in read(tmp_path)] == ["started", "epoch", "epoch", "started", "epoch"]

"""At most one holder, whatever dies when: with real processes, and with holders that claim to be elsewhere."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from clusters.process import me, process
from orchestrate.locks import Lock, LockHeld, Watch, read

HOLD = """
import sys, time
from pathlib import Path
from orchestrate.locks import Lock
Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def holder_process(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def write_elsewhere(path: Path, counter: int = 0) -> None:
    """A lock as a process of another machine would have left it."""
    facts = {"process": asdict(replace(me(), host="elsewhere")), "token": "f00"}
    path.write_text(f"{json.dumps(facts)}\n{counter:012d}\n")


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"), pytest.raises(LockHeld, match=f"process {os.getpid()} on ") as refused:
        Lock(tmp_path / "lock").acquire()
    assert refused.value.holder.process == me()
    with Lock(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_when_the_holder_lets_go(tmp_path: Path) -> None:
    first = Lock(tmp_path / "lock")
    first.acquire()
    threading.Timer(0.3, first.release).start()
    began = time.monotonic()
    with Lock(tmp_path / "lock", wait_s=10):
        assert 0.2 < time.monotonic() - began < 5


def test_a_killed_holder_is_followed_at_once_and_a_suspended_one_is_not(tmp_path: Path) -> None:
    child = holder_process(tmp_path / "lock")
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(LockHeld):
        Lock(tmp_path / "lock", still_s=0.2).acquire(0.5)
    child.kill()
    time.sleep(0.2)  # a zombie by now: nobody has waited for it
    with Lock(tmp_path / "lock"):
        assert read(tmp_path / "lock").process == me()  # type: ignore[union-attr]
    child.wait()


def test_another_process_with_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    reused = replace(me(), started=me().started - 1)
    facts = {"process": asdict(reused), "token": "f00"}
    (tmp_path / "lock").write_text(f"{json.dumps(facts)}\n{0:012d}\n")
    assert not Watch(tmp_path / "lock").held()
    with Lock(tmp_path / "lock"):
        pass


def test_a_holder_elsewhere_lives_as_long_as_its_counter_moves(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "lock", still_s=0.3)
    for count in range(5):
        write_elsewhere(tmp_path / "lock", count)
        time.sleep(0.1)
        assert watch.held()
    time.sleep(0.35)
    assert not watch.held()
    with pytest.raises(LockHeld):  # a newcomer has seen nothing stand still yet
        Lock(tmp_path / "lock", still_s=0.3).acquire(0)
    with Lock(tmp_path / "lock", still_s=0.3, wait_s=2):
        pass


def test_the_counter_moves_while_the_lock_is_held(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock", beat_s=0.05):
        first = read(tmp_path / "lock")
        time.sleep(0.3)
        later = read(tmp_path / "lock")
    assert first is not None
    assert later is not None
    assert later.token == first.token
    assert int(later.counter) > int(first.counter)


def test_a_half_written_lock_is_taken_over_when_it_stands_still(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"process": {"ho')
    with pytest.raises(LockHeld, match="unknown"):
        Lock(tmp_path / "lock", still_s=0.3).acquire(0.1)
    with Lock(tmp_path / "lock", still_s=0.3, wait_s=2):
        pass


def test_a_taker_killed_in_the_middle_of_taking_over_blocks_nobody(tmp_path: Path) -> None:
    child = holder_process(tmp_path / "lock")
    dead = read(tmp_path / "lock")
    assert dead is not None
    guard = holder_process(tmp_path / f"lock.{dead.token}")  # holds what decides about the dead lock
    for process_ in (child, guard):
        process_.kill()
        process_.wait()
    with Lock(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_holder_whose_lock_was_taken_away_is_told(tmp_path: Path) -> None:
    told = threading.Event()
    lock = Lock(tmp_path / "lock", lost=told.set, beat_s=0.05)
    lock.acquire()
    write_elsewhere(tmp_path / "lock")
    assert told.wait(5)
    lock.release()
    assert read(tmp_path / "lock").token == "f00"  # type: ignore[union-attr]


def _compete(path: Path, rounds: int, dies: bool, out: Path) -> None:
    for turn in range(rounds):
        lock = Lock(path, wait_s=60)
        lock.acquire()
        with out.open("a") as log:
            log.write("in\n")
            log.flush()
            os.sched_yield()
            log.write("out\n")
        if dies and turn == rounds - 1:
            os.kill(os.getpid(), signal.SIGKILL)  # leaves a stale lock for the others to fight about
        lock.release()


def test_never_two_at_once_among_many_that_die_holding_it(tmp_path: Path) -> None:
    out = tmp_path / "log"
    fork = multiprocessing.get_context("fork")
    crowd = [
        fork.Process(target=_compete, args=(tmp_path / "lock", 5 + 3 * i, i % 3 > 0, out)) for i in range(9)
    ]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(60)
    assert [one.exitcode for one in crowd] == [0, -signal.SIGKILL, -signal.SIGKILL] * 3
    assert out.read_text().split() == ["in", "out"] * sum(5 + 3 * i for i in range(9))


def test_a_process_is_known_by_more_than_its_number() -> None:
    child = subprocess.Popen(["sleep", "60"])
    known = process(child.pid)
    assert known is not None
    assert known.alive()
    assert replace(known, started=known.started + 1).alive() is False
    assert replace(known, machine="another").alive() is None
    child.kill()
    assert known.wait(5)
    assert known.signal(signal.SIGTERM) is False
    child.wait()

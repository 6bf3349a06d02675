"""Who may write: never two, as far as their clocks and the store allow; and a dead holder is followed."""

import json
import threading
import time
from dataclasses import asdict, replace

import pytest
from small_trials import until
from stores import Store

from clusters.process import me
from orchestrate.storage.lease import Lease
from orchestrate.storage.place import Unreachable

FOLDER = "trials/k"


def elsewhere(store: Store, number: int = 1) -> None:
    """A holder on another machine, who never moves on."""
    process = asdict(replace(me(), host="elsewhere"))
    said = {"process": process, "token": "t", "beat": 0, "released": False}
    store.write(f"{FOLDER}/lease/{number}.json", json.dumps(said).encode())


def test_one_holds_it_until_it_is_given_back() -> None:
    store = Store()
    one, other = Lease(store, FOLDER), Lease(store.again(), FOLDER)
    assert one.take()
    assert not other.take()
    assert other.holder == str(me())
    assert other.live()
    one.release()
    assert not other.live()
    assert other.take()
    other.release()


def test_of_many_at_once_one_gets_it() -> None:
    store = Store()
    elsewhere(store)
    taken, barrier = [], threading.Barrier(8)

    def try_it() -> None:
        lease = Lease(store, FOLDER, still_s=0.0)
        barrier.wait()
        if lease.take():
            taken.append(lease)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({lease.number for lease in taken}) == len(taken)
    assert sum(lease.still_ours() for lease in taken) <= 1
    for lease in taken:
        lease._released.set()


def test_a_holder_that_stands_still_is_followed_and_ends_when_it_wakes_up() -> None:
    store = Store()
    lost = threading.Event()
    frozen = Lease(store.again(), FOLDER, lost=lost.set, beat_s=3600)
    assert frozen.take()
    said = json.loads(store.read(f"{FOLDER}/lease/1.json"))
    said["process"]["host"] = "elsewhere"  # that it lives cannot be seen from here
    store.write(f"{FOLDER}/lease/1.json", json.dumps(said).encode())
    next_one = Lease(store, FOLDER, still_s=0.3)
    assert not next_one.take()
    time.sleep(0.4)
    assert next_one.take()
    assert next_one.number == 2
    assert not frozen.still_ours()
    frozen.beat_s = 0.05
    frozen._thread = threading.Thread(target=frozen._beat, daemon=True)
    frozen._thread.start()
    assert lost.wait(10)
    next_one.release()


def test_a_holder_whose_process_is_gone_is_followed_at_once() -> None:
    store = Store()
    gone = asdict(replace(me(), started=me().started + 1))
    said = {"process": gone, "token": "t", "beat": 0, "released": False}
    store.write(f"{FOLDER}/lease/1.json", json.dumps(said).encode())
    lease = Lease(store, FOLDER)
    assert lease.take()
    lease.release()


def test_a_store_that_does_not_answer_makes_nobody_look_dead() -> None:
    store = Store()
    elsewhere(store)
    watcher = store.again()
    lease = Lease(watcher, FOLDER, still_s=0.3)
    assert not lease.take()
    watcher.left = 0
    with pytest.raises(Unreachable):
        lease.take()
    time.sleep(0.4)
    watcher.left = None
    assert not lease.take(), "its counter stood still because nobody could write"
    time.sleep(0.4)
    assert lease.take()
    lease.release()


def test_its_holder_moves_it_on() -> None:
    store = Store()
    lease = Lease(store, FOLDER, beat_s=0.05)
    assert lease.take()
    before = store.read(f"{FOLDER}/lease/1.json")
    until(lambda: store.read(f"{FOLDER}/lease/1.json") != before, 10)
    lease.release()

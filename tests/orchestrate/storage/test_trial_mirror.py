"""A trial's directory and its objects: whatever vanishes when, the store can be gone on from."""

from pathlib import Path

import pytest
from stores import BASE, Store, Training, assert_sound, node, planned

from orchestrate.events import story
from orchestrate.storage.place import Unreachable
from orchestrate.storage.trial_mirror import Overtaken, TrialMirror

EPOCHS = 4


def whole_trial(mirror: TrialMirror) -> None:
    """All of it, carried up at every turn."""
    mirror._not_before = 0.0
    training = Training(mirror.trial)
    mirror.push()
    while training.epoch < EPOCHS:
        training.train(save=training.epoch % 2 == 1)
        mirror._not_before = 0.0
        mirror.push()
    training.end()
    mirror._not_before = 0.0
    mirror.push()
    training.evaluate()
    training.say("finished")
    mirror.push(final=True)


def checkpoints_in(store: Store) -> list[str]:
    """The lists of checkpoints, which say that they are there."""
    return [p for p in store.listed(f"{BASE}/checkpoints") if p.endswith(".json")]


def test_a_node_may_vanish_after_any_write(tmp_path: Path) -> None:
    undisturbed = Store()
    planned(undisturbed)
    mirror = TrialMirror(undisturbed, node(tmp_path, "undisturbed"))
    mirror.adopt()
    undisturbed.written.clear()
    whole_trial(mirror)
    writes = len(undisturbed.written)
    assert writes > 12
    for left in range(writes):
        store = Store()
        planned(store)
        lost = TrialMirror(store.again(), node(tmp_path, f"lost{left}"))
        lost.adopt()
        lost.place.left = left  # type: ignore[attr-defined]
        with pytest.raises(Unreachable):
            whole_trial(lost)
        fresh = node(tmp_path, f"fresh{left}")
        follower = TrialMirror(store.again(), fresh)
        follower.refresh()  # its actor has looked
        follower.adopt()
        assert ((fresh.checkpoints / "last.pt").exists()) == bool(checkpoints_in(store))
        assert_sound(fresh, EPOCHS)
        whole_trial(follower)
        third = node(tmp_path, f"third{left}")
        TrialMirror(store.again(), third).adopt()
        assert_sound(third, EPOCHS)
        told = story(third.events)
        assert [event["epoch"] for event in told.epochs] == list(range(EPOCHS))
        assert told.trained
        assert told.evaluated


def test_what_could_not_go_up_goes_up_from_the_same_node(tmp_path: Path) -> None:
    store = Store()
    planned(store)
    here = node(tmp_path)
    first = TrialMirror(store.again(), here)
    first.adopt()
    training = Training(here)
    training.train()
    first.push()
    first.place.left = 0  # type: ignore[attr-defined]
    training.train()
    training.train()
    with pytest.raises(Unreachable):
        first.push()
    TrialMirror(store, here).adopt()  # the job begins anew, where it was
    elsewhere = node(tmp_path, "elsewhere")
    TrialMirror(store.again(), elsewhere).adopt()
    assert Training(elsewhere).epoch == 3
    assert len(story(elsewhere.events).epochs) == 3


def test_who_was_believed_dead_spoils_nothing(tmp_path: Path) -> None:
    store = Store()
    planned(store)
    frozen = TrialMirror(store.again(), node(tmp_path, "frozen"))
    frozen.adopt()
    old = Training(frozen.trial)
    old.train()
    frozen.push()
    follower = TrialMirror(store.again(), node(tmp_path, "follower"))
    follower.adopt()
    new = Training(follower.trial)
    new.train()
    follower.push()
    for _ in range(3):  # it wakes up
        old.train()
    frozen._not_before = 0.0
    frozen.push()
    third = node(tmp_path, "third")
    TrialMirror(store.again(), third).adopt()
    assert Training(third).epoch == 2
    assert_sound(third, EPOCHS)


def test_two_that_begin_the_same_attempt_do_not_write_over_each_other(tmp_path: Path) -> None:
    store = Store()
    planned(store)
    one, other = (TrialMirror(store.again(), node(tmp_path, name)) for name in ("one", "other"))
    one.adopt()
    other.adopt()
    Training(one.trial).train()
    Training(other.trial).say("different")
    one.push()
    before = store.read(f"{BASE}/events/1.jsonl")
    with pytest.raises(Overtaken):
        other.push()
    assert store.read(f"{BASE}/events/1.jsonl") == before


def test_a_checkpoint_of_which_half_is_there_is_not_taken(tmp_path: Path) -> None:
    store = Store()
    planned(store)
    first = TrialMirror(store.again(), node(tmp_path, "first"))
    first.adopt()
    training = Training(first.trial)
    training.train()
    training.train()
    first.push()
    name = first._manifest["last.pt"]["object"]
    store.write(f"{BASE}/checkpoints/{name}", b'{"epo')
    fresh = node(tmp_path, "fresh")
    TrialMirror(store.again(), fresh).adopt()
    assert not (fresh.checkpoints / "last.pt").exists()
    assert (fresh.checkpoints / "previous.pt").read_text() == '{"epoch": 1}'


def test_what_lies_on_a_node_of_a_trial_that_was_planned_anew_counts_no_more(tmp_path: Path) -> None:
    store = Store()
    planned(store)
    here = node(tmp_path)
    mirror = TrialMirror(store.again(), here)
    mirror.adopt()
    Training(here).train()
    mirror.push(final=True)
    store.remove(list(store.listed(BASE)))
    planned(store)
    TrialMirror(store, here).adopt()
    assert Training(here).epoch == 0
    assert not story(here.events).epochs


def test_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    store = Store()
    planned(store)
    for attempt in range(3):
        mirror = TrialMirror(store.again(), node(tmp_path, f"node{attempt}"))
        mirror.adopt()
        training = Training(mirror.trial)
        for _ in range(3):
            training.train()
            mirror._not_before = 0.0
            mirror.push()
        mirror.push(final=True)
    names = sorted(path.rpartition("/")[2] for path in store.listed(f"{BASE}/checkpoints"))
    assert names[-1] == "3.json"
    assert len(names) == 3  # last, previous, and which is which

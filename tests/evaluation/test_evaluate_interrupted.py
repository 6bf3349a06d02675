"""Evaluations that are interrupted, and go on to the same verdicts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated import Trained, evaluate
from small_digits import Pair, digits, small_net, train

from evaluation import files, outcomes, progress, run
from evaluation.outcomes import Outcome
from training.errors import Stopped

# Interruption. Few classes, so that few targets and little time: three attacks in two batches each.
WORK = {"attacks": ("pgd", "apgd-ce", "apgd-t"), "images": 24, "batch_size": 12, "pgd_steps": 3}
BATCHES = 6


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.fixture(scope="module")
def four() -> Trained:
    """A network for four classes, of which some images fall to each attack."""
    torch.manual_seed(0)
    learn, test = digits(4)
    return train(small_net(4), learn, epochs=3), test


@pytest.fixture(scope="module")
def uninterrupted(four: Trained, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return evaluate(*four, tmp_path_factory.mktemp("whole") / "e.parquet", **WORK)[1]


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that were attacked, as they come."""
    sizes: list[int] = []
    real = run._Bench.attack

    def counting(bench: run._Bench, attack: object, indices: np.ndarray) -> progress.Verdicts:
        sizes.append(len(indices))
        return real(bench, attack, indices)

    monkeypatch.setattr(run._Bench, "attack", counting)
    return sizes


def assert_same_verdicts(one: Outcome, other: Outcome) -> None:
    assert one.columns.keys() == other.columns.keys()
    for name, column in one.columns.items():
        assert column.tolist() == other.columns[name].tolist(), name
    assert {**one.facts, "seconds": None} == {**other.facts, "seconds": None}


@pytest.mark.parametrize("torn", ["before", "within", "after"])
def test_killed_at_any_write_it_goes_on_to_the_same_verdicts(
    four: Trained, uninterrupted: Outcome, tmp_path: Path, monkeypatch, torn: str
) -> None:
    real = files.write_whole
    writes = {"left": 0, "done": 0}

    def dying(file: Path, content: bytes) -> None:
        if writes["left"] == 0:
            if torn == "within":  # what a process killed in a write leaves on a disk that keeps no order
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content[: len(content) // 2])
                file.with_name(f".{file.name}.99.tmp").write_bytes(content[: len(content) // 3])
            elif torn == "after":
                real(file, content)
            raise Killed
        writes["left"] -= 1
        writes["done"] += 1
        real(file, content)

    monkeypatch.setattr(progress, "write_whole", dying)
    monkeypatch.setattr(outcomes, "write_whole", dying)
    file = tmp_path / "e.parquet"
    kills = 0
    while True:
        # Each life gets one write further than the one before it needed to.
        writes["left"] = 1 if torn != "after" else 0
        try:
            _, outcome = evaluate(*four, file, **WORK)
            break
        except Killed:
            kills += 1
            assert kills < 30
    assert_same_verdicts(outcome, uninterrupted)
    assert kills >= BATCHES + 1
    assert sorted(os.listdir(tmp_path)) == ["e.parquet"] or torn == "within"


def test_what_is_on_disk_is_not_attacked_again(
    four: Trained, uninterrupted: Outcome, tmp_path: Path, attacked: list[int]
) -> None:
    network, test = four
    file = tmp_path / "e.parquet"

    def die_after(batches: int) -> Callable[[str, int, int], None]:
        calls = iter(range(batches))
        return lambda attack, done, of: done and next(calls, None) is None and (_ for _ in ()).throw(Killed)

    with pytest.raises(Killed):
        evaluate(network, test, file, tell=die_after(4), **WORK)
    first = len(attacked)
    _, outcome = evaluate(network, test, file, **WORK)
    assert first == 5
    assert len(attacked) == BATCHES, "verdicts reach the disk before they are told of"
    assert_same_verdicts(outcome, uninterrupted)
    evaluate(network, test, file, **WORK)
    assert len(attacked) == BATCHES, "a finished outcome is read, not made again"


@pytest.mark.parametrize("change", ["weights", "images", "seed", "eps"])
def test_progress_of_another_evaluation_is_not_taken_over(
    four: Trained, tmp_path: Path, attacked: list[int], change: str
) -> None:
    network, test = four
    file = tmp_path / "e.parquet"

    def killed(attack: str, done: int, of: int) -> None:
        if done:
            raise Killed

    with pytest.raises(Killed):
        evaluate(network, test, file, tell=killed, **WORK)
    assert (tmp_path / "e.partial" / "pgd.00000.json").exists()
    settings: dict[str, float] = {}
    if change == "weights":
        torch.manual_seed(9)
        network = small_net(4)
    elif change == "images":
        test = Pair(test.images ^ 1, test.labels)  # the lowest bit: the same images are right
    else:
        settings = {"seed": 1} if change == "seed" else {"eps": 0.2}
    attacked.clear()
    _, resumed = evaluate(network, test, file, **settings, **WORK)
    again = list(attacked)
    _, fresh = evaluate(network, test, tmp_path / "fresh.parquet", **settings, **WORK)
    assert again == attacked[len(again) :]
    assert_same_verdicts(resumed, fresh)


def test_verdicts_on_other_images_are_not_taken_over(tmp_path: Path) -> None:
    kept = progress.Progress(tmp_path, {"key": "k"})
    verdicts = progress.Verdicts(np.array([True, False]), 1, 0.5)
    kept.save("pgd", 0, np.array([3, 5]), verdicts)
    again = progress.Progress(tmp_path, {"key": "k"}).load("pgd", 0, np.array([3, 5]))
    assert again is not None
    assert (again.broken.tolist(), again.strays, again.seconds) == ([True, False], 1, 0.5)
    assert kept.load("pgd", 0, np.array([3, 6])) is None
    assert kept.load("pgd", 1, np.array([3, 5])) is None


def test_an_outcome_of_other_weights_is_made_again(four: Trained, tmp_path: Path) -> None:
    network, test = four
    file = tmp_path / "e.parquet"
    first, _ = evaluate(small_net(4).eval(), test, file, ("pgd",), images=50)
    second, _ = evaluate(network, test, file, ("pgd",), images=50)
    assert first["clean"] < 0.6 < second["clean"]


def test_a_request_to_stop_is_heard_within_a_batch(
    four: Trained, uninterrupted: Outcome, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(run, "ASK_EVERY_S", 0.0)
    network, test = four
    file = tmp_path / "e.parquet"
    told: list[str] = []
    for patience in (1, 60, 150):
        asked = iter(range(patience))
        with pytest.raises(Stopped) as stopped:
            evaluate(
                network,
                test,
                file,
                stop=lambda asked=asked: None if next(asked, None) is not None else "signal",
                tell=lambda attack, done, of: told.append(attack),
                **WORK,
            )
        assert stopped.value.why == "signal"
    assert told
    _, outcome = evaluate(network, test, file, **WORK)
    assert_same_verdicts(outcome, uninterrupted)


def test_a_real_kill_in_the_middle_of_a_batch(four: Trained, uninterrupted: Outcome, tmp_path: Path) -> None:
    network, test = four
    torch.save((network, test.images, test.labels), tmp_path / "work.pt")
    script = f"""
        import os, sys, torch
        from pathlib import Path
        from types import SimpleNamespace
        from evaluation import run
        from evaluation.spec import EvaluationSpec
        from training.spec import AttackSpec

        torch.set_num_threads(1)
        network, images, labels = torch.load({str(tmp_path / "work.pt")!r}, weights_only=False)
        forwards = iter(range(150))
        run.ASK_EVERY_S = 0.0
        run.evaluate(
            network,
            SimpleNamespace(images=images, labels=labels),
            EvaluationSpec.model_validate_json({json.dumps(json.dumps(WORK))}),
            AttackSpec(eps=0.1),
            key="k",
            outcome=Path({str(tmp_path / "e.parquet")!r}),
            device=torch.device("cpu"),
            tell=lambda *facts: None,
            stop=lambda: os.kill(os.getpid(), {int(signal.SIGKILL)}) if next(forwards, None) is None else None,
        )
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(list((tmp_path / "e.partial").glob("*.json"))) > 3
    assert not (tmp_path / "e.parquet").exists()
    _, outcome = evaluate(network, test, tmp_path / "e.parquet", **WORK)
    assert_same_verdicts(outcome, uninterrupted)

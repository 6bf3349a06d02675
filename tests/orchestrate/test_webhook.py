"""Word of a sweep's end: what is posted, to a real server, and that no trouble with it matters."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrate import driver, ledger, webhook
from orchestrate.accounts import Totals
from orchestrate.ledger import Row
from orchestrate.runs import Runs
from orchestrate.sweep_file import build
from training.errors import UserError


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """A store with a sweep of four rows, one of them a helper's."""
    runs = Runs(tmp_path)
    file = runs.sweep("s").ledger_file
    for n, (role, state) in enumerate(
        (("helper", "finished"), ("trial", "finished"), ("trial", "failed"), ("trial", "finished"))
    ):
        ledger.append(file, Row(n, f"k{n}", role=role))
        ledger.close(file, n, state)
    return runs


def report(*points: tuple[str, float, float, bool]) -> Any:
    made = [
        SimpleNamespace(label=label, clean=clean, robust=robust, seeds=(0, 1), front=front)
        for label, clean, robust, front in points
    ]
    cost = Totals(True, 3.25, 0.5, (), 0.0, 0)
    return SimpleNamespace(fronts=(SimpleNamespace(points=made),), cost=cost)


def test_counts_and_the_front_are_told_in_words_and_in_numbers(runs: Runs, chat: SimpleNamespace) -> None:
    told = webhook.document(runs, "s", 1, report(("hat", 0.85, 0.49, True), ("at", 0.84, 0.47, False)))
    assert webhook.post(chat.address, told) is None
    [(path, kind, said)] = chat.said
    assert (path, kind) == ("/services/secret", "application/json")
    assert said["counts"] == {"finished": 2, "failed": 1}
    assert said["front"] == [{"label": "hat", "clean": 85.0, "robust": 49.0, "seeds": 2}]
    assert (said["state"], said["code"], said["sweep"]) == ("failed", 1, "s")
    assert said["gpu_hours"] == 3.25
    assert said["text"] == said["content"]
    assert (
        said["text"]
        == "parapet sweep s: failed (2 finished, 1 failed). On the front (clean/robust %): hat 85.0/49.0"
    )


def test_an_error_of_its_own_is_told(
    runs: Runs, chat: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(webhook.VARIABLE, chat.address)
    base = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "attack": {"eps": 0.1}}
    swept = build({"name": "s", "base": base, "trials": [{"method": {"name": "pgd-at"}}]}, "s.yaml")
    for code, error in ((2, UserError("the store\ndoes not answer")), (1, OSError("the disk is full"))):
        monkeypatch.setattr(driver._Driver, "run", lambda _, error=error: raise_(error))
        with pytest.raises(type(error)):
            driver.run(swept, runs)
        said = chat.said[-1][2]
        assert (said["state"], said["code"], said["error"]) == ("failed", code, " ".join(str(error).split()))
        assert said["text"] == f"parapet sweep s: failed (2 finished, 1 failed): {said['error']}"


def raise_(error: Exception) -> int:
    raise error


@pytest.mark.parametrize(("code", "state"), [(0, "finished"), (1, "failed"), (2, "failed"), (130, "stopped")])
def test_the_state_follows_the_exit_code(runs: Runs, code: int, state: str) -> None:
    assert webhook.document(runs, "s", code, None)["state"] == state


def test_a_chat_that_refuses_or_is_not_there_is_one_sentence_without_the_address(
    chat: SimpleNamespace,
) -> None:
    chat.answer = 403
    assert webhook.post(chat.address, {}) == "PARAPET_WEBHOOK: 127.0.0.1 answers 403 Forbidden"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    problem = webhook.post(f"http://127.0.0.1:{port}/secret", {})
    assert problem is not None
    assert problem.startswith("PARAPET_WEBHOOK: 127.0.0.1 cannot be told: ")
    assert "secret" not in problem


@pytest.mark.parametrize("wrong", ["slack", "file:///etc/passwd", "https://", "ftp://x/y"])
def test_an_address_that_is_none_is_told_before_anything_starts(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(webhook.VARIABLE, wrong)
    with pytest.raises(UserError, match="PARAPET_WEBHOOK: should be an http or https address"):
        webhook.address()
    monkeypatch.setenv(webhook.VARIABLE, "https://example.org/x")
    assert webhook.address() == "https://example.org/x"
    monkeypatch.delenv(webhook.VARIABLE)
    assert webhook.address() is None

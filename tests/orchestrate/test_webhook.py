"""Word of a sweep's end: what is posted, to a real server, and that no trouble with it matters."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrate import driver, ledger, webhook
from orchestrate.accounts import Totals
from orchestrate.ledger import Row
from orchestrate.locks import Lock
from orchestrate.runs import Runs
from orchestrate.sweep_file import Sweep, build
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


def sweep() -> Sweep:
    base = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "attack": {"eps": 0.1}}
    return build({"name": "s", "base": base, "trials": [{"method": {"name": "pgd-at"}}]}, "s.yaml")


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
    runs: Runs, chat: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(webhook.VARIABLE, chat.address)
    errors = UserError("the store\ndoes not answer"), OSError(28, "is full", "/disk"), ValueError("x" * 9999)
    for code, error in zip((2, 2, 1), errors, strict=True):
        monkeypatch.setattr(driver._Driver, "run", lambda _, error=error: raise_(error))
        with pytest.raises(type(error)):
            driver.run(sweep(), runs)
        said = chat.said[-1][2]
        assert (said["state"], said["code"]) == ("failed", code)
        assert said["error"] == " ".join(str(error).split())[:500]
        assert said["text"] == f"parapet sweep s: failed (2 finished, 1 failed): {said['error']}"
    runs.sweep("s").ledger_file.unlink()
    runs.sweep("s").ledger_file.mkdir()  # cannot be read
    with pytest.raises(ValueError, match="xxx"):
        driver.run(sweep(), runs)
    assert "PARAPET_WEBHOOK: the sweep's error was not told: " in capsys.readouterr().err


def test_a_sweep_that_runs_already_has_not_ended(
    runs: Runs, chat: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(webhook.VARIABLE, chat.address)
    with Lock(runs.sweep("s").lock_file), pytest.raises(UserError, match="is being run already"):
        driver.run(sweep(), runs)
    assert chat.said == []


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

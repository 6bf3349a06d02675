"""At a sweep's end the driver waits for its relay as long as that gets on."""

import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrate import attendant
from orchestrate.attendant import Attendant

SILENCE_S = 1.5


@pytest.fixture
def attended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Attendant]:
    """By a shell in the relay's place, which does that once it is asked to end."""
    monkeypatch.setattr(attendant, "TOLD_S", SILENCE_S)

    def by(what: str) -> Attendant:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        shell = subprocess.Popen(["sh", "-c", f"read order; {what}"], **pipes)
        one = object.__new__(Attendant)
        one._to_relay, one._from_relay = shell.stdin, shell.stdout
        one.log, one._read, one.ready = tmp_path / "relay.log", 0, True
        return one

    return by


def test_a_relay_that_gets_on_is_waited_for(
    attended: Callable[[str], Attendant], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    steps = "; ".join(f"sleep {SILENCE_S / 3}; echo {n} of 5 trials are told" for n in range(1, 6))
    attended(f"{steps}; touch {tmp_path}/done").end("FINISHED")
    assert (tmp_path / "done").exists()
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"tracking: {n} of 5 trials are told" for n in range(1, 6)]
    assert said.err == ""


@pytest.mark.parametrize(
    ("what", "most"),
    [("sleep 30", math.inf), ("for n in 1 2 3 4 5 6 7 8 9; do sleep 1; echo $n; done", 2.5)],
    ids=["silent", "too long for a sweep that was interrupted"],
)
def test_others_are_left_alone_and_it_is_said(
    attended: Callable[[str], Attendant], capsys: pytest.CaptureFixture[str], what: str, most: float
) -> None:
    began = time.monotonic()
    attended(what).end("KILLED", most)
    assert time.monotonic() - began < 8
    assert "not all is told yet; its relay goes on" in capsys.readouterr().err

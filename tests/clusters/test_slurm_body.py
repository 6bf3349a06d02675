"""What a job does when it is told to end, without any Slurm: the signals are sent by hand."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusters.base import ON_REQUEST, STOPPED

PROGRAM = """
import signal, sys
from pathlib import Path
from clusters import slurm_body
slurm_body.AWAIT_S = AWAIT_S
folder, requeue, *command = sys.argv[1:]
body = slurm_body.Body((None, "-c", *command), Path(folder, "log.txt"), Path(folder), "n1", requeue == "yes", 1.0)
def told(number, frame):
    again = body.checkpoint()
    print("again" if again is not None and again.function.command == body.command else "over", flush=True)
    sys.exit(3)
signal.signal(signal.SIGUSR2, told)
signal.signal(signal.SIGTERM, lambda *_: None)
print("code", body(), flush=True)
"""
LISTENS = """
import signal, sys, time
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(76))
print("on", flush=True)
time.sleep(30)
"""
DEAF = LISTENS.replace("lambda *_: sys.exit(76)", "signal.SIG_IGN")


class Started:
    """A body in a process group of its own, as a job's processes are one."""

    def __init__(self, folder: Path, command: str, requeue: str = "yes", await_s: float = 1.0) -> None:
        self.folder = folder
        (folder / "slurm").mkdir(exist_ok=True)
        line = [sys.executable, "-c", f"AWAIT_S = {await_s}{PROGRAM}", str(folder), requeue, command]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def until_it_listens(self) -> None:
        end = time.monotonic() + 10
        while not (self.folder / "log.txt").exists() or "on" not in (self.folder / "log.txt").read_text():
            assert time.monotonic() < end
            time.sleep(0.01)

    def end(self) -> str:
        said, _ = self.process.communicate(timeout=10)
        return said.strip()

    @property
    def note(self) -> str | None:
        file = self.folder / "slurm/n1.ended"
        return file.read_text().strip() if file.exists() else None


def test_the_code_of_the_command_is_left_in_a_note(tmp_path: Path) -> None:
    one = Started(tmp_path, "print('hello')")
    assert one.end() == "code 0"
    assert one.note == "0"
    assert (tmp_path / "log.txt").read_text() == "hello\n"
    failed = Started(tmp_path, "import os; os._exit(5)")
    failed.end()
    assert failed.note == "5"
    assert failed.process.returncode != 0


def test_killed_it_says_so(tmp_path: Path) -> None:
    one = Started(tmp_path, "import os; os.kill(os.getpid(), 9)")
    one.end()
    assert one.note == "-9"


@pytest.mark.parametrize("command", [LISTENS, DEAF])
def test_warned_by_slurm_it_is_to_be_run_again(tmp_path: Path, command: str) -> None:
    one = Started(tmp_path, command)
    one.until_it_listens()
    os.killpg(one.process.pid, signal.SIGUSR2)  # as Slurm does: to all of the job
    assert one.end() == "again"
    assert one.note is None


def test_where_nothing_is_requeued_the_job_ends(tmp_path: Path) -> None:
    one = Started(tmp_path, LISTENS, requeue="no")
    one.until_it_listens()
    os.killpg(one.process.pid, signal.SIGUSR2)
    assert one.end() == "over"
    assert one.note == str(STOPPED)


def test_told_by_us_it_ends_at_once_and_told_by_another_it_waits_for_slurm(tmp_path: Path) -> None:
    for ours in (True, False):
        one = Started(tmp_path, LISTENS)
        one.until_it_listens()
        if ours:
            (tmp_path / "slurm/n1.stop").touch()
        began = time.monotonic()
        os.killpg(one.process.pid, signal.SIGTERM)
        assert one.end() == f"code {STOPPED}"
        assert (time.monotonic() - began < 0.9) is ours
        (tmp_path / "slurm/n1.stop").unlink(missing_ok=True)
        (tmp_path / "log.txt").unlink()


def test_a_command_that_ends_on_request_is_not_waited_with(tmp_path: Path) -> None:
    one = Started(tmp_path, f"import sys; sys.exit({ON_REQUEST})", await_s=60.0)
    assert one.end() == f"code {ON_REQUEST}"
    assert one.note == str(ON_REQUEST)


def test_told_while_it_waited_to_be_started_again_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/n1.stop").touch()
    one = Started(tmp_path, "print('hello')")
    assert one.end() == f"code {STOPPED}"
    assert not (tmp_path / "log.txt").exists()

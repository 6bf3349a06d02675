"""What ``cluster check`` says of a job that Slurm does not take, or does not start."""

import threading
import time
from pathlib import Path

import pytest
from fake import FakeSlurm

from orchestrate.cli import main


@pytest.fixture
def lab(tmp_path: Path, fake: FakeSlurm) -> Path:
    (tmp_path / "lab.yaml").write_text("partition: gpu\nqos: short\ntime: 600\npoll: 0.02\n")
    return tmp_path / "lab.yaml"


def says(capsys: pytest.CaptureFixture[str], lab: Path, what: str, *options: str) -> str:
    """The finding of that name."""
    assert main(["cluster", "check", f"slurm:{lab}", "--runs", str(lab.parent / "runs"), *options]) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{what} ")]
    return line


@pytest.mark.parametrize(
    ("refusal", "says_too"),
    [
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "line 2: qos",
        ),
        ("Unable to contact slurm controller", "is this a machine that jobs are submitted from?"),
        ("Invalid partition name specified", "line 1: partition"),
    ],
)
def test_a_refusal_names_the_line_and_leaves_no_folder(
    lab: Path, fake: FakeSlurm, capsys: pytest.CaptureFixture[str], refusal: str, says_too: str
) -> None:
    fake.set(refuses=f"Batch job submission failed: {refusal}")
    line = says(capsys, lab, "submit")
    assert "FAILS" in line
    assert refusal in line
    assert says_too in line
    assert not list((lab.parent / "runs/checks").glob("probe-*"))


@pytest.mark.parametrize(
    ("reason", "field"),
    [
        ("PartitionTimeLimit", "line 3: time"),
        ("QOSMaxJobsPerUserLimit", "line 2: qos"),
        ("Resources", "partition"),
    ],
)
def test_a_job_that_waits_names_slurms_reason_and_its_line(
    lab: Path, fake: FakeSlurm, capsys: pytest.CaptureFixture[str], reason: str, field: str
) -> None:
    def hold() -> None:
        while "100" not in fake.states():
            time.sleep(0.02)
        fake.job("100", "PENDING", reason=reason)

    threading.Thread(target=hold, daemon=True).start()
    line = says(capsys, lab, "start", "--wait", "2")
    assert f"({reason})" in line
    assert field in line


def test_a_python_that_is_not_there_is_named_and_not_what_srun_says_of_it(
    lab: Path, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    def end() -> None:
        while "100" not in fake.states():
            time.sleep(0.02)
        [probe] = (lab.parent / "runs/checks").glob("probe-*")
        missing = "slurmstepd: error: execve(): python3.99: No such file or directory"
        (probe / "slurm/100_0_log.err").write_text(
            f"{missing}\nsrun: error: n1: task 0: Exited with exit code 2\n"
        )
        fake.job("100", "FAILED")

    threading.Thread(target=end, daemon=True).start()
    line = says(capsys, lab, "start")
    assert "python3.99: No such file or directory: " in line
    assert "srun" not in line

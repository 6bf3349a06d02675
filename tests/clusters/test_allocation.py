"""Ray as a Slurm job: its script to the letter, and what is said when it does not come up or cannot be told apart."""

import json
import os
import sys
from pathlib import Path

import pytest
from fake import FakeSlurm

import clusters
from clusters import allocation, profile, ray_node
from clusters.allocation import Allocation, Size
from clusters.base import Unavailable
from orchestrate.cli import main
from training.errors import UserError

GOLDEN = Path(__file__).parent / "golden/small-lab-ray.txt"
ROOT = Path(clusters.__file__).parents[1]


@pytest.fixture
def root(fake: FakeSlurm, tmp_path: Path) -> Path:
    (tmp_path / "lab.yaml").write_text("time: 60\n")
    return tmp_path / "runs/ray"


def up(root: Path, nodes: int = 2) -> Allocation:
    return allocation.up(profile.read(str(root.parents[1] / "lab.yaml")), Size(nodes, 2, 1), root)


def test_the_script_is_as_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PYTHONPATH", "PARAPET_DATA"):
        monkeypatch.delenv(variable, raising=False)
    text = allocation.script(profile.read("small-lab"), Size(3, 8, 2), tmp_path / "runs/ray/NONCE")
    for found, stands in ((str(tmp_path), "TMP"), (sys.executable, "PYTHON"), (str(ROOT), "PARAPET")):
        text = text.replace(found, stands)
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_a_dry_run_submits_nothing(root: Path, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["cluster", "up", f"slurm:{root.parents[1]}/lab.yaml", "--nodes", "2", "--dry-run"]
    assert main([*asked, "--runs", str(root.parent)]) in (0, None)
    assert "#SBATCH --nodes=2" in capsys.readouterr().out
    assert main([*asked, "--memory", "64G", "--runs", str(root.parent)]) in (0, None)
    assert "#SBATCH --mem=64G" in capsys.readouterr().out
    assert main([*asked, "--memory", "lots", "--runs", str(root.parent)]) == 2
    assert "--memory: 'lots'" in capsys.readouterr().err
    assert not fake.calls("sbatch")
    assert not root.exists()


def test_its_password_is_its_owners(root: Path) -> None:
    one = up(root)
    assert one.token_file.stat().st_mode & 0o777 == 0o600
    assert one.folder.stat().st_mode & 0o077 == 0
    assert one.token_file.read_text() not in (one.folder / "sbatch.sh").read_text()


def test_a_job_that_ends_before_its_nodes_are_there_is_one_line(root: Path, fake: FakeSlurm) -> None:
    one = up(root)
    (one.folder / "log.txt").write_text("first\npython: no such file\n\n")
    fake.job(one.job, "FAILED")
    fake.set(forgets=True)
    with pytest.raises(UserError, match=r"ended before its 2 nodes were there: python: no such file$"):
        allocation.wait(one, 2, 5, lambda line: None)


def test_one_that_takes_too_long_is_cancelled(root: Path, fake: FakeSlurm) -> None:
    one = up(root)
    fake.set(forgets=True)
    told: list[str] = []
    with pytest.raises(UserError, match=r"0 of 2 nodes after 0 s \(pending\); it is cancelled"):
        allocation.wait(one, 2, 0.1, told.append)
    assert fake.states() == {one.job: "CANCELLED"}
    assert not one.token_file.exists()
    assert told[:1] in ([], [f"job {one.job}: pending, 0 of 2 nodes"])


def test_a_refusal_names_the_profile_and_leaves_nothing(root: Path, fake: FakeSlurm) -> None:
    fake.set(refuses="Batch job submission failed: Invalid partition name specified")
    with pytest.raises(UserError, match=r"lab\.yaml: Slurm does not accept the job: Batch job"):
        up(root)
    assert list(root.iterdir()) == []


def test_where_there_is_no_slurm_the_profile_is_not_blamed(root: Path, fake: FakeSlurm) -> None:
    fake.set(refuses="Batch job submission failed: Unable to contact slurm controller (connect failure)")
    with pytest.raises(Unavailable, match="Unable to contact slurm controller"):
        up(root)
    assert not list(root.iterdir())


def test_only_ones_own_clusters_can_be_ended_and_of_several_one_says_which(
    root: Path, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = up(root), up(root)
    fake.job("7", "RUNNING", comment="parapet ray=ab", place="/another/runs/ray/ab")
    fake.job("8", "RUNNING", comment="parapet sweep=s key=k nonce=n", place=str(one.folder))
    fake.set(forgets=True)
    where = ["--runs", str(root.parent)]
    assert main(["cluster", "down", *where]) == 2
    assert f"say which: {one.job}, {two.job}" in capsys.readouterr().err
    assert main(["cluster", "down", "7", *where]) == 2
    assert main(["cluster", "down", two.job, *where]) == 0
    assert fake.states() == {one.job: "PENDING", two.job: "CANCELLED", "7": "RUNNING", "8": "RUNNING"}


def test_nodes_are_counted_only_where_the_head_answers(root: Path) -> None:
    one = up(root)
    assert one.alive() == 0
    (one.folder / "head.json").write_text(json.dumps({"dashboard": "http://127.0.0.1:1", "address": "x"}))
    assert one.alive() == 0
    one.token_file.unlink()  # as its head does when it ends
    assert one.alive() == 0


def test_a_name_that_means_debians_loopback_is_no_address_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for named, own in (("10.0.0.7", True), ("127.0.0.1", True), ("127.0.1.1", False)):
        monkeypatch.setattr("socket.gethostbyname", lambda _, named=named: named)
        monkeypatch.setattr("clusters.ray_node._routed", lambda: "10.0.0.9")
        assert ray_node._own_address() == (named if own else "10.0.0.9")
    monkeypatch.setattr("clusters.ray_node._routed", lambda: None)  # no network
    assert ray_node._own_address() == "127.0.1.1"

"""What was run elsewhere comes here once, whole, and goes on when a later copy knows more."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from written_trials import Tracked, WrittenTrial, expected_points, make_sweep

from clusters.base import Handle, record
from orchestrate import ledger
from orchestrate.cli import main
from orchestrate.events import EventWriter
from orchestrate.locks import Lock
from orchestrate.runs import Runs
from orchestrate.tracking import origin

ONE, TWO, THREE = (digit * 16 for digit in "123")


@pytest.fixture
def far(tmp_path: Path) -> Runs:
    """A store elsewhere, with a sweep of a finished trial and of one that goes on."""
    far = Runs(tmp_path / "far")
    sweep = make_sweep(far)
    WrittenTrial(far, sweep, ONE).whole().close("finished")
    going = WrittenTrial(far, sweep, TWO, row=1).start()
    going.epoch(0)
    going.vanish()
    (going.dir.events / "1.jsonl").open("a").write('{"event": "epo')  # half a line: it is being written
    (going.dir.path / "live.lock").write_text("somebody there")
    (going.dir.path / "job.json").write_text("{}")
    (far.trial(ONE).path / "tracked.json").write_text('{"run_id": "theirs"}')
    return far


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_tables: Callable[[Path], Path]) -> Runs:
    for name in ("PARAPET_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Runs(with_tables(tmp_path / "near"))


def sync(far: Runs, near: Runs) -> int:
    return main(["sync", str(far.path), "--runs", str(near.path)])


def test_it_comes_once_and_goes_on_when_the_copy_knows_more(
    far: Runs, near: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sync(far, near) == 0
    said = capfd.readouterr().out
    assert said.splitlines()[-1].split() == ["digits", "2", "0", "0", "0", "yes"]
    tracked = Tracked(near)
    assert [tracked.status(key) for key in (ONE, TWO)] == ["FINISHED", "KILLED"]
    assert tracked.points(ONE) == expected_points(near.trial(ONE))
    assert {"checkpoints/best.pt", "outcomes/e1.parquet", "spec.yaml"} <= tracked.artifacts(ONE).keys()
    assert not (near.trial(TWO).path / "live.lock").exists()
    assert not (near.trial(TWO).path / "job.json").exists()
    before = tracked.ask("SELECT * FROM metrics ORDER BY 1, 2, 3"), tracked.run_of(ONE)

    assert sync(far, near) == 0
    assert capfd.readouterr().out.splitlines()[-1].split() == ["digits", "0", "0", "2", "0", "yes"]
    assert (tracked.ask("SELECT * FROM metrics ORDER BY 1, 2, 3"), tracked.run_of(ONE)) == before
    assert tracked.ask("SELECT count(*) FROM runs") == [(3,)]

    finish(far)
    assert sync(far, near) == 0
    assert capfd.readouterr().out.splitlines()[-1].split() == ["digits", "0", "1", "1", "0", "yes"]
    assert tracked.status(TWO) == "FINISHED"
    steps = [step for name, step, *_ in tracked.points(TWO) if name == "val/robust"]
    assert steps == [0, 1, 2]
    assert tracked.ask("SELECT count(*) FROM runs") == [(3,)]
    states = {row.key: row.state for row in ledger.read(near.sweep("digits").ledger_file)}
    assert states == {ONE: "finished", TWO: "finished"}
    assert main(["ls", "digits", "--runs", str(near.path)]) == 0


def test_what_a_sweep_was_run_from_comes_too(far: Runs, near: Runs, tmp_path: Path) -> None:
    working = tmp_path / "project"
    working.mkdir()
    (working / "my.py").write_text("a = 1\n")
    noted = origin.note(far.sweep("digits"), working, far.path)
    assert noted.source is not None
    assert sync(far, near) == 0
    tracked = Tracked(near)
    [(parent,)] = tracked.ask("SELECT run_uuid FROM tags WHERE key = 'parapet.sweep'")
    assert tracked.tags(parent)["parapet.source"] == noted.source.name[:16]
    [(place,)] = tracked.ask("SELECT artifact_uri FROM runs WHERE run_uuid = ?", parent)
    kept = Path(place.removeprefix("file://")) / "source" / noted.source.name
    assert kept.read_bytes() == noted.source.read_bytes()


def finish(far: Runs) -> None:
    """The trial that went on ends."""
    trial = far.trial(TWO)
    events = EventWriter(trial.events)
    events.started(pid=1, host="node1", device="cpu", resumes_at=[1, 0], versions={})
    for epoch in (1, 2):
        events.write("epoch", epoch=epoch, step=epoch, metrics={"val/robust": 0.1 * epoch}, best=True)
    events.write("trained", epochs=3, best_epoch=2, metrics={"val/robust": 0.2}, seconds=1.0)
    events.write("evaluated", evaluation="e1", checkpoint="best", metrics={"robust": 0.4}, seconds=1.0)
    events.write("finished", evaluations=["e1"])
    ledger.close(far.sweep("digits").ledger_file, 1, "finished")


def test_what_is_further_on_here_or_runs_here_or_went_another_way_stays(
    far: Runs, near: Runs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: type("Done", (), {"returncode": 0}))
    sweep = far.sweep("digits")
    WrittenTrial(far, sweep, THREE, row=2).whole().close("finished")
    shutil.copytree(far.path, near.path, dirs_exist_ok=True)
    for key in (ONE, TWO, THREE):
        for name in ("live.lock", "job.json"):
            (near.trial(key).path / name).unlink(missing_ok=True)
    finish(far)
    mine = EventWriter(near.trial(TWO).events)  # resumed here as well
    mine.started(pid=2, host="here", resumes_at=[0, 0])
    further = EventWriter(near.trial(ONE).events)
    further.started(pid=3, host="here", resumes_at=[3, 0])
    before = {f: f.read_bytes() for f in near.path.rglob("*") if f.is_file() and "trials" in f.parts}
    with Lock(near.trial(THREE).lock_file):
        assert sync(far, near) == 0
    said = capfd.readouterr()
    assert said.out.splitlines()[-1].split() == ["digits", "0", "0", "1", "2", "yes"]
    assert f"{TWO}: left alone: it was run here too" in said.err
    assert f"{THREE}: left alone: it runs here" in said.err
    assert {f: f.read_bytes() for f in before} == before


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda far, near: shutil.rmtree(far.path), "there is no such folder"),
        (lambda far, near: shutil.rmtree(far.path / "sweeps"), "holds no sweep"),
        (lambda far, near: (far.trial(ONE).path / "x").symlink_to("/etc/passwd"), "is a link"),
        (lambda far, near: ledger.append(far.sweep("digits").ledger_file, ledger.Row(7, "../../x")), "no trial's key"),
        (lambda far, near: far.trial(ONE).spec_file.write_text("a: 1"), "is not what this version of parapet reads"),
        (lambda far, near: far.sweep("digits").sweep_file.write_text("name: [\n"), "malformed YAML"),
        (lambda far, near: make_other(near), "another sweep of that name"),
        (lambda far, near: change_import(far), "was changed since a sweep was run with it"),
    ],
)  # fmt: skip
def test_a_copy_that_cannot_be_right_is_one_line_and_changes_nothing(
    far: Runs, near: Runs, spoil, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(far, near)
    before = sorted(near.path.rglob("*"))
    assert sync(far, near) == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1
    assert sorted(near.path.rglob("*")) == before


def change_import(far: Runs) -> None:
    (far.imports / "0").mkdir(parents=True)
    (far.imports / "0/my.py").write_text("a = 1")


def make_other(near: Runs) -> None:
    WrittenTrial(near, make_sweep(near), THREE)


def test_a_trial_with_a_job_here_is_left_alone(
    far: Runs, near: Runs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: type("Done", (), {"returncode": 0}))
    assert sync(far, near) == 0
    finish(far)
    capfd.readouterr()
    trial = near.trial(TWO)
    with Lock(trial.path / "submit.lock"):
        assert sync(far, near) == 0
    assert f"{TWO}: left alone: a job of it is being submitted here" in capfd.readouterr().err
    record(trial.path, "n1", Handle("slurm:lab.yaml", "12", key=TWO, sweep="digits", nonce="n1"))
    assert sync(far, near) == 0
    assert f"{TWO}: left alone: a job of it may wait here" in capfd.readouterr().err
    (trial.path / "slurm").mkdir()
    (trial.path / "slurm/n1.ended").write_text("0")
    assert sync(far, near) == 0
    assert capfd.readouterr().out.splitlines()[-1].split() == ["digits", "0", "1", "1", "0", "yes"]
    assert not (trial.path / "submit.lock").exists()


def test_this_store_itself_is_no_copy(far: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync(far, far) == 2
    assert "is this store itself" in capsys.readouterr().err

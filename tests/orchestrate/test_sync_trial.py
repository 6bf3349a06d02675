"""One trial's directory comes in alone: for the sweep here that asked for it, or as a sweep of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from small_trials import PGD, planned, spec_of, start
from written_trials import Tracked, expected_points, make_sweep

from evaluation.spec import EvaluationSpec
from orchestrate import ledger, sync_trial
from orchestrate.cli import main
from orchestrate.locks import Lock
from orchestrate.runs import Runs, TrialDir

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrialDir:
    """A real trial of another store, finished, without that store."""
    folder = tmp_path_factory.mktemp("far")
    trial = planned(
        Runs(folder / "runs"), spec_of(epochs=1, method={"name": "trades", "beta": 3}, seed=1), PGD
    )
    process = start(trial)
    assert process.wait(120) == 0
    return TrialDir(trial.path.rename(folder / trial.key))


@pytest.fixture
def copy(trained: TrialDir, tmp_path: Path) -> TrialDir:
    return TrialDir(Path(shutil.copytree(trained.path, tmp_path / trained.key)))


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_tables: Callable[[Path], Path]) -> Runs:
    for name in ("PARAPET_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Runs(with_tables(tmp_path / "near"))


def sync(copy: TrialDir, near: Runs) -> int:
    return main(["sync", str(copy.path), "--runs", str(near.path)])


def test_it_becomes_a_sweep_of_its_own_once(copy: TrialDir, near: Runs, capfd: Said) -> None:
    assert sync(copy, near) == 0
    assert capfd.readouterr().out.splitlines()[-1].split() == [
        f"trial-{copy.key[:8]}",
        "1",
        "0",
        "0",
        "0",
        "yes",
    ]
    tracked = Tracked(near)
    before = tracked.ask("SELECT * FROM metrics ORDER BY 1, 2, 3"), tracked.run_of(copy.key)
    assert tracked.status(copy.key) == "FINISHED"
    assert tracked.points(copy.key) == expected_points(copy)
    assert {"checkpoints/best.pt", "spec.yaml"} <= tracked.artifacts(copy.key).keys()
    tags = tracked.tags(tracked.run_of(copy.key))
    assert tags["formula"].startswith("CE(clean) + 3*KL(")
    assert tags[f"parapet.sweep.trial-{copy.key[:8]}"] == "trades"
    assert tags["parapet.configuration"]

    assert sync(copy, near) == 0
    assert capfd.readouterr().out.splitlines()[-1].split() == [
        f"trial-{copy.key[:8]}",
        "0",
        "0",
        "1",
        "0",
        "yes",
    ]
    assert (tracked.ask("SELECT * FROM metrics ORDER BY 1, 2, 3"), tracked.run_of(copy.key)) == before
    assert tracked.ask("SELECT count(*) FROM runs") == [(2,)]
    assert [row.state for row in ledger.read(near.sweep(f"trial-{copy.key[:8]}").ledger_file)] == ["finished"]


def test_the_sweep_that_asked_for_it_hears_of_it(copy: TrialDir, near: Runs, capfd: Said) -> None:
    (digest,) = (file.stem for file in (copy.path / "evaluations").iterdir())
    sweep, other = make_sweep(near), make_sweep(near, "other")
    ledger.append(sweep.ledger_file, ledger.Row(0, copy.key, seed=1, evaluations=[digest], label="mine"))
    ledger.append(sweep.ledger_file, ledger.Row(1, "2" * 16, label="waits"))
    ledger.append(
        other.ledger_file, ledger.Row(0, copy.key, seed=1, evaluations=[digest, "e2"], label="more")
    )
    assert sync(copy, near) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines()[-2:]]
    assert lines == [["digits", "1", "0", "0", "0", "yes"], ["other", "1", "0", "0", "0", "yes"]]
    assert [row.state for row in ledger.read(sweep.ledger_file)] == ["finished", "open"]
    assert [row.state for row in ledger.read(other.ledger_file)] == ["open"], "e2 is still wanted"
    tags = Tracked(near).tags(Tracked(near).run_of(copy.key))
    assert (tags["parapet.sweep.digits"], tags["parapet.sweep.other"]) == ("mine", "more")


def test_a_sweep_that_runs_here_is_left_to_itself(copy: TrialDir, near: Runs, capfd: Said) -> None:
    sweep = make_sweep(near)
    ledger.append(sweep.ledger_file, ledger.Row(0, copy.key, seed=1))
    with Lock(sweep.lock_file):
        assert sync(copy, near) == 0
    assert "digits: is being run here; its own relay tells MLflow" in capfd.readouterr().out
    assert [row.state for row in ledger.read(sweep.ledger_file)] == ["open"]
    assert near.trial(copy.key).events.exists()


def test_it_can_be_gone_on_with_like_one_of_our_own(copy: TrialDir, near: Runs, capfd: Said) -> None:
    assert sync(copy, near) == 0
    name = f"trial-{copy.key[:8]}"
    assert main(["sweep", name, "--resume", "--runs", str(near.path)]) == 0
    assert "nothing to run, every trial has ended before" in capfd.readouterr().out
    assert main(["front", name, "--runs", str(near.path)]) == 0
    assert "trades" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda copy: copy.path.rename(copy.path.with_name("mine")), "is called by its key"),
        (lambda copy: shutil.rmtree(copy.path / "evaluations"), "evaluations: holds none"),
        (lambda copy: change(copy, {"pgd_steps": 4}), "is not the evaluation that its name says"),
        (lambda copy: change(copy, {"attacks": ["x"]}), ".yaml: attacks: is not what this version"),
        (lambda copy: (copy.path / "events/x").symlink_to("/etc/passwd"), "is a link"),
        (lambda copy: copy.spec_file.write_text("a: 1"), "is not what this version of parapet reads"),
        (lambda copy: copy.spec_file.write_text("a: [1"), "is no YAML: it was cut off"),
        (lambda copy: respell(copy, "epochs: 1", "epochs: 4"), "last.pt: is of another spec than"),
        (lambda copy: copy.path.rename(copy.path.with_name("1" * 16)), "(or the folder was renamed)"),
        (lambda copy: shutil.rmtree(copy.checkpoints), "there is no such"),
        (lambda copy: cut(next(copy.outcomes.iterdir())), "outcome"),
        (lambda copy: cut(copy.events / "1.jsonl"), "end before the training did"),
    ],
)  # fmt: skip
def test_a_copy_that_cannot_be_right_is_one_line_and_changes_nothing(
    copy: TrialDir, near: Runs, spoil, says: str, capsys: Said
) -> None:
    moved = spoil(copy)
    assert sync(TrialDir(moved) if isinstance(moved, Path) else copy, near) == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1
    assert [file.name for file in near.path.iterdir()] == ["mlflow.db"]


def test_a_renamed_folder_is_not_taken_for_what_waits_here(copy: TrialDir, near: Runs, capsys: Said) -> None:
    sweep = make_sweep(near)
    ledger.append(sweep.ledger_file, ledger.Row(0, copy.key, seed=copy.spec().seed + 1))
    assert sync(copy, near) == 2
    assert "is not the trial that sweep digits has by this key" in capsys.readouterr().err
    assert not near.trial(copy.key).path.exists()


ALL_PGD = EvaluationSpec(attacks=("pgd",), images=None)
SOME_AUTOATTACK = EvaluationSpec(images=1000, checkpoint="last")
PGD_STEP = EvaluationSpec(attacks=("pgd",), pgd_step_size=0.1, images=20)


@pytest.mark.parametrize(
    ("evaluations", "asked"),
    [
        ([PGD, SOME_AUTOATTACK], [SOME_AUTOATTACK, PGD]),
        ([ALL_PGD, SOME_AUTOATTACK], [ALL_PGD, SOME_AUTOATTACK]),  # only so can a sweep file say it
        ([ALL_PGD, SOME_AUTOATTACK, PGD_STEP], [ALL_PGD, SOME_AUTOATTACK, PGD_STEP]),
    ],
)
def test_its_own_sweep_asks_for_the_evaluations_that_it_has(
    tmp_path: Path, near: Runs, evaluations: list[EvaluationSpec], asked: list[EvaluationSpec]
) -> None:
    trial = planned(Runs(tmp_path / "far"), spec_of(), *evaluations)
    assert list(sync_trial.check(trial, near).evaluate.specs()) == asked


def test_networks_that_it_began_from_are_named_as_a_sweep_file_names_them(copy: TrialDir, near: Runs) -> None:
    spec = yaml.safe_load(copy.spec_file.read_text())
    spec["helpers"] = {"standard": {"path": "/there/x.pt", "digest": "f" * 64}}
    copy.spec_file.write_text(yaml.safe_dump(spec))
    for left in (copy.events, copy.outcomes):  # else it would be seen that the spec is another
        shutil.rmtree(left)
    assert sync_trial.check(copy, near).base["helpers"] == {"standard": {"path": "/there/x.pt"}}


def change(copy: TrialDir, facts: dict[str, object]) -> None:
    (file,) = (copy.path / "evaluations").iterdir()
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | facts))


def test_a_trial_of_this_store_is_no_copy(copy: TrialDir, near: Runs, capsys: Said) -> None:
    shutil.copytree(copy.path, near.trial(copy.key).path)
    assert sync(near.trial(copy.key), near) == 2
    assert "is in this store already" in capsys.readouterr().err


def respell(copy: TrialDir, old: str, new: str) -> None:
    text = copy.spec_file.read_text()
    assert old in text
    copy.spec_file.write_text(text.replace(old, new))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])

"""Sweeps with their users' own files: keys, copies, and who may run them."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import own_methods
import pytest
import small_trials
import yaml

from orchestrate import ledger
from orchestrate import trial as trials
from orchestrate.cli import main
from orchestrate.imports import Imports
from orchestrate.plan import Planner, all_of
from orchestrate.runs import Runs
from orchestrate.sweep_file import build, load
from orchestrate.tidy import waste
from orchestrate.tracking import artifacts
from training import extensions
from training.errors import UserError
from training.spec import TrialSpec

BASE = {
    "data": {"name": "digits", "train_size": 400, "test_size": 100},
    "model": {"name": "mlp", "hidden": [4]},
    "train": {"epochs": 1, "batch_size": 64},
    "attack": {"eps": 0.1, "steps": 2},
}
EVALUATE = {"attacks": ["pgd"], "images": 20, "pgd_steps": 2}

pytestmark = pytest.mark.usefixtures("own_files")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file of somebody's own in the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("PARAPET_RUNS", "PARAPET_DATA", "RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "mine.py"
    file.write_text(own_methods.HALVED)
    return file


def sweep(*trials_of_it, **fields):
    content = {"name": "x", "base": BASE, "trials": list(trials_of_it), "evaluate": EVALUATE}
    return build(content | fields, "f.yaml")


def plan(swept, runs="runs"):
    return all_of(swept, Planner(swept, Runs(Path(runs))))


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def another_process():
    """What was imported is forgotten, as in a process that begins."""
    for registry in extensions.registries():
        for name in [name for name, entry in registry.entries.items() if entry.origin]:
            del registry.entries[name]
    extensions._loaded.clear()


def test_only_what_uses_a_file_carries_its_digest(mine):
    plain = plan(sweep({"method": "trades"}))[0]
    found = plan(
        sweep(
            {"method": "trades"}, {"method": "halved"}, {"method": "hat+untouched"}, **{"import": "mine.py"}
        )
    )
    assert [w.spec.imports for w in found] == [{}, {"mine.py": digest(mine)}, {"mine.py": digest(mine)}]
    assert found[0].key == plain.key, "a file that it does not use changes nothing"
    assert found[2].helpers[0].spec.imports == {}, "the helper is standard training on a network of ours"


def test_other_contents_are_another_trial_and_another_place_is_not(mine, tmp_path):
    first = plan(sweep({"method": "halved"}, **{"import": ["mine.py"]}))[0]
    another_process()
    (tmp_path / "there").mkdir()
    moved = mine.rename(tmp_path / "there" / "mine.py")
    assert plan(sweep({"method": "halved"}, **{"import": [str(moved)]}))[0].key == first.key
    another_process()
    moved.write_text(own_methods.HALVED + "# another version\n")
    assert plan(sweep({"method": "halved"}, **{"import": [str(moved)]}))[0].key != first.key


def test_a_helper_with_a_network_of_the_file_carries_it_and_so_does_who_reads_it(mine):
    own = {"helpers": {"standard": {"model": {"name": "linear"}}}}
    (wanted,) = plan(sweep({"method": "hat"} | own, **{"import": ["mine.py"]}))
    assert wanted.helpers[0].spec.imports == wanted.spec.imports == {"mine.py": digest(mine)}


def test_what_was_planned_is_what_is_kept_whatever_happens_to_the_file(mine, tmp_path):
    planned = mine.read_bytes()
    swept = sweep({"method": "halved"}, **{"import": ["mine.py"]})
    planner = Planner(swept, Runs(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists(), "planning writes nothing"
    mine.write_text("changed")
    planner.imports.keep()
    copy = tmp_path / "runs" / "imports" / hashlib.sha256(planned).hexdigest() / "mine.py"
    assert copy.read_bytes() == planned
    copy.write_text("damaged")
    planner.imports.keep()
    assert copy.read_bytes() == planned


def test_a_sweep_goes_on_with_the_files_that_it_was_begun_with(mine, tmp_path):
    runs = Runs(tmp_path / "runs")
    swept = sweep({"method": "halved"}, **{"import": ["mine.py"]})
    planner = Planner(swept, runs)
    (first,) = all_of(swept, planner)
    planner.imports.keep()
    kept = runs.sweep("x").sweep_file
    kept.parent.mkdir(parents=True)
    kept.write_text(yaml.safe_dump(swept.dump() | {"import": planner.imports.digests}))
    mine.unlink()
    another_process()
    again = load(kept)
    assert again.dump()["import"] == {"mine.py": first.spec.imports["mine.py"]}
    assert [w.key for w in all_of(again, Planner(again, runs))] == [first.key]
    shutil.rmtree(runs.imports)
    with pytest.raises(UserError, match=rf"{kept}: import\.mine\.py: .*there is no such file"):
        Imports.of(again, runs)


def test_resume_and_retry_by_name_take_the_copies_and_a_file_what_it_is_now(mine, tmp_path, monkeypatch):
    runs = Runs(tmp_path / "runs")
    swept = sweep({"method": "halved"}, **{"import": ["mine.py"]})
    Path("f.yaml").write_text(yaml.safe_dump(swept.dump()))
    planner = Planner(swept, runs)
    (begun,) = all_of(swept, planner)
    planner.imports.keep()
    folder = runs.sweep("x")
    folder.path.mkdir(parents=True)
    folder.sweep_file.write_text(yaml.safe_dump(swept.dump() | {"import": planner.imports.digests}))
    ledger.append(folder.ledger_file, ledger.Row(0, begun.key, begun.config, label="halved"))
    ledger.close(folder.ledger_file, 0, "failed", "crash: boom")
    planned = []
    monkeypatch.setattr(
        "orchestrate.driver.run", lambda *_, planner, **__: planned.extend(planner.check()) or 0
    )
    mine.write_text(own_methods.HALVED + "# changed since\n")
    for words in (["sweep", "x", "--resume"], ["retry", "x"], ["sweep", "f.yaml", "--resume"]):
        another_process()
        assert main(words) == 0
    resumed, retried, now = planned
    assert resumed.key == retried.key == begun.key
    assert now.key != begun.key


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "f.yaml: import: should be a list of Python files, got 3"),
        (["f.yaml"], "f.yaml: import: should be a list of Python files, and "),
        ([3], "f.yaml: import: should be a list of Python files, and 3 is none"),
        ({"mine.py": "abc"}, "f.yaml: import: should be files, or {NAME.py: SHA256}, got {mine.py: abc}"),
        ({"../mine.py": "a" * 64}, "f.yaml: import: should be files, or {NAME.py: SHA256}"),
        ({"mine.py": "a" * 64}, "f.yaml: import.mine.py: "),
        (["mine.py", "absent.py"], "f.yaml: import[1]: "),
        (["mine.py", "there/mine.py"], "f.yaml: import[1]: two files are called mine.py"),
    ],
)
def test_what_cannot_be_imported_is_told_with_the_field(mine, tmp_path, given, words):
    (tmp_path / "there").mkdir()
    shutil.copy(mine, tmp_path / "there")
    with pytest.raises(UserError) as error:
        plan(sweep({"method": "trades"}, **{"import": given}))
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_a_mistake_in_an_imported_file_is_one_line_and_code_2_and_debug_shows_where(mine, capsys):
    Path("f.yaml").write_text(yaml.safe_dump({"name": "x", "base": BASE, "trials": [{"method": "halved"}]}))
    mine.write_text("import os\nos.nothing()\n")
    assert main(["sweep", "f.yaml", "import=[mine.py]", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("parapet: import=[mine.py]: ")
    assert "mine.py, line 2: AttributeError" in said
    assert said.count("\n") == 1
    with pytest.raises(UserError) as error:
        main(["sweep", "f.yaml", "import=[mine.py]", "--dry-run", "--debug"])
    causes = []
    cause = error.value
    while cause is not None:
        causes.append(type(cause))
        cause = cause.__cause__
    assert AttributeError in causes


def test_the_field_is_the_sweeps_and_not_a_trials(mine):
    for place in (
        {"base": BASE | {"imports": {}}},
        {"trials": [{"method": "trades", "imports": ["mine.py"]}]},
    ):
        with pytest.raises(UserError, match=r"imports: the whole sweep says which files it needs"):
            build({"name": "x", "base": BASE, "trials": [{"method": "trades"}]} | place, "f.yaml")
    with pytest.raises(UserError, match="unknown field"):
        sweep({"method": "trades"}, imports=["mine.py"])


@pytest.fixture
def trained(mine, tmp_path):
    """A trained and evaluated trial of the file's own method and network, in ./runs."""
    runs = Runs(tmp_path / "runs")
    swept = sweep({"method": "halved", "model": {"name": "linear"}}, **{"import": ["mine.py"]})
    planner = Planner(swept, runs)
    (wanted,) = all_of(swept, planner)
    planner.imports.keep()
    trial = small_trials.planned(runs, wanted.spec, *wanted.evaluations.values())
    process = small_trials.start(trial)  # a process that knows of the file by the store alone
    _, said = process.communicate(timeout=60)
    assert process.returncode == trials.FINISHED, said
    another_process()
    return trial


def test_a_trial_runs_the_copy_and_the_commands_find_it(trained, mine, capsys, tmp_path):
    mine.unlink()
    best = str(trained.checkpoints / "best.pt")
    assert main(["show", trained.key]) == 0
    assert "0.5*CE(clean) + 3*KL(adv to clean)" in capsys.readouterr().out
    another_process()
    assert main(["evaluate", best, "--attacks", "pgd", "--images", "10"]) == 0
    assert "per image" in capsys.readouterr().out
    another_process()
    assert main(["export", trained.key, "-o", "w.safetensors"]) == 0
    lines = capsys.readouterr().out.rstrip().splitlines()[-4:]
    program = "\n".join([*lines, "import torch", "print(network(torch.zeros(2, 1, 8, 8)).shape)"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "torch.Size([2, 10])", done.stderr
    [copy] = [
        a for a in artifacts.of_trial(trained, artifacts.Story(), None, large=False) if "imports" in a.path
    ]
    assert copy.path == "imports/mine.py"
    assert copy.make(tmp_path).read_text() == own_methods.HALVED


def test_a_checkpoint_from_elsewhere_never_runs_what_it_names(trained, mine, capsys, tmp_path):
    away = tmp_path / "away"
    shutil.move(tmp_path / "runs", away)
    best = str(away / "trials" / trained.key / "checkpoints" / "best.pt")
    line = ["evaluate", best, "--attacks", "pgd", "--images", "10"]
    assert main(line) == 2
    said = capsys.readouterr().err
    assert "--import mine.py" in said
    assert said.count("\n") == 1
    assert "halved" not in extensions.registries()[0].entries
    assert main([*line, "--import", "mine.py"]) == 0
    another_process()
    assert main([*line, "--runs", str(away)]) == 0, "a store that its user names is trusted"


def test_a_trial_refuses_a_copy_that_was_changed(trained, tmp_path):
    copy = tmp_path / "runs" / "imports" / trained.spec().imports["mine.py"] / "mine.py"
    copy.write_text(own_methods.HALVED + "# changed\n")
    (trained.path / "checkpoints").rename(tmp_path / "gone")
    process = small_trials.start(trained)
    _, said = process.communicate(timeout=60)
    assert process.returncode == trials.FAILED
    assert "failed (input): " in said
    assert "is not what it was" in said


def test_a_network_by_path_brings_the_file_that_it_needs(trained, mine):
    path = {"helpers": {"standard": {"path": str(trained.checkpoints / "last.pt")}}}
    with pytest.raises(UserError, match=r"import: \[mine\.py\]"):
        plan(sweep({"method": "hat"} | path))
    (wanted,) = plan(sweep({"method": "hat"} | path, **{"import": ["mine.py"]}))
    assert wanted.spec.imports == {"mine.py": digest(mine)}
    another_process()
    key = {"helpers": {"standard": {"key": trained.key}}}
    (wanted,) = plan(sweep({"method": "hat"} | key))
    assert wanted.spec.imports == {"mine.py": digest(mine)}, "a trial of this store has it in the store"


def test_copies_that_nothing_uses_can_go(trained, tmp_path, monkeypatch):
    runs = Runs(tmp_path / "runs")
    monkeypatch.setattr("orchestrate.tidy.YOUNG_S", -1.0)
    other = runs.imports / ("b" * 64)
    other.mkdir()

    def found():
        return {w.path.name for w in waste(runs) if w.why == "imported file that nothing uses"}

    copy = trained.spec().imports["mine.py"]
    assert found() == {copy, other.name}, "no sweep wants the trial"
    swept = runs.sweep("x")
    swept.path.mkdir(parents=True)
    swept.sweep_file.write_text(yaml.safe_dump({"name": "x", "import": {"mine.py": copy}}))
    assert found() == {other.name}


def test_names_of_imports_are_left_out_of_plain_specs():
    assert TrialSpec.model_validate(BASE | {"method": "trades"}).imports == {}

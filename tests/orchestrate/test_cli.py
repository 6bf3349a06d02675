"""The command line: what a user does wrong is one line on stderr and exit code 2, and nothing is written."""

import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from orchestrate.cli import main

SWEEP = """
name: small
seeds: [0, 1]
base:
  data: {name: digits}
  model: {name: mlp, hidden: [8]}
  train: {epochs: 2, batch_size: 64}
  attack: {eps: 0.1, steps: 4}
trials:
- {method: {name: trades, beta: {grid: [1, 6]}}}
- {method: {name: hat}}
evaluate: {attacks: [pgd], images: 20}
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty current directory, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "PARAPET_RUNS",
        "PARAPET_DATA",
        "RAY_ADDRESS",
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        "MLFLOW_TRACKING_URI",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text(SWEEP)
    return path


def everything(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def refused(capsys, *arguments):
    """The one line of a mistake; checks that it is one, that the code is 2, and that nothing was written."""
    before = everything(Path())
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert said.err.startswith("parapet: ")
    assert said.err.count("\n") == 1
    assert everything(Path()) == before
    return said.err.removeprefix("parapet: ").rstrip("\n")


def shown(capsys, *arguments):
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


# The line itself


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["swep"], "No such command 'swep'"),
        (["sweep"], "Missing argument 'FILE'"),
        (["ls", "--rnus", "x"], "No such option: --rnus"),
        (["ui", "--port", "x"], "'--port'"),
        (["ui", "--port", "70000"], "'--port'"),
        (["sweep", "f.yaml", "--concurrency", "0"], "'--concurrency'"),
    ],
)
def test_a_wrong_line_is_answered_in_one(capsys, arguments, words):
    message = refused(capsys, *arguments)
    assert words in message
    assert "--help" in message


def test_debug_shows_the_traceback_wherever_it_stands(capsys):
    from training.errors import UserError

    for line in (["--debug", "show", "abc"], ["show", "abc", "--debug"]):
        with pytest.raises(UserError):
            main(line)
    assert main(["show", "abc"]) == 2


def test_runs_may_stand_before_the_command_or_after_it_or_in_the_environment(capsys, tmp_path, monkeypatch):
    for line in (["--runs", "here", "ls"], ["ls", "--runs", "here"]):
        assert str(tmp_path / "here") in shown(capsys, *line)
    monkeypatch.setenv("PARAPET_RUNS", "there")
    assert str(tmp_path / "there") in shown(capsys, "ls")
    assert str(tmp_path / "here") in shown(capsys, "ls", "--runs", "here")


def test_without_a_command_it_says_what_there_is(capsys):
    out = shown(capsys)
    commands = "sweep init train evaluate front ls show logs stop retry clean export ui schema methods"
    assert all(command in out for command in commands.split(" "))


@pytest.mark.parametrize("arguments", ["--help", "ls", "sweep --help"])
def test_it_starts_at_once_and_without_the_heavy_libraries(arguments, tmp_path):
    heavy = [
        "torch",
        "ray",
        "mlflow",
        "pandas",
        "matplotlib",
        "plotly",
        "optuna",
        "pyarrow",
        "sklearn",
        "numpy",
    ]
    code = (
        f"import sys\nfrom orchestrate.cli import main\ncode = main({arguments.split()!r})\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


# Sweeps


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds: [0, 1]", "seeds: [0, 1", "malformed YAML"),
        ("seeds: [0, 1]", "sedes: [0]", "sedes: unknown field (did you mean 'seeds'?)"),
        ("epochs: 2", "epoch: 2", "base.train.epoch: unknown field (did you mean 'epochs'?)"),
        ("epochs: 2", "epochs: [2]", "base.train.epochs: should be a whole number, got [2]"),
        ("eps: 0.1", "eps: -0.1", "base.attack.eps: should be greater than 0, got -0.1"),
        ("steps: 4", "steps: 0", "base.attack.steps: should be greater than or equal to 1, got 0"),
        ("batch_size: 64", "batch_size: 2000", "base.train.batch_size: 2000 is more than the 1167 images"),
        (
            "name: trades",
            "name: tradse",
            "trials[0].method.name: no method 'tradse' (did you mean 'trades'?)",
        ),
        (
            "name: hat",
            "name: hat, gama: 1",
            "trials[1].method.gama: 'hat' has no such parameter (did you mean",
        ),
        ("name: mlp", "name: mpl", "base.model.name: no model 'mpl' (did you mean 'mlp'?)"),
        ("name: digits", "name: mnist", "base.data.root: 'mnist' needs"),
        ("grid: [1, 6]", "uniform: [1, 6]", "trials[0].method.beta: uniform cannot be searched as a grid"),
        ("images: 20", "images: 501", "evaluate.images: 501 images asked for, and the test set has 500"),
    ],
)
def test_a_mistake_in_the_file_is_found_before_anything_starts(capsys, file, old, new, words):
    file.write_text(SWEEP.replace(old, new))
    message = refused(capsys, "sweep", file)
    assert message.startswith(f"{file}: ")
    assert words in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", "unknown field 'train.epoch' (did you mean 'epochs'?)"),
        ("train.epochs", "written field=value"),
        ("eps=-1", "should be greater than 0, got -1"),
        ("data.root=/nope", "/nope does not exist"),
        ("helpers.standard.path=/nope.pt", "/nope.pt cannot be read"),
        ("resources.gpus=2", "one GPU at most"),
    ],
)
def test_a_mistake_in_an_override_names_it(capsys, file, override, words):
    overrides = ["data.name=mnist", override] if override.startswith("data.root") else [override]
    message = refused(capsys, "sweep", file, *overrides)
    assert message.startswith(f"{override}: ")
    assert words in message


def test_other_things_that_a_sweep_cannot_start_with(capsys, file, monkeypatch):
    assert "there is no such file" in refused(capsys, "sweep", "absent.yaml")
    assert "no cluster 'moon'" in refused(capsys, "sweep", file, "--cluster", "moon")
    assert "no sweep 'small' to go on with" in refused(capsys, "sweep", file, "--resume")
    assert "there is no sweep 'other'" in refused(capsys, "sweep", "other", "--resume")
    Path("plain").write_text("a file where a folder should be")
    assert "Not a directory" in refused(capsys, "sweep", file, "--runs", "plain/runs")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "--runs: 'runs' is relative" in refused(capsys, "sweep", file)


def test_a_corrupt_data_file_and_labels_out_of_range(capsys, file):
    Path("MNIST").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        Path(f"MNIST/{name}-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03 nonsense"))
    assert "-ubyte.gz" in refused(capsys, "sweep", file, "data.name=mnist", "data.root=MNIST")
    images, labels = np.zeros((80, 8, 8), np.uint8), np.arange(80) % 10
    np.savez("own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels + 1)
    assert "labels must be" in refused(capsys, "sweep", file, "data.name=npz", "data.root=own.npz")


def test_a_dry_run_shows_trials_and_starts_and_writes_nothing(capsys, file):
    before = everything(Path())
    assert main(["sweep", str(file), "--dry-run", "attack.eps=2", "train.epochs=3"]) == 0
    said = capsys.readouterr()
    assert everything(Path()) == before
    lines = said.out.splitlines()
    assert lines[0].split() == ["key", "label", "seed", "state", "passes", "(M)", "minutes", "loss"]
    rows = [line for line in lines if " new " in line]
    assert len(rows) == 7, "four of TRADES, two of HAT, and their one helper"
    assert sum("CE(clean) + 6*KL(adv to clean)" in row for row in rows) == 2
    assert len({row.split()[0] for row in rows}) == 7
    assert "7 trials, 0 finished, 7 to run" in said.out
    assert "-m orchestrate.trial" in said.out
    assert said.err.startswith("warning: attack.eps=2: 2 is more than pixels can differ")


def test_what_reaches_the_driver_is_the_file_with_its_overrides(capsys, file, monkeypatch):
    calls = []

    def run(sweep, runs, *, cluster, planner):
        calls.append((sweep, runs, cluster, planner))
        return 1

    monkeypatch.setattr("orchestrate.driver.run", run)
    line = ["sweep", str(file), "train.epochs=5", "--concurrency", "3", "--runs", "r", "name=other"]
    assert main(line) == 1, "the driver's code is the command's"
    ((sweep, runs, cluster, planner),) = calls
    assert (sweep.name, sweep.concurrency, sweep.base["train"]["epochs"], cluster) == ("other", 3, 5, "local")
    assert runs.path == Path("r").absolute()
    assert planner.sweep is sweep


def test_train_is_a_sweep_of_one_trial_with_a_name_of_its_own(capsys, monkeypatch):
    names = []
    monkeypatch.setattr("orchestrate.driver.run", lambda sweep, runs, **_: names.append(sweep.name) or 0)
    small = ["model={name: mlp}", "train.epochs=1"]
    for extra in ([], [], ["method.name=trades", "method.beta=2"], ["name=mine"]):
        assert main(["train", *small, *extra]) == 0
    assert names[0] == names[1], "the same line goes on with the same trial"
    assert names[0].startswith("train-")
    assert len(set(names)) == 3
    assert names[3] == "mine"
    capsys.readouterr()
    assert "unknown field" in refused(capsys, "train", "train.epoch=1")


def test_train_takes_the_method_as_its_first_word(capsys, monkeypatch):
    swept = []
    monkeypatch.setattr("orchestrate.driver.run", lambda sweep, runs, **_: swept.append(sweep) or 0)
    for words in (["hat+awp+wa", "method.beta=3"], ["method=hat+awp+wa", "method.beta=3"]):
        assert main(["train", *words, "train.epochs=1", "model={name: mlp}"]) == 0
    first, second = swept
    assert first.template(0)["method"] == {"name": "hat", "with": {"awp": {}, "wa": {}}, "beta": 3}
    assert first.name == second.name
    capsys.readouterr()
    assert "no modifier 'apw' (did you mean 'awp'?)" in refused(capsys, "train", "hat+apw")
    assert "method=standard+fat: ends PGD searches" in refused(capsys, "train", "standard+fat")
    assert "written field=value" in refused(capsys, "train", "hat", "awp")


def test_train_with_a_setup_leaves_out_the_defaults_that_it_replaces(capsys, monkeypatch, tmp_path):
    from training import setups

    (tmp_path / "setups" / "here").mkdir(parents=True)
    (tmp_path / "setups" / "here" / "any.yaml").write_text(
        "train: {epochs: 7}\nattack: {norm: l2, eps: 1.0}\ndata: {val: 0.2}\nmethods: {trades: {beta: 4}, hat: {}}\n"
    )
    monkeypatch.setattr(setups, "FOLDER", tmp_path / "setups")
    planned = []
    monkeypatch.setattr(
        "orchestrate.driver.run", lambda _, runs, planner, **__: planned.extend(planner.check()) or 0
    )
    lines = (["trades", "setup=here/any"], ["hat", "setup=here/any", "train.epochs=1", "data.val=0.3"])
    for words in lines:
        assert main(["train", *words, "model={name: mlp}"]) == 0
    first, second = (wanted.spec for wanted in planned)
    assert (first.method.name, first.method.parameters["beta"], first.train.epochs) == ("trades", 4, 7)
    assert (first.attack.norm, first.attack.eps, first.train.batch_size) == ("l2", 1.0, 128)
    assert (first.data.name, first.data.val) == ("digits", 0.2)
    assert (second.method.name, second.train.epochs, second.data.val) == ("hat", 1, 0.3)
    capsys.readouterr()
    assert "setup=here/ayn: no setup 'here/ayn' (did you mean 'here/any'?)" in refused(
        capsys, "train", "setup=here/ayn"
    )
    said = refused(capsys, "train", "setup=here/any", "train.epochs=1")
    assert "say which method too" in said
    assert "(it has settings for trades, hat)" in said


# Files to edit


def test_init_writes_a_sweep_that_runs_and_never_overwrites(capsys):
    assert "my.yaml" in shown(capsys, "init", "my.yaml")
    import jsonschema

    content = yaml.safe_load(Path("my.yaml").read_text())
    schema = json.loads(Path("sweep.schema.json").read_text())
    jsonschema.validate(content, schema)
    assert Path("my.yaml").read_text().startswith("# yaml-language-server: $schema=sweep.schema.json\n")
    out = shown(capsys, "sweep", "my.yaml", "--dry-run")
    assert "7 trials" in out
    Path("my.yaml").write_text("mine")
    assert "is there already" in refused(capsys, "init", "my.yaml")
    assert Path("my.yaml").read_text() == "mine"
    assert "no folder" in refused(capsys, "init", "nowhere/my.yaml")


def test_schema_goes_to_a_file_or_to_the_terminal(capsys):
    printed = shown(capsys, "schema")
    shown(capsys, "schema", "-o", "s.json")
    assert json.loads(Path("s.json").read_text()) == json.loads(printed)
    assert "no folder" in refused(capsys, "schema", "-o", "nowhere/s.json")


def test_a_full_disk_is_one_line(capsys, monkeypatch):
    def full(file, text):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr("orchestrate.cli.writing.write_whole", full)
    assert refused(capsys, "init", "my.yaml") == "sweep.schema.json: No space left on device"


# What is not there


@pytest.mark.parametrize(
    "line",
    ["show abc", "logs abc", "stop abc", "export abc", "retry abc", "ls abc", "front abc", "clean abc"],
)
def test_a_name_that_nothing_has(capsys, line):
    assert "there is no " in refused(capsys, *line.split())


def test_a_port_in_use(capsys):
    Path("runs").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refused(capsys, "ui", "--port", str(port))


def test_completion_knows_keys_and_sweeps(tmp_path):
    for key in ("aaaa", "bbbb"):
        (tmp_path / "runs" / "trials" / key).mkdir(parents=True)
        (tmp_path / "runs" / "trials" / key / "spec.yaml").touch()
    (tmp_path / "runs" / "sweeps" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "sweeps" / "digits" / "sweep.yaml").touch()

    def completed(line):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_PARAPET_COMPLETE": "complete_bash"}
        command = [sys.executable, "-m", "orchestrate"]
        done = subprocess.run(
            command, env=os.environ | words, capture_output=True, text=True, cwd=tmp_path, timeout=30
        )
        return done.stdout.split()

    assert completed("parapet show ") == ["aaaa", "bbbb"]
    assert completed("parapet logs b") == ["bbbb"]
    assert completed("parapet retry ") == ["digits"]
    assert completed("parapet stop ") == ["digits", "aaaa", "bbbb"]
    assert "sweep" in completed("parapet s")
    assert completed("parapet methods tra") == ["trades"]
    assert completed("parapet train trades+aw") == ["trades+awp"]
    assert completed("parapet train trades+awp aw") == []

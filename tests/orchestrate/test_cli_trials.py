"""Commands on trials that are there: one real trial, trained once for this file."""

import io
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import small_trials
import torch
import yaml

from evaluation import outcomes
from orchestrate import ledger
from orchestrate.cli import main
from orchestrate.locks import Lock
from orchestrate.runs import Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with one sweep of one finished trial."""
    runs = Runs(tmp_path_factory.mktemp("store") / "runs")
    trial = small_trials.planned(runs, small_trials.spec_of(), small_trials.PGD)
    trial.logs.mkdir(parents=True)
    process = small_trials.start(trial)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    (trial.logs / "1.txt").write_text(said)
    swept = runs.sweep("small")
    swept.path.mkdir(parents=True)
    trials = [{"method": {"name": "pgd-at"}}]
    swept.sweep_file.write_text(yaml.safe_dump({"name": "small", "trials": trials}))
    row = ledger.Row(
        0, trial.key, {"trial": 0}, 0, evaluations=small_trials.wanted(trial), label="pgd-at it is"
    )
    ledger.append(swept.ledger_file, row)
    ledger.close(swept.ledger_file, 0, "finished")
    return runs


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """A copy of that store, as ./runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARAPET_RUNS", raising=False)
    shutil.copytree(trained.path, tmp_path / "runs")
    return Runs(tmp_path / "runs")


@pytest.fixture
def trial(runs):
    return next(runs.trials())


def shown(capsys, *arguments):
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


def refused(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(said) == 1
    return said[0]


def test_ls_lists_sweeps_and_trials_with_their_results(capsys, runs, trial):
    told = outcomes.read(next(trial.outcomes.glob("*.parquet"))).metrics()
    lines = shown(capsys, "ls").splitlines()
    assert lines[1].split() == ["small", "1", "1", "0", "0", "0", "-"]
    clean, robust = (f"{100 * told[name]:.1f}" for name in ("clean", "robust"))
    assert lines[4].split() == [trial.key, "finished", "2/2", clean, robust, "0", "pgd-at", "it", "is"]
    assert trial.key in shown(capsys, "ls", "small")


def test_ls_tells_what_trials_cost(capsys, runs, trial):
    head, line, _, last = shown(capsys, "ls", "--time").splitlines()[3:]
    assert head.split() == ["key", "state", "waited", "ran", "GPU-h", "attempts", "node", "label"]
    columns = line.split()
    assert (columns[0], columns[6:9]) == (trial.key, ["0.00", "1", socket.gethostname()])
    assert last.startswith("all: 0.00 core-hours")


def test_show_tells_everything_about_one_trial(capsys, trial):
    out = shown(capsys, "show", trial.key[:6])
    for words in (
        trial.key,
        "CE(adv)",
        "pgd-at it is, seed 0",
        f"on {socket.gethostname()}: finished, 0.00 GPU-hours",
        "finished",
        "small",
        "epochs: 2",
        "val/robust",
    ):
        assert words in out
    assert str(trial.checkpoints / "best.pt") in out


def test_logs_prints_the_last_attempt_or_the_one_asked_for(capsys, trial):
    (trial.logs / "2.txt").write_text("second\n")
    (trial.logs / "10.txt").write_text("tenth\n")
    assert shown(capsys, "logs", trial.key) == "tenth\n"
    assert shown(capsys, "logs", trial.key, "--attempt", "2") == "second\n"
    assert "attempt 1 of" in shown(capsys, "logs", trial.key, "--attempt", "1")
    assert "attempt 3" in refused(capsys, "logs", trial.key, "--attempt", "3")


def test_logs_follows_a_trial_to_its_last_word(trial):
    (trial.logs / "2.txt").write_text("first\n")
    with Lock(trial.lock_file):
        command = [sys.executable, "-m", "orchestrate", "logs", trial.key, "-f"]
        follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert follower.stdout.readline() == "first\n"
        with (trial.logs / "2.txt").open("a") as log:
            log.write("last\n")
        assert follower.stdout.readline() == "last\n"
        assert follower.poll() is None
    assert follower.wait(timeout=10) == 0


def test_evaluate_attacks_a_checkpoint_and_keeps_verdicts_with_its_trial(capsys, trial):
    before = set(trial.outcomes.iterdir())
    line = ["evaluate", trial.checkpoints / "best.pt", "--attacks", "pgd,apgd-ce", "--images", "30"]
    out = shown(capsys, *line)
    (new,) = set(trial.outcomes.iterdir()) - before
    outcome = outcomes.read(new)
    assert outcome.facts["key"] == trial.key
    assert len(outcome.columns["label"]) == 30
    assert trial.evaluation_file(new.stem).exists()
    rows = dict(line.split() for line in out.splitlines()[1:5])
    assert rows == {name: f"{100 * value:.1f}" for name, value in outcome.metrics().items()}
    assert "30 test images of digits, linf eps 0.1" in out


def test_evaluate_elsewhere_leaves_no_file(capsys, trial, tmp_path):
    copy = shutil.copy(trial.checkpoints / "best.pt", tmp_path / "copy.pt")
    before = sorted(tmp_path.rglob("*"))
    out = shown(capsys, "evaluate", copy, "attack.eps=8/255", "--attacks", "pgd", "--images", "20")
    assert "linf eps 0.0313725" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluate_on_other_images_leaves_the_trials_verdicts_alone(capsys, trial):
    """The same data section, so the same evaluation, but for where the images lie and what they show."""
    import numpy as np

    best = trial.checkpoints / "best.pt"
    images, labels = np.zeros((80, 8, 8), np.uint8), np.arange(80) % 10
    np.savez("own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    before = {file: file.read_bytes() for file in trial.outcomes.iterdir()}
    other = "data={name: npz, root: own.npz, train_size: null, test_size: null}"
    out = shown(capsys, "evaluate", best, other, "--attacks", "pgd", "--images", "20")
    assert "per image" not in out
    assert {file: file.read_bytes() for file in trial.outcomes.iterdir()} == before


def test_evaluate_of_a_foreign_checkpoint_is_no_verdict_on_the_trial(capsys, trial, runs):
    stray = runs.trial("f" * 16)
    shutil.copytree(trial.path, stray.path)
    out = shown(capsys, "evaluate", stray.checkpoints / "best.pt", "--attacks", "pgd", "--images", "20")
    assert "per image" not in out


def test_evaluate_refuses_what_cannot_be(capsys, trial, tmp_path):
    best = trial.checkpoints / "best.pt"
    (tmp_path / "cut.pt").write_bytes(best.read_bytes()[:-100])
    assert "no such checkpoint" in refused(capsys, "evaluate", "absent.pt")
    assert "truncated" in refused(capsys, "evaluate", tmp_path / "cut.pt")
    assert "did you mean 'autoattack'?" in refused(capsys, "evaluate", best, "--attacks", "autoatack")
    assert "--images: 101 images asked for" in refused(capsys, "evaluate", best, "--images", "101")
    assert "--images: should be greater than" in refused(capsys, "evaluate", best, "--images", "0")
    assert "other data.* or attack.*" in refused(capsys, "evaluate", best, "train.epochs=2")
    assert "should be greater than 0" in refused(capsys, "evaluate", best, "attack.eps=0")
    import numpy as np

    images, labels = np.zeros((80, 9, 9), np.uint8), np.arange(80) % 10
    np.savez("own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    other = ["data={name: npz, root: own.npz}"]
    assert "10 classes of 1x8x8 images" in refused(capsys, "evaluate", best, *other)
    with Lock(trial.lock_file):
        assert "is running" in refused(capsys, "evaluate", best, "--attacks", "pgd", "--images", "10")


def test_the_three_lines_that_export_prints_load_the_network(capsys, trial, tmp_path):
    out = shown(capsys, "export", trial.key, "-o", "w.safetensors")
    *_, first, second, third = out.rstrip().splitlines()
    (tmp_path / "lines.py").write_text(f"{first}\n{second}\n{third}\nimport torch\n")
    with (tmp_path / "lines.py").open("a") as program:
        program.write(
            "x = torch.linspace(0, 1, 5 * 64).view(5, 1, 8, 8)\ntorch.save(network(x), 'logits.pt')\n"
        )
    subprocess.run([sys.executable, "lines.py"], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    from training.checkpoint import load_network

    network, _, _ = load_network(trial.checkpoints / "best.pt")
    x = torch.linspace(0, 1, 5 * 64).view(5, 1, 8, 8)
    assert torch.equal(torch.load("logits.pt"), network(x))
    from safetensors import safe_open

    with safe_open("w.safetensors", "pt") as file:
        assert trial.key in file.metadata()["key"]
        assert '"pgd-at"' in file.metadata()["spec"]
    assert "no folder" in refused(capsys, "export", trial.key, "-o", "nowhere/w.safetensors")
    assert "cannot be written" in refused(capsys, "export", trial.key, "-o", str(tmp_path))


def test_stop_asks_a_live_trial_and_says_when_nothing_runs(capsys, trial):
    assert shown(capsys, "stop", trial.key) == "nothing of it is running\n"
    assert shown(capsys, "stop", "small") == "nothing of it is running\n"
    program = (
        "import sys, time, pathlib; from orchestrate.locks import Lock; from orchestrate.runs import TrialDir\n"
        "trial = TrialDir(pathlib.Path(sys.argv[1]))\n"
        "with Lock(trial.lock_file):\n"
        "    print('live', flush=True)\n"
        "    while not trial.stop_file.exists(): time.sleep(0.05)\n"
        "    print(trial.stop_file.read_text())\n"
    )
    live = subprocess.Popen(
        [sys.executable, "-c", program, str(trial.path)], stdout=subprocess.PIPE, text=True
    )
    assert live.stdout.readline() == "live\n"
    assert shown(capsys, "stop", trial.key) == f"stopped: {trial.key}\n"
    assert '"cancelled"' in live.stdout.read()
    assert live.wait(timeout=10) == 0


def test_what_is_neither_trial_nor_sweep_cannot_be_stopped(capsys, runs):
    assert "there is no trial 'nosuch'" in (said := refused(capsys, "stop", "nosuch"))
    assert said.endswith("and no sweep of that name")


def test_retry_opens_failed_rows_and_only_those(capsys, runs, trial, monkeypatch):
    calls = []
    monkeypatch.setattr("orchestrate.driver.run", lambda sweep, runs, **_: calls.append(sweep.name) or 0)
    assert shown(capsys, "retry", "small") == "small: no trial has failed\n"
    swept = runs.sweep("small")
    spec = trial.spec().dump()
    base = {name: spec[name] for name in ("data", "model", "train", "attack")}
    evaluate = small_trials.PGD.model_dump(mode="json")
    content = {
        "name": "small",
        "base": base,
        "trials": [{"method": {"name": "pgd-at"}}],
        "evaluate": evaluate,
    }
    swept.sweep_file.write_text(yaml.safe_dump(content))
    ledger.append(swept.ledger_file, ledger.Row(1, "b" * 16, {"trial": 0}, 1, label="failing"))
    ledger.close(swept.ledger_file, 1, "failed", "crash: boom")
    swept.cluster_file.write_text(
        "slurm:/gone/lab.yaml"
    )  # nothing is opened before it is known where it goes on
    assert "there is no such file; --cluster says where it goes on" in refused(capsys, "retry", "small")
    assert [row.state for row in ledger.read(swept.ledger_file)] == ["finished", "failed"]
    swept.cluster_file.unlink()
    assert "again: bbbbbbbbbbbbbbbb  failing (failed: crash: boom)" in shown(capsys, "retry", "small")
    assert [row.state for row in ledger.read(swept.ledger_file)] == ["finished", "open"]
    assert calls == ["small"]
    with Lock(swept.lock_file):
        assert "is running" in refused(capsys, "retry", "small")


def test_a_dry_run_knows_what_is_finished_and_how_long_the_rest_takes(capsys, runs, trial):
    spec = trial.spec().dump()
    base = {name: spec[name] for name in ("data", "model", "train", "attack")}
    trials = [{"method": {"name": "pgd-at"}, "seeds": [0, 1]}]
    content = {
        "name": "more",
        "base": base,
        "trials": trials,
        "evaluate": small_trials.PGD.model_dump(mode="json"),
    }
    Path("more.yaml").write_text(yaml.safe_dump(content))
    out = shown(capsys, "sweep", "more.yaml", "--dry-run")
    first, second = out.splitlines()[1:3]
    assert first.split()[:4] == [trial.key, "pgd-at", "0", "finished"]
    assert second.split()[1:4] == ["pgd-at", "1", "new"]
    assert "1 finished, 1 to run, about 0." in out
    Path("more.yaml").write_text(yaml.safe_dump(content | {"trials": [trials[0] | {"seeds": [0]}]}))
    out = shown(capsys, "sweep", "more.yaml", "--dry-run")
    assert "1 finished, 0 to run" in out
    assert f"-m orchestrate.trial {trial.path}" in out, "what a trial's job would be"


def test_fresh_sets_aside_what_is_there_and_wants_it_again(capsys, runs, trial, monkeypatch):
    monkeypatch.setattr("orchestrate.driver.run", lambda *_, **__: 0)
    spec = trial.spec().dump()
    base = {name: spec[name] for name in ("data", "model", "train", "attack")}
    content = {
        "name": "small",
        "base": base,
        "trials": [{"method": {"name": "pgd-at"}}],
        "evaluate": {"attacks": "pgd"},
    }
    Path("f.yaml").write_text(yaml.safe_dump(content))
    with Lock(trial.lock_file):
        assert f"trial {trial.key} is running" in refused(capsys, "sweep", "f.yaml", "--fresh")
    assert "1 trials are trained again" in shown(capsys, "sweep", "f.yaml", "--fresh")
    assert not trial.path.exists()
    assert (runs.path / "old" / f"{trial.key}.1" / "checkpoints" / "best.pt").exists()
    assert [row.state for row in ledger.read(runs.sweep("small").ledger_file)] == ["open"]


def test_fresh_leaves_alone_what_is_not_asked_for(capsys, runs, trial, monkeypatch):
    monkeypatch.setattr("orchestrate.driver.run", lambda *_, **__: 0)
    spec = trial.spec().dump()
    content = {
        "name": "small",
        "base": {name: spec[name] for name in ("data", "model", "train", "attack")},
        "trials": [{"method": {"name": "standard"}}],
        "evaluate": {"attacks": "pgd"},
    }
    Path("f.yaml").write_text(yaml.safe_dump(content))
    shown(capsys, "sweep", "f.yaml", "--fresh")
    assert trial.path.exists()
    assert [row.state for row in ledger.read(runs.sweep("small").ledger_file)] == ["finished"]


def test_clean_asks_before_anything_goes(capsys, runs, trial, monkeypatch):
    assert "nothing to clean" in shown(capsys, "clean")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["clean", "small"]) == 1
    assert trial.path.exists()
    out = shown(capsys, "clean", "small", "--yes")
    assert "sweep given up" in out
    assert not trial.path.exists()
    assert list(runs.sweeps()) == []

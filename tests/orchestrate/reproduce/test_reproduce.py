"""A real sweep is tracked, everything but the store goes, and a trial is run again from the store by its script."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tracked_store import Database, instead, make, write_images

from orchestrate.cli import main
from orchestrate.runs import Runs
from training import checkpoint

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``runs``, of which only the store is left, and the images, which are elsewhere now."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "PARAPET_DATA", "PARAPET_RUNS", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        write_images(folder / "then" / "images.npz")
        make(Runs(folder / "runs"), folder / "then")
        (folder / "then").rename(folder / "images")
        yield folder


@pytest.fixture(scope="module")
def database(home: Path) -> Database:
    return Database(Runs(home / "runs"))


@pytest.fixture(scope="module")
def run(database: Database) -> str:
    return database.run("trial")


@pytest.fixture(scope="module")
def first(home: Path, run: str) -> tuple[int, Path]:
    """The exit code and the folder of one real reproduction."""
    code = main(_words(home, run, "--data-root", str(home / "images")))
    return code, home / "runs" / "reproductions" / run / "1"


@pytest.fixture
def again(home: Path, run: str, first: tuple[int, Path], capsys: Said) -> Again:
    return Again(home, run, first[1], capsys)


class Again:
    """Compares that reproduction with the store as it is now; ``code`` and ``said`` are of the last time."""

    def __init__(self, home: Path, run: str, folder: Path, capsys: Said) -> None:
        self.home, self.run, self.folder, self.capsys = home, run, folder, capsys
        self.code, self.said = -1, ""

    def compare(self, *options: str) -> str:
        """Returns the verdict's line."""
        self.code = main(_words(self.home, self.run, "--into", str(self.folder), *options))
        self.said = self.capsys.readouterr().out
        return self.said.splitlines()[-2]


def _words(home: Path, run: str, *options: str) -> list[str]:
    return ["reproduce", run, "--runs", str(home / "runs"), *options]


def fails(capsys: Said, words: list[str]) -> str:
    """The one line that a user's mistake gives."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1, said.err
    return said.err


def test_from_the_store_alone_it_comes_out_identical_by_the_logged_code(
    first: tuple[int, Path], database: Database, run: str, home: Path
) -> None:
    code, folder = first
    assert code == 0
    facts = json.loads((folder / "comparison.json").read_text())
    counts = {q["name"]: (q["compared"], q["unequal"]) for q in facts["quantities"]}
    metrics = 3 * len([name for name, step, _ in database.points(run) if step == 0 and "loss" in name])
    assert metrics >= 3 * 4  # the loss and its three terms
    judged = 3 * len(("lr", "val/clean", "val/robust")) + len(("best epoch", "its clean", "its robust"))
    assert counts["metrics of epochs"] == (metrics + judged, 0)
    assert counts["accuracies"] == (6, 0)
    assert counts["verdicts on images"] == (70, 0)
    assert counts["tensors of weights"][0] > 10
    assert facts["verdict"] == "identical"
    assert facts["not_compared"] == []
    assert f"{folder}/source/orchestrate/trial.py" in (folder / "log.txt").read_text()
    assert [path.name for path in (home / "runs" / "mlartifacts").iterdir()] == ["parapet"]


def test_the_verdict_is_a_run_below_the_original_with_its_own_metrics(
    first: tuple[int, Path], database: Database, run: str
) -> None:
    [(logged,)] = database.ask(
        "SELECT run_uuid FROM tags WHERE key = 'parapet.reproduces' AND value = ?", run
    )
    tags = database.tags(logged)
    assert tags["parapet.verdict"] == "identical"
    assert tags["mlflow.parentRunId"] == run
    assert "parapet.key" not in tags  # by which a sweep would take it for its trial
    times = ("seconds", "images_per_second", "time/queue_seconds", "time/run_seconds")
    then, now = ([p for p in database.points(r) if p[0] not in times] for r in (run, logged))
    assert then == now
    files = {file.name for file in database.artifacts(logged).iterdir()}
    assert {"comparison.json", "comparison.md", "batch.sh", "log.txt"} <= files


def test_a_far_metric_differs_and_the_first_epoch_and_quantity_are_named(
    again: Again, database: Database, run: str
) -> None:
    with database.altered(run, "loss", 2, 1.5), database.altered(run, "val/clean", 1, 0.9):
        line = again.compare()
    assert again.code == 1
    assert line.startswith("differs: first epoch 1, val/clean: ")
    [(logged,)] = database.ask("SELECT run_uuid FROM tags WHERE key = 'parapet.reproduces'")
    assert database.tags(logged)["parapet.verdict"] == "differs"


def test_a_near_metric_is_within_a_tolerance_that_is_named(
    again: Again, database: Database, run: str
) -> None:
    with database.altered(run, "loss", 1, 1.001):
        line = again.compare()
        assert again.code == 0
        assert line.startswith(
            "within tolerance: furthest epoch 1, loss, 0.000999 relative (tolerance 0.005)"
        )
        assert again.compare("--tolerance", "accuracy=1,metrics=1e-4").startswith(
            "differs: first epoch 1, loss"
        )
    with database.altered(run, "robust", 0, 0.98):
        assert "PGD-3 of best.pt, robust" in again.compare()
    assert again.compare().startswith("identical")
    assert database.reproductions() == 1  # compared again, it is told anew


def test_other_weights_and_other_verdicts_are_noticed(again: Again, database: Database, run: str) -> None:
    files = database.artifacts(run)
    last = checkpoint.load(files / "checkpoints" / "last.pt")
    state = last["networks"]["student"]
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name].view(-1)[0] = torch.nextafter(state[name].view(-1)[0], torch.tensor(torch.inf))
    changed = again.home / "changed.pt"
    checkpoint.save(last, changed)
    with instead(files / "checkpoints" / "last.pt", changed.read_bytes()):
        line = again.compare()
        assert line.startswith("within tolerance: furthest last.pt, student")
    state[name] += 1
    checkpoint.save(last, changed)
    with instead(files / "checkpoints" / "last.pt", changed.read_bytes()):
        assert again.compare().startswith("differs: first last.pt, student: SHA-256")
    outcome = next(file for file in (files / "outcomes").iterdir() if pq.read_table(file).num_rows == 50)
    table = pq.read_table(outcome)
    at = table.column_names.index("clean_prediction")
    predictions = table["clean_prediction"].to_pylist()
    predictions[3] += 1
    buffer = io.BytesIO()
    pq.write_table(table.set_column(at, "clean_prediction", pa.array(predictions)), buffer)
    with instead(outcome, buffer.getvalue()):
        assert "PGD-3 of best.pt: 1 of 50 images differ (clean_prediction 1)" in again.compare(
            "--tolerance", "0"
        )


def test_what_the_store_lacks_is_said_and_not_counted(again: Again, database: Database, run: str) -> None:
    with instead(database.artifacts(run) / "checkpoints" / "last.pt", None):
        line = again.compare()
    assert line.endswith("(not compared: weights of last.pt, which the store lacks)")


def test_other_images_are_told_before_anything_runs(home: Path, run: str, capsys: Said) -> None:
    write_images(home / "other" / "images.npz", changed=True)
    said = fails(capsys, _words(home, run, "--data-root", str(home / "other")))
    assert "data: the images of 'npz' here are not those of the run" in said
    assert not list((home / "runs" / "reproductions" / run).glob("[2-9]"))


def test_a_missing_or_changed_archive_is_told(
    home: Path, run: str, database: Database, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrate.provenance.running_from", lambda: home)
    monkeypatch.chdir(home)  # no repository knows the commit
    [archive] = (database.artifacts(database.parent()) / "source").iterdir()
    with instead(archive, None):
        assert "no archive of what ran can be had" in fails(capsys, _words(home, run))
    with instead(archive, archive.read_bytes() + b"x"):
        assert "is not what was logged: its SHA-256 is" in fails(capsys, _words(home, run))


def test_another_environment_is_told_and_the_script_is_printed(
    home: Path, run: str, database: Database, capsys: Said
) -> None:
    lock = database.artifacts(run) / "environment.txt"
    was = lock.read_text().replace("torch==", "torch==0.").replace("# python 3", "# python 2")
    with instead(lock, (was + "gone==1.0\n").encode()):
        into = home / "printed"
        assert main(_words(home, run, "--print", "--into", str(into), "--train-helpers")) == 0
    said = capsys.readouterr()
    differences = (into / "environment-differences.txt").read_text().splitlines()
    assert any(line.startswith("torch: 0.") for line in differences)
    assert "gone: 1.0 then, nothing now" in differences
    assert len(differences) == 3
    assert "warning: environment: 3 differences" in said.err
    assert said.out == (into / "batch.sh").read_text()
    assert "1. train a network that it begins from" in said.out
    assert not (into / "log.txt").exists()


def test_on_a_cluster_the_python_is_the_profiles_unless_another_is_named(
    home: Path, run: str, capsys: Said, tmp_path: Path
) -> None:
    profile = tmp_path / "lab.yaml"
    profile.write_text("time: 60\npython: apptainer exec $IMAGE python\nsetup: [export IMAGE=lab.sif]\n")
    words = [
        *_words(home, run, "--print", "--data-root", str(home / "images")),
        "--cluster",
        f"slurm:{profile}",
    ]
    assert main([*words, "--into", str(tmp_path / "one")]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines.index("export IMAGE=lab.sif") < lines.index("python=(apptainer exec $IMAGE python)")
    assert f"asked of {sys.executable}; on slurm:{profile} runs apptainer exec $IMAGE python" in said.err
    assert main([*words, "--into", str(tmp_path / "two"), "--python", sys.executable]) == 0
    said = capsys.readouterr()
    assert f"python=({sys.executable})" in said.out
    assert "apptainer" not in said.out + said.err
    words = _words(home, run, "--into", str(tmp_path / "one"), "--cluster")
    assert f"is prepared for slurm:{profile}; another cluster needs" in fails(capsys, [*words, "local"])
    (tmp_path / "one" / "batch.sh").write_text("echo one more\n")
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrate.reproduce.running.run", lambda job, cluster, folder: asked.append(cluster))
        for more in ([f"slurm:{profile}"], None):
            assert main([*words, *more] if more else words[:-1]) == 1  # nothing has run
    assert asked == [f"slurm:{profile}"] * 2


def test_a_network_that_it_needs_must_be_there(
    home: Path, run: str, database: Database, capsys: Said
) -> None:
    helper = database.run("helper")
    key = database.tags(helper)["parapet.key"]
    query = "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = 'parapet.key'"
    database.ask(query, "elsewhere", helper)
    try:
        said = fails(capsys, _words(home, run))
    finally:
        database.ask(query, key, helper)
    assert f"helpers.standard: the store has no run of trial {key}" in said


def test_mistakes_are_one_line(
    home: Path, run: str, database: Database, capsys: Said, tmp_path: Path
) -> None:
    near = run[:-1] + ("0" if run[-1] != "0" else "1")
    assert f"there is no run '{near}'; the nearest: {run} (hat" in fails(capsys, _words(home, near))
    assert "there is no run 'nothing-like-it'; it holds 2 trials" in fails(
        capsys, _words(home, "nothing-like-it")
    )
    assert "is a sweep; give the run of one of its trials" in fails(capsys, _words(home, database.parent()))
    assert "give the id of one run" in fails(capsys, ["reproduce", "--runs", str(home / "runs")])
    assert "is no tolerance" in fails(capsys, _words(home, run, "--tolerance", "much"))
    assert "there is no tracking store" in fails(capsys, ["reproduce", run, "--runs", str(tmp_path / "none")])
    (tmp_path / "mine").write_text("")
    assert "holds no reproduction" in fails(capsys, _words(home, run, "--into", str(tmp_path)))
    database.ask("UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", run)
    try:
        assert "is KILLED; only a trial that has finished" in fails(capsys, _words(home, run))
    finally:
        database.ask("UPDATE runs SET status = 'FINISHED' WHERE run_uuid = ?", run)

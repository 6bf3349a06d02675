"""A sweep on ``s3://...``, through the real driver and Ray, against a server that speaks S3 (moto's)."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow.parquet as parquet
import pytest
from small_trials import QUIET, start, until
from sweep_process import Sweep, sweep_file

from orchestrate.events import story
from orchestrate.runs import Runs, TrialDir
from orchestrate.storage import local_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "PARAPET_TEST_S3" not in os.environ, reason="make test-s3 runs it: alone, it wants both cores"
    ),
]
URL = "s3://bucket/some/where"
EPOCHS = 40
SLOW = '''"""A network that takes its time, without taking a core: a node must be lost while it trains."""

import time

from torch import nn

from training.models import MODELS, Network


class Pause(nn.Module):
    def forward(self, x):
        time.sleep(0.004)
        return x


@MODELS.register("slow")
def slow(inputs):
    """One linear layer, after a while."""
    channels, h, w = inputs.shape
    return Network(inputs, "data", nn.Sequential(Pause(), nn.Flatten()), channels * h * w)
'''
MANIFEST = "bucket/some/where/trials/*/checkpoints/1.json"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """A server in a process of its own, with a bucket; the environment leads to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
            return True
        return False

    try:
        until(answers, 60)
        files.mkdir("bucket")
        yield files
    finally:
        server.kill()
        server.wait()


def parapet(*words: str, scratch: Path) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "orchestrate", *words]
    env = os.environ | QUIET | {"PARAPET_SCRATCH": str(scratch)}
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=60)


def lose_the_node(sweep: Sweep, nodes: Path) -> None:
    """Actor, job and disk vanish, like an instance that is taken away."""
    alive = sweep.alive()
    [actor] = [pid for pid, line in alive.items() if "ray::TrialActor" in line]
    jobs = [pid for pid, line in alive.items() if "orchestrate.trial" in line]
    assert len(jobs) == 2, "the process that trains, and the one that carries up what it writes"
    for pid in (actor, *jobs):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not {actor, *jobs} & set(sweep.alive()), 20)
    shutil.rmtree(nodes)


def undisturbed(trial: TrialDir, folder: Path) -> "tuple[TrialDir, subprocess.Popen[str]]":
    """The same trial in an ordinary folder, being trained."""
    twin = Runs(folder).trial(trial.key)
    twin.path.mkdir(parents=True)
    shutil.copy(trial.spec_file, twin.spec_file)
    shutil.copytree(trial.path / "evaluations", twin.path / "evaluations")
    shutil.copytree(trial.imports, twin.imports)
    return twin, start(twin)


def test_a_node_vanishes_and_another_goes_on_to_the_same_result(
    s3: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_files: None
) -> None:
    monkeypatch.setenv("PARAPET_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "slow.py").write_text(SLOW)
    trials = [{"method": {"name": "pgd-at"}, "model": {"name": "slow"}}]
    file = sweep_file(tmp_path, "far", trials=trials, **{"import": [str(tmp_path / "slow.py")]})
    sweep = Sweep(file, SimpleNamespace(path=URL), f"train.epochs={EPOCHS}")  # type: ignore[arg-type]

    def there() -> bool:
        assert sweep.process.poll() is None, sweep.said
        return any(b"last.pt" in s3.cat_file(name) for name in s3.glob(MANIFEST))

    until(there, 120)
    lose_the_node(sweep, local_folder(URL, "nodes"))
    runs = Runs(local_folder(URL, "runs"))
    [trial] = runs.trials()
    twin, training = undisturbed(trial, tmp_path / "twin")
    assert sweep.wait() == 0, sweep.said
    assert training.wait(120) == 0

    told = story(trial.events)
    assert told.attempt == 2
    assert told.started is not None
    assert 0 < told.started["resumes_at"][0] < EPOCHS, "it began anew in place of going on"
    expected = [event["metrics"] for event in story(twin.events).epochs]
    seen = [event["metrics"] for event in told.epochs]
    for metrics in (*expected, *seen):
        for timing in ("seconds", "images_per_second"):
            metrics.pop(timing, None)
    assert seen == expected
    [outcome] = trial.outcomes.glob("*.parquet")
    assert parquet.read_table(outcome).equals(parquet.read_table(twin.outcomes / outcome.name))
    assert network(trial) == network(twin)
    assert_tracked(runs, trial, seen)
    elsewhere = parapet("ls", "far", "--runs", URL, scratch=tmp_path / "other")
    assert f"{trial.key}  finished  {EPOCHS}/{EPOCHS}" in elsewhere.stdout, elsewhere.stderr
    assert not s3.exists("bucket/some/where/sweeps/far/stop")
    nowhere = parapet("ls", "--runs", "s3://nowhere/x", scratch=tmp_path / "other")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1)
    assert "there is no such bucket" in nowhere.stderr


def network(trial: TrialDir) -> bytes:
    """The best network's weights, as bytes."""
    from training import extensions
    from training.checkpoint import load_network

    extensions.load_all(trial.spec().imports, trial.imports)
    weights = load_network(trial.checkpoints / "best.pt", device="cpu")[0].state_dict()
    return b"".join(tensor.numpy().tobytes() for tensor in weights.values())


def assert_tracked(runs: Runs, trial: TrialDir, epochs: list[dict[str, float]]) -> None:
    from orchestrate.tracking import database

    client = database.prepare(runs)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    tracked = client.search_runs(ids)
    [run] = [run for run in tracked if run.data.tags.get("parapet.key") == trial.key]
    assert {run.info.status for run in tracked} == {"FINISHED"}
    history = client.get_metric_history(run.info.run_id, "val/clean")
    assert [point.value for point in sorted(history, key=lambda p: p.step)] == [
        e["val/clean"] for e in epochs
    ]
    kept = [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
    assert any("best" in path or "checkpoint" in path for path in kept), kept


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nope://bucket/x", "Protocol not known"),
        ("s3://", "names no bucket"),
        ("memory://x", "is no object store"),
    ],
)
def test_a_wrong_address_is_told_in_a_line(
    url: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from orchestrate.cli import main

    monkeypatch.setenv("PARAPET_SCRATCH", str(tmp_path))
    assert main(["ls", "--runs", url]) == 2
    said = capsys.readouterr().err
    assert f"--runs: {url}" in said
    assert words in said
    assert said.count("\n") == 1

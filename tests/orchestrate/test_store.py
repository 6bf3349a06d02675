"""The store is made once however many come at once, says in one sentence why it cannot be used, and is shown."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from orchestrate import store
from orchestrate.runs import Runs
from training.errors import UserError

PREPARE = """
import sys
from pathlib import Path
from orchestrate import store
from orchestrate.runs import Runs
runs = Runs(Path(sys.argv[1]))
client = store.prepare(runs)
print(store.experiment(client, runs, "parapet"))
"""

SERVE = """
import sys
from pathlib import Path
from orchestrate import store
from orchestrate.runs import Runs
store.serve(Runs(Path(sys.argv[1])), port=int(sys.argv[2]), allowed_hosts=("login.lab",))
"""


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_default_lies_in_runs_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.uri(Runs(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert store.uri(Runs(tmp_path)) == "http://tracker:5000"


def test_four_processes_at_once_on_a_fresh_folder_all_succeed(tmp_path: Path) -> None:
    fresh = tmp_path / "runs"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, str(fresh)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0, 0, 0, 0], ended
    assert len({out for out, *_ in ended}) == 1, "one experiment, made by one of them and found by the others"
    assert all(not err for _, err, _ in ended), "and nothing was chattered"
    with sqlite3.connect(fresh / "mlflow.db") as database:
        [(location,)] = database.execute("SELECT artifact_location FROM experiments WHERE name = 'parapet'")
    assert location == (fresh / "mlartifacts" / "parapet").as_uri()


def unusable_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")


def not_a_database(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_text("not a database" * 100)


@pytest.mark.parametrize("spoil", [unusable_folder, not_a_database])
def test_a_store_that_cannot_be_used_is_told_in_one_quick_line(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(tmp_path)
    before = time.monotonic()
    with pytest.raises(UserError) as told:
        store.prepare(Runs(tmp_path / "runs"))
    assert time.monotonic() - before < 20
    assert "\n" not in str(told.value)
    assert str(tmp_path / "runs" / "mlflow.db") in str(told.value)


def test_a_read_only_database_is_told_although_it_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(tmp_path)
    store.prepare(runs)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true")
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI: .* readonly"):
        store.prepare(runs)


@pytest.mark.parametrize("uri", ["file:///nowhere", "postgresql://nobody@127.0.0.1:1/x", "nonsense://x"])
def test_an_address_that_mlflow_cannot_use_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=f"MLFLOW_TRACKING_URI: the tracking store {uri}") as told:
        store.prepare(Runs(tmp_path))
    assert "\n" not in str(told.value)


def test_a_server_that_nobody_runs_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI: the tracking store http://127") as told:
        store.prepare(Runs(tmp_path))
    assert "\n" not in str(told.value)


def test_a_deleted_experiment_comes_back(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    client = store.prepare(runs)
    first = store.experiment(client, runs, "mine")
    client.delete_experiment(first)
    assert store.experiment(client, runs, "mine") == first
    assert client.get_experiment(first).lifecycle_stage == "active"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--port: cannot listen on 127.0.0.1:{port}"):
            store.serve(Runs(tmp_path), port=port)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_not_made_only_to_be_shown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--runs: there is no folder"):
        store.serve(Runs(tmp_path / "typo"))
    assert not list(tmp_path.iterdir())


def group_members(group: int) -> list[int]:
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            members.append(int(stat.parent.name))
    return members


def get(url: str, host: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_pages_are_served_on_loopback_until_ctrl_c_and_leave_no_process(tmp_path: Path) -> None:
    port = free_port()
    serving = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert serving.stdout is not None
        said = serving.stdout.readline()
        assert f"http://127.0.0.1:{port}" in said, serving.communicate()
        assert get(f"http://127.0.0.1:{port}/health") == 200
        assert get(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0") == 200
        asked = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0"
        assert get(asked, "evil.example") == 403
        assert get(asked, "login.lab") == get(asked, "login.lab:8443") == 200
        [server] = [
            int(child)
            for child in Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text().split()
        ]
        assert len(group_members(server)) >= 1
        words = Path(f"/proc/{server}/cmdline").read_text()
        assert "sqlite" not in words, "all users see it, and an address may hold a password"
        os.killpg(serving.pid, signal.SIGINT)
        _, errors = serving.communicate(timeout=30)
    finally:
        if serving.poll() is None:
            os.killpg(serving.pid, signal.SIGTERM)
            serving.wait(timeout=30)
    assert serving.returncode == 0
    assert errors == ""
    assert group_members(server) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0

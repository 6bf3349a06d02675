"""What a trial needs is put in place from what a store holds; nothing that it names leads elsewhere."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrate.events import Story
from orchestrate.reproduce.fetch import Original
from orchestrate.reproduce.placing import Placed, Placing
from orchestrate.runs import Runs, write_whole
from orchestrate.tracking import artifacts
from training.errors import UserError
from training.spec import TrialSpec

KEY = "00112233aabbccdd"
SPEC: dict[str, Any] = {
    "method": {"name": "hat"},
    "data": {"name": "npz", "root": "/where/it/was"},
    "model": {"name": "mlp"},
    "attack": {"eps": 0.1},
}


class Held:
    """A store as far as placing goes: a folder per run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, run: str, path: str, content: bytes | str) -> str:
        content = content.encode() if isinstance(content, str) else content
        write_whole(self.folder / run / path, content)
        return hashlib.sha256(content).hexdigest()

    def files(self, run: str, folder: str = "") -> list[str]:
        return [f"{folder}/{file.name}" for file in (self.folder / run / folder).glob("*")]

    def fetch(self, run: str, path: str, into: Path) -> Path | None:
        file = self.folder / run / path
        if not file.exists():
            return None
        into.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(file, into))

    def text(self, run: str, path: str, into: Path) -> str:
        file = self.fetch(run, path, into)
        return file.read_text() if file else ""


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path / "held")


def place(held: Held, spec: dict[str, Any], tmp_path: Path, root: Path | None = None) -> Placed:
    held.put("run", "spec.yaml", yaml.safe_dump(spec))
    original = Original("run", "", "0", KEY, "hat", {}, {}, {})
    placing = Placing(held, Runs(tmp_path / "runs"), tmp_path / "scratch", root, False)  # type: ignore[arg-type]
    return placing.place(original)


def test_a_network_that_was_given_as_a_file_is_tracked_and_found_again(held: Held, tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    file.write_bytes(b"a network")
    digest = hashlib.sha256(b"a network").hexdigest()
    spec = SPEC | {"helpers": {"standard": {"path": str(file), "digest": digest}}}
    trial = Runs(tmp_path / "then").trial(KEY)
    trial.create(TrialSpec.model_validate(spec))
    tracked = {artifact.path: artifact for artifact in artifacts.of_trial(trial, Story(), None, large=True)}
    (tmp_path / "made").mkdir()
    made = tracked["helpers/standard.pt"].make(tmp_path / "made")
    held.put("run", f"helpers/{made.name}", made.read_bytes())
    assert place(held, spec, tmp_path).spec["helpers"]["standard"]["path"] == str(file)  # it is still there
    file.unlink()
    found = place(held, spec, tmp_path).spec["helpers"]["standard"]
    assert found["digest"] == digest
    assert Path(found["path"]).read_bytes() == b"a network"
    held.put("run", "helpers/standard.pt", "another")
    with pytest.raises(UserError, match=r"helpers\.standard: .* is neither here nor in the store"):
        place(held, spec, tmp_path)


def test_a_copy_of_a_tracked_runs_network_comes_from_that_run(held: Held, tmp_path: Path) -> None:
    digest = held.put("abc123", "checkpoints/last.pt", "its network")
    given = {"path": "/gone/runs/helpers/abc123/last.pt", "digest": digest}
    found = place(held, SPEC | {"helpers": {"standard": given}}, tmp_path)
    assert Path(found.spec["helpers"]["standard"]["path"]).read_text() == "its network"


def test_a_users_own_file_is_put_back_as_it_was(held: Held, tmp_path: Path) -> None:
    digest = held.put("run", "imports/mine.py", "x = 1\n")
    place(held, SPEC | {"imports": {"mine.py": digest}}, tmp_path)
    assert (tmp_path / "runs" / "imports" / digest / "mine.py").read_text() == "x = 1\n"
    held.put("run", "imports/mine.py", "x = 2\n")
    with pytest.raises(UserError, match=r"mine\.py.* is not in the store as it was"):
        place(held, SPEC | {"imports": {"mine.py": digest}}, tmp_path)


def test_names_from_the_store_lead_nowhere_else(held: Held, tmp_path: Path) -> None:
    for name in ("../mine.py", ".mine.py", ""):
        with pytest.raises(UserError, match="no plain name"):
            place(held, SPEC | {"imports": {name: "0" * 64}}, tmp_path)


def test_images_are_where_the_user_says_else_where_they_were_else_in_parapet_data(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = SPEC | {"data": {"name": "npz", "root": str(tmp_path)}}
    assert place(held, there, tmp_path).spec["data"]["root"] == str(tmp_path)
    assert place(held, there, tmp_path, tmp_path / "here").spec["data"]["root"] == str(tmp_path / "here")
    monkeypatch.setenv("PARAPET_DATA", str(tmp_path / "mine"))
    assert place(held, there, tmp_path).spec["data"]["root"] == str(tmp_path)
    assert place(held, SPEC, tmp_path).spec["data"]["root"] == str(tmp_path / "mine")

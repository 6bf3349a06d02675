"""Images on a node's own disk: one copy for all, never half of one, and never other images than the key's."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from small_trials import planned, runs_in, spec_of

from orchestrate import staging
from orchestrate import trial as trials
from orchestrate.events import story
from orchestrate.runs import TrialDir
from orchestrate.staging import VARIABLE, staged
from orchestrate.trial import FAILED, FINISHED, Settings
from training.spec import DataSpec, ExtraSpec


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's own disk."""
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    monkeypatch.setenv(VARIABLE, "$NODE_DISK")
    return tmp_path / "disk"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared/set"
    (folder / "raw").mkdir(parents=True)
    (folder / "raw/a.bin").write_bytes(b"images")
    return folder


def data(root: Path, **facts: Any) -> DataSpec:
    return DataSpec(name="npz", root=str(root), **facts)


def copies(disk: Path) -> list[Path]:
    return [path for path in disk.rglob("*") if path.is_dir() and len(path.name) == 16]


def test_a_folder_and_a_file_are_copied_once_and_other_files_are_another_copy(
    disk: Path, shared: Path
) -> None:
    (shared.parent / "more.npz").write_bytes(b"more")
    spec = data(shared, extra=ExtraSpec(path=str(shared.parent / "more.npz"), share=0.5))
    said: list[str] = []
    near = staged(spec, said.append)
    assert near.root is not None
    assert near.extra is not None
    assert Path(near.root, "raw/a.bin").read_bytes() == b"images"
    assert Path(near.extra.path).read_bytes() == b"more"
    assert str(disk) in near.root
    assert near.extra.share == 0.5
    assert len(said) == 2
    assert staged(spec, said.append) == near
    assert len(said) == 2, "what is there is not copied again"
    (shared / "raw/a.bin").write_bytes(b"images, others")
    assert staged(spec, said.append).root != near.root
    assert len(copies(disk)) == 3
    assert (disk / f"parapet-{os.getuid()}").stat().st_mode & 0o077 == 0


def stage(root: Path, copied: Any) -> None:
    def tell(line: str) -> None:
        assert "was copied to" in line
        with copied.get_lock():
            copied.value += 1

    real = staging.shutil.copytree
    staging.shutil.copytree = lambda *words: (time.sleep(0.2), real(*words))  # long enough to be met
    staged(data(root), tell)


def test_several_at_once_make_one_copy(disk: Path, shared: Path) -> None:
    context = multiprocessing.get_context("fork")
    copied = context.Value("i", 0)
    processes = [context.Process(target=stage, args=(shared, copied)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert copied.value == 1
    [copy] = copies(disk)
    assert (copy / "set/raw/a.bin").read_bytes() == b"images"


def test_of_a_folder_with_several_data_sets_the_own_one_is_copied(
    disk: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "MNIST/raw").mkdir(parents=True)
    (shared / "MNIST/raw/train").write_bytes(b"digits")
    monkeypatch.setenv("PARAPET_DATA", str(shared))
    near = staged(DataSpec(name="mnist"), lambda line: None).root
    assert near is not None
    assert [path.name for path in Path(near).rglob("*")] == ["train"]
    assert staged(DataSpec(name="digits", root=str(shared)), print).root == str(shared), "embedded"
    assert len(copies(disk)) == 1


def test_only_copies_are_ever_discarded(disk: Path, shared: Path) -> None:
    near = staged(data(shared), lambda line: None)
    extra = ExtraSpec(path=str(shared / "raw/a.bin"), share=0.5)
    staging.discard(near.model_copy(update={"extra": extra}))
    assert copies(disk) == []
    assert (shared / "raw/a.bin").exists()


def test_half_a_copy_of_a_killed_job_is_not_used(disk: Path, shared: Path) -> None:
    near = staged(data(shared), lambda line: None).root
    assert near is not None
    copy = Path(near).parent
    copy.rename(copy.with_suffix(".draft"))
    (copy.with_suffix(".draft") / "set/raw/a.bin").write_bytes(b"im")
    assert staged(data(shared), lambda line: None).root == near
    assert Path(near, "raw/a.bin").read_bytes() == b"images"


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("/no/such/disk", "/no/such/disk/parapet"),
        ("$NOT_SET_HERE/x", "holds a variable that is not set here"),
        ("$NODE_DISK", "no room for"),
    ],
)
def test_what_cannot_be_staged_is_read_from_where_it_lies(
    disk: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, to: str, says: str
) -> None:
    monkeypatch.setenv(VARIABLE, to)
    if "room" in says:
        full = type(staging.shutil.disk_usage("/"))(1000, 1000, 0)
        monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: full)
    said: list[str] = []
    assert staged(data(shared), said.append) == data(shared)
    [line] = said
    assert says in line
    assert copies(disk) == []


def test_nothing_is_staged_unless_asked_or_without_files(
    disk: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert staged(DataSpec(name="digits"), print) == DataSpec(name="digits")
    monkeypatch.delenv(VARIABLE)
    assert staged(data(shared), print) == data(shared)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[TrialDir]:
    """A trial on images in a file."""
    bunch = load_digits()
    images, labels = (bunch.images * 15).astype(np.uint8)[..., None], bunch.target
    file = tmp_path / "own.npz"
    np.savez(
        file,
        train_images=images[:400],
        train_labels=labels[:400],
        test_images=images[400:],
        test_labels=labels[400:],
    )
    yield planned(runs_in(tmp_path), spec_of(data={"name": "npz", "root": str(file)}))
    torch.set_num_threads(1)


def run(trial: TrialDir) -> int:
    return trials.run(trial, Settings(device="cpu"))


def test_a_trial_trains_on_the_copy_and_on_no_other_images(
    disk: Path, trial: TrialDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "own.npz"
    away = shared.with_name("away.npz")
    staged(trial.spec().data, lambda line: None)
    [copy] = copies(disk)
    content = (copy / "own.npz").read_bytes()
    (copy / "own.npz").write_bytes(content[: len(content) // 2])
    assert run(trial) == FINISHED, "a damaged copy is not what is trained on"
    assert "the copy on this node was damaged, and is removed" in capsys.readouterr().out
    assert copies(disk) == []
    assert story(trial.events).state == "finished"
    assert run(trial) == FINISHED
    assert "was copied to" in capsys.readouterr().out
    shared.rename(away)
    np.savez(shared, **dict(np.load(away)) | {"train_labels": np.zeros(400, int)})
    assert run(trial) == FAILED, "other images are another copy, and no trial of this key's"

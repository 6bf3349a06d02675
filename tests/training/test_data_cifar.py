"""CIFAR-10 and CIFAR-100 in torchvision's layout, small files made here."""

import importlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from training.data import load
from training.data.torchvision_import import datasets
from training.errors import UserError
from training.spec import DataSpec

LAYOUT = {
    "cifar10": (
        "cifar-10-batches-py",
        [f"data_batch_{i}" for i in range(1, 6)],
        "test_batch",
        "batches.meta",
        "labels",
    ),
    "cifar100": ("cifar-100-python", ["train"], "test", "meta", "fine_labels"),
}


def write(root, name, label=0):
    """Four images per file; pixel j of image i of file f is (f + i + j) mod 256, its label ``label`` + i."""
    folder, train, test, meta, key = LAYOUT[name]
    (root / folder).mkdir()
    for f, file in enumerate([*train, test]):
        data = (f + np.arange(4)[:, None] + np.arange(3072)).astype(np.uint8)
        (root / folder / file).write_bytes(pickle.dumps({"data": data, key: [label + i for i in range(4)]}))
    names = {"label_names": list("abcdefghij"), "fine_label_names": [str(i) for i in range(100)]}
    (root / folder / meta).write_bytes(pickle.dumps(names))
    return DataSpec(name=name, root=str(root))


@pytest.fixture
def trusting(monkeypatch):
    """torchvision without the published checksums, which small files cannot have."""
    monkeypatch.setattr(datasets().cifar, "check_integrity", lambda path, md5=None: True)


@pytest.mark.parametrize(("name", "files", "classes"), [("cifar10", 5, 10), ("cifar100", 1, 100)])
def test_pixels_are_channels_first(tmp_path, trusting, name, files, classes):
    data = load(write(tmp_path, name))
    assert data.train.images.shape == (4 * files, 3, 32, 32)
    assert data.classes == classes
    assert data.train.labels.tolist() == [0, 1, 2, 3] * files
    assert data.test.images[2, 1, 3, 4] == (files + 2 + 1024 + 3 * 32 + 4) % 256
    assert len(data.mean) == len(data.std) == 3


def test_the_folder_itself_will_do_as_root(tmp_path, trusting):
    write(tmp_path, "cifar10")
    assert len(load(DataSpec(name="cifar10", root=str(tmp_path / "cifar-10-batches-py"))).train.labels) == 20


def test_files_with_a_wrong_checksum_are_refused(tmp_path):
    spec = write(tmp_path, "cifar10")
    with pytest.raises(UserError, match=r"data.root: .*cifar-10-batches-py is incomplete or damaged"):
        load(spec)


def test_labels_out_of_range_are_told(tmp_path, trusting):
    with pytest.raises(UserError, match="labels must be 0 to 9, they go from 7 to 10"):
        load(write(tmp_path, "cifar10", label=7))


def test_a_missing_folder_is_told_and_nothing_downloaded(tmp_path, monkeypatch):
    monkeypatch.delenv("PARAPET_DATA", raising=False)
    with pytest.raises(UserError, match=r"holds no folder cifar-100-python; nothing is downloaded"):
        load(DataSpec(name="cifar100", root=str(tmp_path)))
    with pytest.raises(UserError, match=r"data.root: 'cifar10' needs .* nothing is downloaded"):
        load(DataSpec(name="cifar10"))


def test_torchvision_is_imported_though_its_operators_are_missing(tmp_path):
    """A package that does at import what torchvision does where its compiled library does not load."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import torch, torchvision.early\n"
        "for name in ('nms', 'qnms'):\n"
        "    torch.library.register_fake(f'torchvision::{name}')(lambda dets, scores, iou_threshold: None)\n"
    )
    (package / "early.py").write_text("")
    (package / "datasets.py").write_text("CIFAR10 = 'here'")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "try:\n    import torchvision\n"
        "except RuntimeError as error:\n    assert 'operator torchvision::nms does not exist' in str(error)\n"
        "else:\n    raise SystemExit('it should fail at first')\n"
        "from training.data.torchvision_import import datasets\n"
        "assert datasets().CIFAR10 == 'here'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_another_fault_of_torchvision_is_not_hidden(monkeypatch):
    def failing(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(importlib, "import_module", failing)
    with pytest.raises(RuntimeError, match="something else"):
        datasets.__wrapped__()

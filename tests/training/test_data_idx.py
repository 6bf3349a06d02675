"""MNIST and Fashion-MNIST: small files made here, the real ones where they are, and everything that can be wrong."""

import gzip
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data import digest, load
from training.errors import UserError
from training.spec import DataSpec

REAL = Path(os.environ.get("PARAPET_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILES = {
    "train-images-idx3-ubyte": (7, 5, 6),
    "train-labels-idx1-ubyte": (7,),
    "t10k-images-idx3-ubyte": (3, 5, 6),
    "t10k-labels-idx1-ubyte": (3,),
}


def content_of(name):
    """The bytes after the header: pixels count up, labels are 9, 8, 7, ..."""
    count = int(np.prod(FILES[name]))
    return bytes(range(9, 9 - count, -1)) if "labels" in name else bytes(i % 256 for i in range(count))


def packed(name, body=None, shape=None):
    shape = FILES[name] if shape is None else shape
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + (body or content_of(name))


def write(folder, packing="", **changed):
    """The four files; ``changed`` replaces a whole file's bytes, by the first word of its name and what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        content = changed.get("_".join(name.split("-")[:2]), packed(name))
        if content is not None:
            file = folder / f"{name}{packing}"
            file.write_bytes(gzip.compress(content) if packing else content)
    return DataSpec(name="mnist", root=str(folder))


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_pixels_and_labels_are_those_of_the_files(tmp_path, packing):
    data = load(write(tmp_path, packing))
    assert data.train.images.shape == (7, 1, 5, 6)
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.flatten().tolist() == [i % 256 for i in range(210)]
    assert data.train.labels.tolist() == [9, 8, 7, 6, 5, 4, 3]
    assert data.test.labels.tolist() == [9, 8, 7]
    assert data.train.labels.dtype == torch.int64
    assert (data.classes, data.name) == (10, "mnist")


def test_the_digest_is_of_the_contents_not_of_the_files(tmp_path):
    plain, zipped = write(tmp_path / "plain"), write(tmp_path / "zipped" / "MNIST" / "raw", ".gz")
    zipped = zipped.model_copy(update={"root": str(tmp_path / "zipped")})
    assert digest(plain) == digest(zipped)
    pixel = bytearray(packed("t10k-images-idx3-ubyte"))
    pixel[-1] ^= 1
    label = bytearray(packed("train-labels-idx1-ubyte"))
    label[-1] ^= 1
    others = [
        write(tmp_path / "p", t10k_images=bytes(pixel)),
        write(tmp_path / "l", train_labels=bytes(label)),
    ]
    others.append(plain.model_copy(update={"train_size": 6}))
    assert len({digest(spec) for spec in [plain, *others]}) == 4


@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_the_root_may_be_any_of_the_usual_folders(tmp_path, below):
    write(tmp_path / below)
    assert len(load(DataSpec(name="mnist", root=str(tmp_path))).train.labels) == 7


def test_each_of_the_two_finds_its_own_below_a_common_root(tmp_path):
    write(tmp_path / "MNIST" / "raw")
    write(tmp_path / "FashionMNIST" / "raw", train_labels=packed("train-labels-idx1-ubyte", bytes(7)))
    assert load(DataSpec(name="mnist", root=str(tmp_path))).train.labels.sum() == 42
    assert load(DataSpec(name="fashion-mnist", root=str(tmp_path))).train.labels.sum() == 0


def test_the_environment_can_say_where_data_lie(tmp_path, monkeypatch):
    write(tmp_path / "MNIST" / "raw")
    monkeypatch.setenv("PARAPET_DATA", str(tmp_path))
    assert len(load(DataSpec(name="mnist")).train.labels) == 7


BAD = {
    "a cut file": (
        {"train_images": packed("train-images-idx3-ubyte")[:-1]},
        "train-images-.* is truncated or damaged",
    ),
    "bytes too many": (
        {"t10k_labels": packed("t10k-labels-idx1-ubyte") + b"x"},
        "t10k-labels-.* is truncated or damaged",
    ),
    "a cut header": (
        {"train_images": packed("train-images-idx3-ubyte")[:9]},
        "train-images-.* is not an IDX file",
    ),
    "an empty file": ({"t10k_images": b""}, "t10k-images-.* is not an IDX file"),
    "another magic number": (
        {"train_images": b"\0\0\x0d\3" + bytes(300)},
        "train-images-.* is not an IDX file",
    ),
    "labels as images": (
        {"train_images": packed("train-labels-idx1-ubyte")},
        "not an IDX file of bytes in 3 dimensions",
    ),
    "a label too high": (
        {"train_labels": packed("train-labels-idx1-ubyte", bytes([0, 1, 2, 10, 4, 5, 6]))},
        "train-.*: labels must be 0 to 9, they go from 0 to 10",
    ),
    "labels too few": (
        {"train_labels": packed("train-labels-idx1-ubyte", bytes(6), (6,))},
        "there are 7 images but 6 labels",
    ),
    "sizes that differ": (
        {"t10k_images": packed("t10k-images-idx3-ubyte", bytes(3 * 16), (3, 4, 4))},
        r"training images of \(5, 6\) and test images of \(4, 4\)",
    ),
    "no image": (
        {"t10k_images": packed("t10k-images-idx3-ubyte", b"", (0, 5, 6))[:16]},
        r"their shape is \(0, 1, 5, 6\)",
    ),
    "a huge header": (
        {"t10k_images": packed("t10k-images-idx3-ubyte", None, (2**32 - 1,) * 3)},
        "t10k-images-.* is truncated or damaged",
    ),
    "a missing file": (
        {"t10k_labels": None},
        "holds neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte.gz",
    ),
}


@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_told_in_one_sentence(tmp_path, fault, packing):
    changed, message = BAD[fault]
    spec = write(tmp_path, packing, **changed)
    with pytest.raises(UserError, match=message) as told:
        load(spec)
    assert str(told.value).startswith(f"data.root: {tmp_path}")
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=message):
        digest(spec)


@pytest.mark.parametrize(
    "spoil", [lambda z: z[:-9], lambda z: b"no gzip", lambda z: z[:30] + b"????" + z[34:]]
)
def test_a_bad_gzip_is_told(tmp_path, spoil):
    spec = write(tmp_path, ".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(UserError, match=f"data.root: {file} is truncated or damaged"):
        load(spec)


def test_a_file_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    spec = write(tmp_path)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        load(spec)


def test_a_missing_root_is_told_and_nothing_downloaded(tmp_path, monkeypatch):
    monkeypatch.delenv("PARAPET_DATA", raising=False)
    with pytest.raises(UserError, match=r"data.root: 'mnist' needs .* nothing is downloaded"):
        load(DataSpec(name="mnist"))
    with pytest.raises(UserError, match=f"data.root: {tmp_path}/none does not exist"):
        load(DataSpec(name="mnist", root=f"{tmp_path}/none"))
    with pytest.raises(
        UserError, match=f"data.root: {tmp_path} holds neither train-images.* nothing is downloaded"
    ):
        load(DataSpec(name="fashion-mnist", root=str(tmp_path)))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_files_have_the_published_mean_and_deviation(name):
    if not (REAL / "MNIST").is_dir():
        pytest.skip(f"no real images at {REAL} (PARAPET_TEST_DATA)")
    data = load(DataSpec(name=name, root=str(REAL)))
    assert (len(data.train.labels), len(data.test.labels)) == (60_000, 10_000)
    pixels = data.train.images.numpy() / 255
    assert data.mean[0] == pytest.approx(pixels.mean(), abs=6e-5)
    assert data.std[0] == pytest.approx(pixels.std(), abs=6e-5)


def test_real_files_digest_equal_packed_and_unpacked(tmp_path):
    if not (REAL / "MNIST").is_dir():
        pytest.skip(f"no real images at {REAL} (PARAPET_TEST_DATA)")
    for file in (REAL / "MNIST" / "raw").glob("*.gz"):
        with gzip.open(file) as packed_file, (tmp_path / file.stem).open("wb") as out:
            shutil.copyfileobj(packed_file, out)
    assert digest(DataSpec(name="mnist", root=str(tmp_path))) == digest(
        DataSpec(name="mnist", root=str(REAL))
    )

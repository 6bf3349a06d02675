"""SVHN's MATLAB files: small ones written by SciPy, against torchvision's reading of them."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from training.data import digest, load
from training.data.torchvision_import import datasets
from training.errors import UserError
from training.spec import DataSpec


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3, count), np.uint8)


def labels(*values):
    return np.array(values, np.uint8)[:, None]


def write(root, **changed):
    """Both files, compressed as the published ones are; ``changed`` replaces what test_32x32.mat holds."""
    train = {"X": pixels(12), "y": labels(*range(1, 11), 10, 1)}
    test = {"X": pixels(3, 1), "y": labels(10, 9, 1)} | changed
    savemat(root / "train_32x32.mat", train, do_compression=True)
    savemat(root / "test_32x32.mat", test, do_compression=True)
    return DataSpec(name="svhn", root=str(root))


def test_images_and_labels_are_torchvisions(tmp_path, monkeypatch):
    data = load(write(tmp_path))
    module = datasets()
    monkeypatch.setattr(module.svhn, "check_integrity", lambda path, md5=None: True)
    for part, split in ((data.train, "train"), (data.test, "test")):
        theirs = module.SVHN(str(tmp_path), split=split)
        assert torch.equal(part.images, torch.from_numpy(theirs.data))
        assert part.labels.tolist() == theirs.labels.tolist()
    assert data.train.images[5, 2, 3, 4] == pixels(12)[3, 4, 2, 5]
    assert data.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 1]
    assert data.mean == pytest.approx(pixels(12).mean((0, 1, 3)) / 255)
    assert data.classes == 10


def test_the_digest_is_of_the_contents(tmp_path):
    seen = []
    for name, changed in (("a", {}), ("b", {"y": labels(10, 9, 2)}), ("c", {"X": pixels(3, 2)})):
        (tmp_path / name).mkdir()
        seen.append(digest(write(tmp_path / name, **changed)))
    (tmp_path / "d").mkdir()
    assert digest(write(tmp_path / "d")) == seen[0]
    assert len(set(seen)) == 3


def test_the_extra_file_is_not_looked_at_unless_it_is_asked_for(tmp_path):
    spec = write(tmp_path)
    before = digest(spec)
    extra_file = {"X": pixels(5, 3), "y": labels(10, 1, 2, 3, 4)}
    savemat(tmp_path / "extra_32x32.mat", extra_file, do_compression=True)
    assert digest(spec) == before
    asked = spec.model_validate(
        spec.model_dump() | {"extra": {"path": str(tmp_path / "extra_32x32.mat"), "share": 0.5}}
    )
    extra = load(asked).train.extra
    assert extra.labels.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(extra.images, torch.from_numpy(pixels(5, 3).transpose(3, 2, 0, 1)))
    assert digest(asked) != before


BAD = {
    "a label 0": ({"y": labels(0, 1, 2)}, "labels must be 1 to 10, they go from 0"),
    "a label 11": ({"y": labels(11, 1, 2)}, "labels must be 0 to 9, they go from 1 to 11"),
    "labels in between": ({"y": np.array([[1.5], [2], [3]])}, "labels must be a row of whole numbers"),
    "labels too few": ({"y": labels(1, 2)}, "there are 3 images but 2 labels"),
    "pixels in [0, 1]": ({"X": pixels(3) / 255}, "images must be uint8 .* they are float64"),
    "images first": (
        {"X": pixels(3).transpose(3, 0, 1, 2)},
        r"X must be of shape \(32, 32, 3, N\), it is \(3, 32, 32, 3\)",
    ),
    "one image": ({"X": pixels(1)[..., 0]}, r"X must be of shape \(32, 32, 3, N\), it is \(32, 32, 3\)"),
    "text": ({"X": "no images"}, "X must be of shape"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_told_in_one_sentence(tmp_path, fault):
    changed, message = BAD[fault]
    with pytest.raises(UserError, match=message) as told:
        load(write(tmp_path, **changed))
    assert str(told.value).startswith(f"data.root: {tmp_path / 'test_32x32.mat'}")
    assert "\n" not in str(told.value)


def test_missing_files_and_arrays_are_told(tmp_path):
    spec = write(tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels(3)}, do_compression=True)
    with pytest.raises(UserError, match=r"test_32x32.mat must hold X and y"):
        load(spec)
    (tmp_path / "train_32x32.mat").unlink()
    with pytest.raises(UserError, match=r"train_32x32.mat is missing; nothing is downloaded"):
        load(spec)


def test_a_damaged_file_is_told_wherever_it_is_damaged(tmp_path):
    """Every length, and every byte: the contents are whole, or the user is told."""
    spec = write(tmp_path)
    file = tmp_path / "test_32x32.mat"
    whole, right, draw = file.read_bytes(), digest(spec), np.random.default_rng(0)
    told = []
    places = [*range(124, 160), *draw.integers(len(whole), size=80)]
    for at in places:
        broken = bytearray(whole)
        broken[at] ^= int(draw.integers(1, 256))
        for content in (broken, whole[:at]):
            file.write_bytes(content)
            try:
                assert digest(spec) == right
            except UserError as error:
                told.append(str(error))
    assert len(told) > 2 * len(places) - 12  # a change in the head may be harmless
    assert all(sentence.startswith(f"data.root: {file}") and "\n" not in sentence for sentence in told)


def test_a_file_that_is_not_compressed_is_refused(tmp_path):
    """SciPy may crash on a damaged one, and nothing in it tells damage."""
    spec = write(tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels(3), "y": labels(1, 2, 3)})
    with pytest.raises(
        UserError, match=r"test_32x32.mat is truncated or damaged, or no compressed MATLAB 5 file"
    ):
        load(spec)

"""Images in NumPy archives."""

import os
from pathlib import Path

import numpy as np
import pytest

from training.data import digest, load
from training.errors import UserError
from training.spec import DataSpec

REAL = Path(os.environ.get("PARAPET_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def four(**changed):
    arrays = {
        "train_images": pixels(12, 6, 5, 3),
        "train_labels": np.arange(12) % 3,
        "test_images": pixels(4, 6, 5, 3, seed=1),
        "test_labels": np.arange(4) % 3,
    }
    return arrays | changed


def write(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return DataSpec(name="npz", root=str(folder / "data.npz"))


def test_channels_may_be_first_last_or_none(tmp_path):
    last, gray = four(), {"train_images": pixels(12, 6, 5), "test_images": pixels(4, 6, 5)}
    first = {name: last[name].transpose(0, 3, 1, 2) for name in ("train_images", "test_images")}
    data = load(write(tmp_path, **last))
    assert np.array_equal(data.train.images.numpy(), first["train_images"])
    assert np.array_equal(data.test.images.numpy(), first["test_images"])
    assert data.train.labels.tolist() == [0, 1, 2] * 4
    assert data.classes == 3
    again = load(write(tmp_path, **four(**first)))
    assert np.array_equal(again.train.images.numpy(), first["train_images"])
    alone = load(write(tmp_path, **four(**gray)))
    assert np.array_equal(alone.train.images.numpy()[:, 0], gray["train_images"])


def test_a_folder_with_one_archive_is_as_good_as_the_file(tmp_path):
    spec = write(tmp_path, **four())
    assert digest(DataSpec(name="npz", root=str(tmp_path))) == digest(spec)
    (tmp_path / "other.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"must hold exactly one .npz file, .* it holds data.npz, other.npz"):
        load(DataSpec(name="npz", root=str(tmp_path)))


def test_mean_and_deviation_are_those_of_the_training_images(tmp_path):
    data = load(write(tmp_path, **four()))
    images = four()["train_images"] / 255
    assert data.mean == pytest.approx(images.mean((0, 1, 2)), rel=1e-12)
    assert data.std == pytest.approx(images.std((0, 1, 2)), rel=1e-12)
    first = load(write(tmp_path, **four()).model_copy(update={"train_size": 5}))
    assert first.mean == pytest.approx(images[:5].mean((0, 1, 2)), rel=1e-12)


def test_a_channel_that_never_changes_can_be_normalised(tmp_path):
    flat = pixels(12, 6, 5, 3)
    flat[..., 1] = 200
    assert load(write(tmp_path, **four(train_images=flat))).std[1] == 1.0


@pytest.mark.parametrize("keys", [("images", "labels"), ("image", "label")])
def test_one_in_five_of_undivided_images_is_for_testing(tmp_path, keys):
    images, labels = pixels(100, 4, 4), np.repeat(np.arange(4), [10, 20, 30, 40])
    data = load(write(tmp_path, **dict(zip(keys, (images, labels), strict=True))))
    assert np.bincount(data.test.labels).tolist() == [2, 4, 6, 8]
    together = [*data.train.images.numpy()[:, 0], *data.test.images.numpy()[:, 0]]
    assert sorted(x.tobytes() for x in together) == sorted(x.tobytes() for x in images)
    for part in (data.train, data.test):  # an image keeps its label
        for image, label in zip(part.images.numpy()[:, 0], part.labels.tolist(), strict=True):
            (row,) = np.flatnonzero((images == image).all((1, 2)))
            assert labels[row] == label


def test_labels_in_a_column_are_read(tmp_path):
    spec = write(tmp_path, **four(train_labels=(np.arange(12) % 3)[:, None].astype(np.int16)))
    assert load(spec).train.labels.tolist() == [0, 1, 2] * 4


def objects(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


BAD = {
    "pixels in [0, 1]": (
        four(train_images=np.zeros((12, 6, 5, 3))),
        "images must be uint8 .* they are float64",
    ),
    "two channels": (four(train_images=pixels(12, 6, 5, 2)), r"gray or of three channels.* \(12, 6, 5, 2\)"),
    "no image": (four(test_images=pixels(0, 6, 5, 3), test_labels=np.arange(0)), "at least one of them"),
    "flat images": (four(train_images=pixels(12, 90)), r"their shape is \(12, 90\)"),
    "labels too few": (four(train_labels=np.arange(11) % 3), r"\(train\): there are 12 images but 11 labels"),
    "labels in between": (four(train_labels=np.arange(12) / 2), "labels must be a row of whole numbers"),
    "one-hot labels": (four(train_labels=np.eye(12, dtype=int)), "labels must be a row of whole numbers"),
    "a negative label": (
        four(train_labels=np.arange(12) % 3 - 1),
        "labels must be 0 or more, they go from -1 to 1",
    ),
    "labels from 1": (four(train_labels=np.arange(12) % 3 + 1), "no training image has label 0"),
    "a gap": (four(train_labels=np.arange(12) % 3 * 2), "no training image has label 1"),
    "one class": (four(train_labels=np.zeros(12, int)), "no training image has label 1"),
    "a class only tested": (
        four(test_labels=np.array([0, 1, 2, 3])),
        r"\(test\): labels must be 0 to 2, .* to 3",
    ),
    "sizes that differ": (
        four(test_images=pixels(4, 6, 6, 3)),
        r"of shape \(3, 6, 5\) and test images of \(3, 6, 6\)",
    ),
    "other names": ({"x_train": pixels(2, 2, 2), "y_train": np.arange(2)}, "it holds x_train, y_train"),
    "nothing": ({}, "it holds nothing"),
    "Python objects": (four(train_labels=objects(*range(12))), "Python objects, which are not read"),
    "too few to divide": ({"images": pixels(4, 2, 2), "labels": np.arange(4) % 2}, "4 images, at least 5"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_archive_is_told_in_one_sentence(tmp_path, fault):
    arrays, message = BAD[fault]
    spec = write(tmp_path, **arrays)
    with pytest.raises(UserError, match=message) as told:
        load(spec)
    assert str(told.value).startswith(f"data.root: {tmp_path}/data.npz")
    assert "\n" not in str(told.value)


def test_a_damaged_archive_is_told_wherever_it_is_damaged(tmp_path):
    """Every damaged byte and every length: either the contents are still whole, or the user is told."""
    spec = write(tmp_path, **four())
    file, whole, right = Path(spec.root), Path(spec.root).read_bytes(), digest(spec)
    draw = np.random.default_rng(0)
    told = []
    for _ in range(150):
        broken = bytearray(whole)
        broken[draw.integers(len(whole))] ^= int(draw.integers(1, 256))
        for content in (bytes(broken), whole[: draw.integers(len(whole))]):
            file.write_bytes(content)
            try:
                assert digest(spec) == right
            except UserError as error:
                told.append(str(error))
    assert len(told) > 200
    assert all(sentence.startswith(f"data.root: {file}") for sentence in told)


def test_a_pickle_or_single_array_is_told(tmp_path):
    file = tmp_path / "data.npz"
    np.save(tmp_path / "one.npy", pixels(3, 2, 2))
    file.write_bytes((tmp_path / "one.npy").read_bytes())
    with pytest.raises(UserError, match="is a single array"):
        load(DataSpec(name="npz", root=str(file)))
    objects(1, 2).dump(file)
    with pytest.raises(UserError, match="holds Python objects, which are not read"):
        load(DataSpec(name="npz", root=str(file)))


def test_the_exact_cifar_subset_is_read():
    folder = REAL / "cifar10-exact-subset"
    if not folder.is_dir():
        pytest.skip(f"no real images at {REAL} (PARAPET_TEST_DATA)")
    data = load(DataSpec(name="npz", root=str(folder)))
    assert data.train.images.shape == (4000, 3, 32, 32)
    assert data.test.images.shape == (300, 3, 32, 32)
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-3)  # of all of CIFAR-10
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-3)

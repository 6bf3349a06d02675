"""What holds for every data set: names, sizes, the split, digits."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from training.data import DATASETS, Images, digest, load, split
from training.data.raw import Part, Raw, held_out
from training.errors import UserError
from training.spec import DataSpec

DIGITS = DataSpec(name="digits")


def test_digits_are_sklearns():
    from sklearn.datasets import load_digits

    data, theirs = load(DIGITS), load_digits()
    assert (len(data.train.labels), len(data.test.labels), data.classes) == (1297, 500, 10)
    assert np.bincount(data.test.labels).min() >= 48  # every class in proportion
    ours = torch.cat([data.train.images, data.test.images]).numpy()[:, 0]
    levels = {(tuple(x.flatten().tolist()), y) for x, y in zip(theirs.images, theirs.target, strict=True)}
    back = np.rint(ours * (16 / 255))
    labels = torch.cat([data.train.labels, data.test.labels]).tolist()
    assert {(tuple(x.flatten().tolist()), y) for x, y in zip(back, labels, strict=True)} == levels
    assert (ours.min(), ours.max()) == (0, 255)


def test_digits_are_the_same_everywhere():
    """Fixed once: a change here changes every key of every trial on digits."""
    assert digest(DIGITS) == "de65dac508260ed0"


def test_digests_need_no_torch():
    program = "import sys; from training.data import digest; from training.spec import DataSpec;"
    program += "digest(DataSpec(name='digits')); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_sizes_take_the_first_images():
    whole, some = load(DIGITS), load(DataSpec(name="digits", train_size=100, test_size=20))
    assert torch.equal(some.train.images, whole.train.images[:100])
    assert torch.equal(some.test.labels, whole.test.labels[:20])


@pytest.mark.parametrize(("field", "there"), [("train_size", 1297), ("test_size", 500)])
def test_more_images_than_there_are_is_told(field, there):
    with pytest.raises(UserError, match=f"data.{field}: 2000 is more than the {there} images that there are"):
        load(DataSpec.model_validate({"name": "digits", field: 2000}))


def test_a_misspelt_name_is_told_with_the_nearest():
    with pytest.raises(
        UserError, match=r"data.name: no data set 'fasion-mnist' \(did you mean 'fashion-mnist'\?\)"
    ):
        load(DataSpec(name="fasion-mnist"))


def test_the_digest_sees_the_number_of_classes_and_every_part():
    part = Part(np.zeros((2, 1, 2, 2), np.uint8), np.array([0, 1]))
    swapped = Part(part.images, np.array([1, 0]))
    wide = Part(part.images.reshape(2, 1, 1, 4), part.labels)
    raws = [
        Raw(part, part, 2),
        Raw(part, part, 3),
        Raw(swapped, part, 2),
        Raw(part, swapped, 2),
        Raw(wide, part, 2),
    ]
    assert len({raw.digest() for raw in raws}) == len(raws)


def test_a_data_set_of_ones_own_takes_a_few_lines(monkeypatch):
    monkeypatch.setattr(DATASETS, "entries", dict(DATASETS.entries))

    @DATASETS.register("stripes")
    def stripes(root):
        """Two classes."""
        part = Part(np.arange(32, dtype=np.uint8).reshape(8, 1, 2, 2), np.arange(8) % 2)
        return Raw(part, part, 2)

    data = load(DataSpec(name="stripes", test_size=3))
    assert data.mean == pytest.approx((15.5 / 255,))
    assert data.test.labels.tolist() == [0, 1, 0]


def images_of(labels):
    labels = torch.tensor(labels)
    return Images(torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1), labels)


def test_a_split_parts_the_images_and_keeps_their_order():
    whole = images_of([0] * 60 + [1] * 30 + [2] * 10)
    train, val = split(whole, 0.1, 0)
    assert val.labels.bincount().tolist() == [6, 3, 1]
    rows, held = train.images.flatten().tolist(), val.images.flatten().tolist()
    assert sorted(rows + held) == list(range(100))
    assert rows == sorted(rows)
    assert held == sorted(held)
    assert train.labels.tolist() == whole.labels[train.images.flatten().long()].tolist()


def test_a_split_depends_on_its_seed_alone():
    whole = images_of([i % 10 for i in range(200)])
    held = [split(whole, 0.2, seed)[1].images.flatten().tolist() for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_an_impossible_split_is_told():
    with pytest.raises(UserError, match=r"data.val: a share of 0.1 of 4 images leaves none"):
        split(images_of([0, 1, 0, 1]), 0.1, 0)


def test_holding_out_is_exact_in_number_proportional_and_even():
    draw = np.random.default_rng(0)
    for seed in range(30):
        labels = draw.integers(0, draw.integers(2, 12), draw.integers(20, 200))
        count = int(draw.integers(1, len(labels)))
        rows = held_out(labels, count, seed)
        assert rows.sum() == count
        share = np.bincount(labels, rows) - np.bincount(labels) * count / len(labels)
        assert np.abs(share).max() < 1
    often = sum(held_out(np.arange(40) % 2, 10, seed).astype(int) for seed in range(2000))
    assert np.abs(often - 500).max() < 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_holding_out_is_fixed_for_ever():
    """Drawn by a generator whose raw output NumPy promises to keep; helpers and resumed trials rely on it."""
    assert np.flatnonzero(held_out(np.arange(30) % 3, 6, 0)).tolist() == [0, 7, 8, 9, 19, 26]

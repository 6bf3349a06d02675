"""Minibatches against a loop over images."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from training.data import Extra, Images
from training.data.batches import Batches
from training.errors import UserError
from training.randomness import generator


def images_of(count=23, shape=(3, 10, 12)):
    draw = torch.Generator().manual_seed(3)
    return Images(
        torch.randint(0, 256, (count, *shape), generator=draw, dtype=torch.uint8),
        torch.randint(0, 10, (count,), generator=draw),
    )


def batches_of(augment="crop-flip", count=23, batch_size=5, **options):
    return Batches(images_of(count), batch_size, "cpu", augment, **options)


def test_an_epoch_sees_every_image_once_but_for_the_last_short_batch():
    batches = batches_of("none")
    order = batches.order(generator(0, "order"))
    assert len(batches) == 4
    assert sorted(order.tolist()) == list(range(23))
    data = images_of()
    for step in range(4):
        x, y = batches.batch(order, step, generator(0, "augmentation", 0, step))
        rows = order[5 * step : 5 * step + 5]
        assert torch.equal(x, data.images[rows].float() / 255)
        assert torch.equal(y, data.labels[rows])
        assert x.dtype == torch.float32


def test_crops_and_mirrors_are_what_a_loop_over_images_makes():
    batches, data = batches_of(batch_size=16), images_of()
    order = batches.order(generator(0, "order"))
    x, y = batches.batch(order, 0, generator(0, "augmentation"))
    draw = generator(0, "augmentation")
    down, right = torch.randint(9, (2, 16), generator=draw).tolist()
    mirror = torch.randint(2, (16, 1, 1, 1), generator=draw, dtype=torch.uint8).flatten().tolist()
    assert len(set(down)) > 3
    assert set(mirror) == {0, 1}
    for i, row in enumerate(order[:16].tolist()):
        padded = np.zeros((3, 18, 20), np.uint8)
        padded[:, 4:-4, 4:-4] = data.images[row].numpy()
        expected = padded[:, down[i] : down[i] + 10, right[i] : right[i] + 12]
        if mirror[i]:
            expected = expected[:, :, ::-1]
        assert np.array_equal(x[i].numpy(), expected.astype(np.float32) / 255)
        assert y[i] == data.labels[row]


def test_all_crops_and_both_sides_occur_equally_often():
    """One white pixel in the middle shows where every image went."""
    one = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    one[0, 0, 4, 4] = 255
    count = 16_200
    batches = Batches(
        Images(one.expand(count, -1, -1, -1), torch.zeros(count, dtype=torch.int64)),
        count,
        "cpu",
        "crop-flip",
    )
    x, _ = batches.batch(torch.arange(count), 0, generator(0, "augmentation"))
    seen = x.sum((0, 1))
    assert seen.sum() == count
    assert (seen - 200).abs().max() < 5 * 200**0.5
    side = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    side[0, 0, :, 4] = torch.arange(9)  # mirrored or not, the rows stay in order
    batches = Batches(
        Images(side.expand(8, -1, -1, -1), torch.zeros(8, dtype=torch.int64)), 8, "cpu", "crop-flip"
    )
    column = batches.batch(torch.arange(8), 0, generator(0, "augmentation"))[0].sum((1, 3))
    assert all((row[row > 0].diff() > 0).all() for row in column)


def test_a_batch_depends_on_its_generator_alone():
    batches = batches_of()
    order = batches.order(generator(0, "order", 2))
    first = batches.batch(order, 1, generator(0, "augmentation", 2, 1))[0]
    batches.batch(order, 0, generator(0, "augmentation", 2, 0))
    torch.rand(3)
    again = batches_of()
    assert torch.equal(again.order(generator(0, "order", 2)), order)
    assert torch.equal(again.batch(order, 1, generator(0, "augmentation", 2, 1))[0], first)
    assert not torch.equal(again.batch(order, 1, generator(0, "augmentation", 3, 1))[0], first)


def test_augmenting_leaves_the_images_as_they_are():
    data = images_of()
    before = data.images.clone()
    batches = Batches(data, 5, "cpu", "crop-flip")
    order = batches.order(generator(0, "order"))
    first = batches.batch(order, 0, generator(0, "augmentation"))[0]
    assert torch.equal(batches.batch(order, 0, generator(0, "augmentation"))[0], first)
    assert torch.equal(data.images, before)


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_channels_last_changes_the_strides_only(augment):
    plain, last = batches_of(augment), batches_of(augment, channels_last=True)
    order = plain.order(generator(0, "order"))
    x, _ = plain.batch(order, 0, generator(0, "augmentation"))
    z, _ = last.batch(order, 0, generator(0, "augmentation"))
    assert torch.equal(x, z)
    assert z.is_contiguous(memory_format=torch.channels_last)
    assert x.is_contiguous()


def test_no_batch_looks_at_a_value():
    with FakeTensorMode(allow_non_fake_inputs=True):
        batches = batches_of()
        x, y = batches.batch(batches.order(generator(0, "order")), 0, generator(0, "augmentation"))
    assert x.shape == (5, 3, 10, 12)
    assert y.shape == (5,)


def test_a_batch_larger_than_the_data_is_told():
    with pytest.raises(UserError, match=r"train.batch_size: 24 is more than the 23 images to train on"):
        batches_of(batch_size=24)


def mixed(share=0.7, own=40, extra=90, batch_size=8, augment="none", seed=0):
    """Own images show their number, extra ones 100 more; labels are 0 and 1."""
    numbers = torch.arange(own + extra, dtype=torch.uint8)
    numbers[own:] += 100 - own
    images = numbers.view(-1, 1, 1, 1).expand(-1, 3, 9, 9).contiguous()
    labels = (numbers >= 100).long()
    data = Images(images[:own], labels[:own], Extra(images[own:], labels[own:], share))
    return Batches(data, batch_size, "cpu", augment)


def numbers_of(batches, order, steps):
    """The numbers that images show, [steps, B]."""
    return torch.stack(
        [batches.batch(order, step, generator(0, "x"))[0][:, 0, 4, 4] * 255 for step in steps]
    ).int()


@pytest.mark.parametrize(("share", "own"), [(0.7, 2), (0.75, 2), (0.5, 4), (0.3, 6), (0.9, 1)])
def test_every_batch_has_its_share_of_extra_images(share, own):
    batches = mixed(share)
    assert len(batches) == 5  # 40 // 8: an epoch is as long as without extra images
    order = batches.order(generator(0, "order"))
    assert order.shape == (40,)
    numbers = numbers_of(batches, order, range(5))
    assert ((numbers < 100).sum(1) == own).all()
    for step in range(5):
        _, y = batches.batch(order, step, generator(0, "x"))
        assert torch.equal(y, (numbers[step] >= 100).long())
    assert len(set(numbers.flatten().tolist())) == 40  # nothing comes twice
    assert not torch.equal(batches.order(generator(0, "order", 1)), order)
    assert torch.equal(mixed(share).order(generator(0, "order")), order)


def test_few_extra_images_come_again_as_evenly_as_can_be():
    batches = mixed(0.75, extra=7)
    numbers = numbers_of(batches, batches.order(generator(0, "order")), range(5)).flatten()
    times = numbers[numbers >= 100].bincount()[100:]
    assert times.sum() == 30
    assert set(times.tolist()) == {4, 5}


def test_all_images_come_equally_often_over_epochs():
    batches = mixed(0.5)
    counts = torch.zeros(190)
    for epoch in range(400):
        counts += (
            numbers_of(batches, batches.order(generator(0, "order", epoch)), range(5))
            .flatten()
            .bincount(minlength=190)
        )
    own, extra = counts[:40], counts[100:]
    assert (own - 200).abs().max() < 5 * (400 * 0.5 * 0.5) ** 0.5
    assert (extra - 400 * 20 / 90).abs().max() < 5 * (400 * 2 / 9 * 7 / 9) ** 0.5


def test_extra_images_are_cropped_and_mirrored_as_the_others():
    one = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    one[0, 0, 4, 4] = 255
    images, labels = one.expand(4000, -1, -1, -1), torch.zeros(4000, dtype=torch.int64)
    batches = Batches(Images(images, labels, Extra(images, labels, 0.5)), 4000, "cpu", "crop-flip")
    x, _ = batches.batch(batches.order(generator(0, "order")), 0, generator(0, "augmentation"))
    for half in (x[:2000], x[2000:]):
        seen = half.sum((0, 1))
        assert seen.sum() == 2000
        assert (seen - 2000 / 81).abs().max() < 5 * (2000 / 81) ** 0.5


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_batch_too_small_for_both_is_told(share):
    with pytest.raises(UserError, match=r"data.extra.share: a batch of 8 with a share of"):
        mixed(share)


def test_no_batch_with_extra_images_looks_at_a_value():
    with FakeTensorMode(allow_non_fake_inputs=True):
        batches = mixed(augment="crop-flip")
        x, y = batches.batch(batches.order(generator(0, "order")), 0, generator(0, "augmentation"))
    assert x.shape == (8, 3, 9, 9)
    assert y.shape == (8,)

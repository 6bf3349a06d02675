"""Minibatches against a loop over images."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from training.data import Images
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

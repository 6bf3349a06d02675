"""Images streamed from files: what is drawn for each, whoever decodes it, and a training on them."""

import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from training import checkpoint
from training.data import Stream, load
from training.data.batches import Batches
from training.data.files import Files
from training.data.stream import Streamed
from training.data.torchvision_import import transforms
from training.errors import Stopped, UserError
from training.fit import Control, fit
from training.randomness import generator
from training.resolve import resolve
from training.spec import DataSpec, TrialSpec

HEIGHT, WIDTH = 48, 64


def files_of(folder, count=11, size=16):
    """Red says which image it is, green its rows, blue its columns."""
    names = np.array([f"{i}.png" for i in range(count)], dtype=object)
    for i, name in enumerate(names):
        pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        pixels[..., 0] = 20 * i
        pixels[..., 1] = 4 * np.arange(HEIGHT)[:, None]
        pixels[..., 2] = 3 * np.arange(WIDTH)
        Image.fromarray(pixels).save(folder / name)
    return Files(folder, names, (3, size, size))


def order_of(count, epoch=0, seed=0):
    return torch.randperm(count, generator=generator(seed, "order", epoch))


def epoch_of(streamed, order, steps):
    return [streamed.batch(order, step, torch.Generator()) for step in steps]


def test_a_batch_is_a_random_part_of_every_image_scaled(tmp_path):
    files = files_of(tmp_path)
    order = order_of(11)
    for step, images in enumerate(epoch_of(Streamed(files, 4, "cpu", workers=0), order, range(2))):
        assert images.shape == (4, 3, 16, 16)
        assert images.dtype == torch.uint8
        for row, image in zip(order[4 * step : 4 * step + 4].tolist(), images, strict=True):
            assert (image[0] == 20 * row).all()
            assert (image[1].float().diff(dim=0) >= 0).all()  # never upside down
            assert (image[1].float().diff(dim=1).abs() <= 1).all()


def test_parts_are_drawn_as_torchvision_draws_them(tmp_path):
    """The same file 800 times: areas, shapes and mirroring against RandomResizedCrop's own draws."""
    files = files_of(tmp_path, 1)
    many = Files(tmp_path, np.repeat(files.names, 800), files.image)
    images = Streamed(many, 800, "cpu", workers=0).batch(order_of(800), 0, torch.Generator()).float()
    tall = (images[:, 1, -1].mean(1) - images[:, 1, 0].mean(1)) / 4
    wide = (images[:, 2, :, -1].mean(1) - images[:, 2, :, 0].mean(1)) / 3
    image = Image.open(files.path(0))
    drawn = [transforms().RandomResizedCrop.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(3000)]
    theirs = torch.tensor(drawn, dtype=torch.float)
    # from the middle of the first row to the middle of the last is 15/16 of the part
    assert (
        ks_2samp((tall * 16 / 15).numpy(), theirs[:, 2].numpy() + torch.rand(3000).numpy() - 0.5).statistic
        < 0.08
    )
    assert (
        ks_2samp(wide.abs() * 16 / 15, theirs[:, 3].numpy() + torch.rand(3000).numpy() - 0.5).statistic < 0.08
    )
    assert abs(float((wide < 0).float().mean()) - 0.5) < 5 * 0.5 / 800**0.5


def test_what_is_drawn_depends_on_epoch_and_image_alone(tmp_path):
    files = files_of(tmp_path)
    whole = epoch_of(Streamed(files, 4, "cpu", workers=0), order_of(11), range(2))
    assert torch.equal(Streamed(files, 4, "cpu", workers=0).batch(order_of(11), 1, None), whole[1])  # resumed
    one_by_one = epoch_of(Streamed(files, 1, "cpu", workers=0), order_of(11), range(8))
    assert torch.equal(torch.cat(one_by_one), torch.cat(whole))
    for other in (order_of(11, epoch=1), order_of(11, seed=1)):
        again = epoch_of(Streamed(files, 1, "cpu", workers=0), other, range(11))
        place = {row: i for i, row in enumerate(other.tolist())}
        same = [
            torch.equal(again[place[row]], one_by_one[i]) for i, row in enumerate(order_of(11)[:8].tolist())
        ]
        assert sum(same) < 2


def test_global_generators_are_left_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    epoch_of(Streamed(files_of(tmp_path), 4, "cpu", workers=0), order_of(11), range(2))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # where there is one core
def test_workers_change_nothing_and_tell_errors_in_one_sentence(tmp_path):
    files = files_of(tmp_path)
    alone = Streamed(files, 3, "cpu", workers=0)
    helped = Streamed(files, 3, "cpu", workers=2)
    first, second = order_of(11), order_of(11, epoch=1)
    epoch_of(helped, first, [0])
    workers = [str(worker.pid) for worker in helped._loader._iterator._workers]
    for name in ("-INT", "-TERM", "-USR2"):  # as a terminal or scancel sends them, to every process
        subprocess.run(["kill", name, *workers], check=True)
    for order, steps in ((first, range(3)), (second, range(1)), (second, range(1, 3)), (first, [2, 0, 1])):
        for one, other in zip(epoch_of(alone, order, steps), epoch_of(helped, order, steps), strict=True):
            assert torch.equal(one, other)
    file = tmp_path / f"{int(second[4])}.png"
    file.write_bytes(b"no image any more")
    for streamed in (alone, helped):
        epoch_of(streamed, second, [0])
        with pytest.raises(UserError) as told:
            epoch_of(streamed, second, [1])
        assert str(told.value) == f"data.root: {file} is no image"
    gone = tmp_path / f"{int(first[0])}.png"
    gone.unlink()
    with pytest.raises(UserError, match=r"cannot be read: No such file"):
        epoch_of(helped, first, [0])
    helped._loader._iterator._workers[0].terminate()
    helped._loader._iterator._workers[0].join(10)
    assert helped._loader._iterator._workers[0].exitcode == 0


def test_batches_of_files_are_numbers_in_0_to_1_with_their_labels(tmp_path):
    labels = torch.arange(11) % 3
    batches = Batches(Stream(files_of(tmp_path), labels), 4, "cpu", "resized-crop", channels_last=True)
    assert len(batches) == 2
    order = batches.order(generator(0, "order", 5))
    assert sorted(order.tolist()) == list(range(11))
    x, y = batches.batch(order, 1, generator(0, "augmentation", 5, 1))
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(x[:, 0, 0, 0] * 255 / 20, order[4:8].float())
    assert y.tolist() == labels[order[4:8]].tolist()
    with pytest.raises(UserError, match=r"train.batch_size: 12 is more than the 11 images"):
        Batches(Stream(files_of(tmp_path), labels), 12, "cpu", "resized-crop")


def trial(root, **data):
    facts = {
        "name": "image-folder",
        "root": str(root),
        "val": 0.2,
        "augment": "resized-crop",
        "size": 12,
    } | data
    return resolve(
        TrialSpec.model_validate(
            {
                "method": {"name": "pgd-at"},
                "data": facts,
                "model": {"name": "small-cnn", "width": 4},
                "train": {"epochs": 2, "batch_size": 8},
                "attack": {"eps": "8/255", "steps": 1},
            }
        )
    )


def test_a_training_on_streamed_images_resumes_to_the_same_weights(tmp_path):
    for part, count in (("train", 20), ("test", 3)):
        for c, name in enumerate(("ant", "bee")):
            (tmp_path / "own" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(100 * c + i).integers(0, 256, (14, 18, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "own" / part / name / f"{i}.jpg")
    spec = trial(tmp_path / "own")
    data = load(DataSpec.model_validate(spec.data.model_dump()))
    assert isinstance(data.train, Stream)

    def run(folder, control=Control()):
        given = {"key": "k", "device": torch.device("cpu"), "helpers": {}, "control": control}
        return list(fit(spec, data, tmp_path / folder, **given))

    run("whole")
    asked = iter(range(100))
    with pytest.raises(Stopped):
        run("cut", Control(stop=lambda: "signal" if next(asked) == 6 else None))
    assert checkpoint.position(tmp_path / "cut", "k") == (1, 2)
    run("cut")
    one, other = (
        checkpoint.load(tmp_path / name / checkpoint.LAST)["networks"]["student"] for name in ("whole", "cut")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)

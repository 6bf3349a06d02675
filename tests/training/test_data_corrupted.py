"""CIFAR-10-C and ImageNet-C in their published layouts, small."""

import pickle

import numpy as np
import pytest
from PIL import Image

from training.data.corrupted import CORRUPTIONS, FURTHER, SEVERITIES, cifar_c, imagenet_c
from training.data.files import Files
from training.errors import UserError

COUNT = 4  # images per severity


def cifar(root, classes=10, below="CIFAR-10-C"):
    """Pixel 0 of image i at severity s is 10 s + i."""
    folder = root / below
    folder.mkdir(parents=True)
    for number, name in enumerate(("fog", "saturate")):
        images = np.random.default_rng(number).integers(0, 256, (5 * COUNT, 32, 32, 3), np.uint8)
        images[:, 0, 0, 0] = [10 * s + i for s in SEVERITIES for i in range(COUNT)]
        np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", np.tile([3, 8, 8, 0], 5).astype(np.uint8))
    return folder


def test_there_are_fifteen_corruptions_and_four_more():
    assert (len(set(CORRUPTIONS)), len(set(FURTHER)), len(set(CORRUPTIONS + FURTHER))) == (15, 4, 19)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["fog", "saturate"])
def test_a_severity_is_its_fifth_of_the_array(tmp_path, name, severity):
    folder = cifar(tmp_path)
    for root in (tmp_path, folder):
        part = cifar_c(root, name, severity)
        assert part.images.shape == (COUNT, 3, 32, 32)
        assert part.images[:, 0, 0, 0].tolist() == [10 * severity + i for i in range(COUNT)]
        whole = np.load(folder / f"{name}.npy")[COUNT * (severity - 1) : COUNT * severity]
        assert np.array_equal(part.images.transpose(0, 2, 3, 1), whole)
        assert part.labels.tolist() == [3, 8, 8, 0]
    part.images[0] = 0  # a copy: the file is not written to
    assert np.array_equal(cifar_c(tmp_path, name, severity).images.transpose(0, 2, 3, 1), whole)
    assert cifar_c(tmp_path, name, severity, count=3).labels.tolist() == [3, 8, 8]


def test_a_hundred_classes_are_another_folder(tmp_path):
    folder = cifar(tmp_path, below="CIFAR-100-C")
    np.save(folder / "labels.npy", np.full(20, 99))
    assert cifar_c(tmp_path, "fog", 1, classes=100).labels.tolist() == [99] * 4


def refused(*arguments, **given):
    with pytest.raises(UserError) as told:
        cifar_c(*arguments, **given)
    message = str(told.value)
    assert message.startswith("data.root: ")
    assert "\n" not in message
    return message


def test_what_is_wrong_with_arrays_is_told(tmp_path):
    folder = cifar(tmp_path)
    file, labels = folder / "fog.npy", folder / "labels.npy"
    whole = file.read_bytes()
    assert "no corruption 'fogg' (did you mean 'fog'?)" in refused(tmp_path, "fogg", 1)
    assert "severity must be 1 to 5, got 0" in refused(tmp_path, "fog", 0)
    assert f"{folder / 'snow.npy'} is missing" in refused(tmp_path, "snow", 1)
    assert "5 images asked for, and there are 4" in refused(tmp_path, "fog", 1, count=5)
    for content in (whole[:-1], whole[:50], b"", b"no array", pickle.dumps({"a": 1})):
        file.write_bytes(content)
        assert f"{file} is truncated or damaged" in refused(tmp_path, "fog", 1)
    with file.open("wb") as stream:
        np.savez(stream, a=np.arange(3))
    assert f"{file} is an archive" in refused(tmp_path, "fog", 1)
    np.save(file, np.zeros((19, 32, 32, 3), np.uint8))
    assert "must be uint8 of shape (5 N, H, W, 3)" in refused(tmp_path, "fog", 1)
    np.save(file, np.zeros((20, 32, 32, 3)))
    assert "it is float64 of shape" in refused(tmp_path, "fog", 1)
    file.write_bytes(whole)
    np.save(labels, np.zeros(4, int))
    assert f"{labels} must hold 20 labels, its shape is (4,)" in refused(tmp_path, "fog", 1)
    np.save(labels, np.full(20, 10))
    assert "labels must be 0 to 9" in refused(tmp_path, "fog", 1)
    labels.unlink()
    assert f"{labels} is missing" in refused(tmp_path, "fog", 1)


def imagenet(root, below=""):
    for number, name in enumerate(("n02", "n01", "n03")):
        folder = root / below / "fog" / "2" / name
        folder.mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng(10 * number + i).integers(0, 256, (224, 224, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"ILSVRC2012_val_{i}.JPEG")
    return root


@pytest.mark.parametrize("below", ["", "weather"])
def test_imagenet_c_is_files_by_class(tmp_path, below):
    root = imagenet(tmp_path, below)
    part = imagenet_c(root, "fog", 2)
    assert isinstance(part.images, Files)
    assert part.labels.tolist() == [0, 1, 2, 0, 1, 2]
    pixels = part.pixels()
    assert pixels.shape == (6, 3, 224, 224)
    with Image.open(root / below / "fog" / "2" / "n02" / "ILSVRC2012_val_1.JPEG") as image:
        assert np.array_equal(pixels[4].transpose(1, 2, 0), np.asarray(image))
    some = imagenet_c(root, "fog", 2, classes=["n01", "n03"], size=112, count=3)
    assert some.labels.tolist() == [0, 1, 0]
    assert some.pixels().shape == (3, 3, 112, 112)


def test_what_is_wrong_with_folders_is_told(tmp_path):
    imagenet(tmp_path)
    for arguments, message in (
        (("fog", 3), "holds no folder fog/3"),
        (("snow", 2), "holds no folder snow/2"),
        (("blur", 2), "no corruption 'blur'"),
        (("fog", 6), "severity must be 1 to 5"),
    ):
        with pytest.raises(UserError, match=message):
            imagenet_c(tmp_path, *arguments)
    with pytest.raises(UserError, match=r"fog/2/n04 holds no image"):
        imagenet_c(tmp_path, "fog", 2, classes=["n01", "n04"])

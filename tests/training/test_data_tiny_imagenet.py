"""Tiny-ImageNet-200 in its published layout, a few classes of it made here."""

import numpy as np
import pytest
import torch
from PIL import Image

from training.data import digest, load
from training.data.torchvision_import import transforms
from training.errors import UserError
from training.spec import DataSpec

CLASSES = ("n02124075", "n01443537", "n04067472")  # as in wnids.txt, which is not sorted


def picture(seed, side=64):
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def write(root):
    """Four training images of each class, five validation images; returns the folder and its spec."""
    folder = root / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    picture(99).save(folder / "test" / "images" / "test_0.JPEG")
    (folder / "wnids.txt").write_text("\n".join(CLASSES))
    (folder / "words.txt").write_text("".join(f"{name}\tsomething, anything\n" for name in CLASSES))
    for c, name in enumerate(CLASSES):
        (folder / "train" / name / "images").mkdir(parents=True)
        for i in range(4):
            picture(10 * c + i).save(folder / "train" / name / "images" / f"{name}_{i}.JPEG")
        (folder / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t10\t63\t58\n")
    lines = []
    for i in (0, 1, 10, 2, 3):
        picture(50 + i).save(folder / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{CLASSES[i % 3]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder, DataSpec(name="tiny-imagenet", root=str(root))


def pixels(file):
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image.convert("RGB")).transpose(2, 0, 1))


def test_images_and_labels_are_those_of_the_files(tmp_path):
    folder, spec = write(tmp_path)
    data = load(spec)
    assert data.train.images.shape == (12, 3, 64, 64)
    assert data.classes == 3
    assert data.train.labels.tolist() == [0, 1, 2] * 4
    for i, image in enumerate(data.train.images):
        name = sorted(CLASSES)[i % 3]
        assert torch.equal(image, pixels(folder / "train" / name / "images" / f"{name}_{i // 3}.JPEG"))
    assert data.test.labels.tolist() == [sorted(CLASSES).index(CLASSES[i % 3]) for i in (0, 1, 10, 2, 3)]
    assert torch.equal(data.test.images[2], pixels(folder / "val" / "images" / "val_10.JPEG"))
    assert digest(spec) == digest(spec.model_copy(update={"root": str(folder)}))


def test_size_32_is_torchvisions_resize(tmp_path):
    folder, spec = write(tmp_path)
    data = load(spec.model_copy(update={"size": 32}))
    name = sorted(CLASSES)[1]
    resize = transforms().Resize(32)
    with Image.open(folder / "train" / name / "images" / f"{name}_2.JPEG") as image:
        assert torch.equal(data.train.images[7], transforms().PILToTensor()(resize(image)))
    assert data.test.images.shape == (5, 3, 32, 32)
    assert digest(spec) != digest(spec.model_copy(update={"size": 32}))


def test_the_digest_sees_a_label_and_a_pixel(tmp_path):
    folder, spec = write(tmp_path)
    seen = {digest(spec)}
    notes = folder / "val" / "val_annotations.txt"
    lines = notes.read_text().splitlines()
    notes.write_text("\n".join([lines[0].replace(CLASSES[0], CLASSES[1]), *lines[1:]]))
    seen.add(digest(spec))
    picture(77).save(folder / "train" / CLASSES[0] / "images" / f"{CLASSES[0]}_0.JPEG")
    seen.add(digest(spec))
    assert len(seen) == 3


def spoil(folder, how):
    """One thing wrong, and what is said of it."""
    notes, images = folder / "val" / "val_annotations.txt", folder / "val" / "images"
    first = folder / "train" / CLASSES[0] / "images" / f"{CLASSES[0]}_0.JPEG"
    if how == "an image missing":
        (images / "val_10.JPEG").unlink()
        return f"{images / 'val_10.JPEG'} is missing; val_annotations.txt names it"
    if how == "an image without a label":
        picture(1).save(images / "val_7.JPEG")
        return f"{images / 'val_7.JPEG'} has no label in val_annotations.txt"
    if how == "an unknown class":
        notes.write_text(notes.read_text() + "val_4.JPEG\tn00000001\t0\t0\t1\t1\n")
        return f"{notes}, line 6: should be an image, a tab, a class of wnids.txt"
    if how == "a broken line":
        notes.write_text("val_0.JPEG\n" + notes.read_text())
        return f"{notes}, line 1: should be"
    if how == "a line twice":
        notes.write_text(notes.read_text() + notes.read_text().splitlines()[0] + "\n")
        return f"{notes}, line 6: val_0.JPEG is there twice"
    if how == "no annotations":
        notes.unlink()
        return f"{notes} is missing; nothing is downloaded"
    if how == "empty annotations":
        notes.write_text("")
        return f"{notes} is empty"
    if how == "bytes for annotations":
        notes.write_bytes(b"\xff\xfe\x00")
        return f"{notes} cannot be read"
    if how == "no wnids":
        (folder / "wnids.txt").unlink()
        return f"{folder / 'wnids.txt'} is missing"
    if how == "no class":
        (folder / "wnids.txt").write_text("\n")
        return f"{folder / 'wnids.txt'} names 0 classes"
    if how == "a class without images":
        (folder / "wnids.txt").write_text("\n".join([*CLASSES, "n09999999"]))
        return f"{folder / 'train' / 'n09999999'} holds no image"
    if how == "truncated":
        first.write_bytes(first.read_bytes()[:400])
        return f"{first} is truncated or damaged"
    if how == "no image":
        first.write_text("no image")
        return f"{first} is no image"
    assert how == "another size"
    picture(1, 32).save(first)
    return f"{first} has 32 x 32 pixels instead of 64 x 64"


FAULTS = [
    "an image missing",
    "an image without a label",
    "an unknown class",
    "a broken line",
    "a line twice",
    "no annotations",
    "empty annotations",
    "bytes for annotations",
    "no wnids",
    "no class",
    "a class without images",
    "truncated",
    "no image",
    "another size",
]


@pytest.mark.parametrize("how", FAULTS)
def test_what_is_wrong_is_told_in_one_sentence(tmp_path, how):
    folder, spec = write(tmp_path)
    message = spoil(folder, how)
    with pytest.raises(UserError) as told:
        load(spec)
    assert message in str(told.value)
    assert str(told.value).startswith(f"data.root: {folder}")
    assert "\n" not in str(told.value)

"""Images as files in class folders: decoded as Pillow and torchvision do, listed in turns, and everything wrong."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from training.data import Images, Stream, digest, load, split
from training.data.files import Files
from training.data.torchvision_import import datasets, transforms
from training.errors import UserError
from training.spec import DataSpec


def picture(seed, height=12, width=10, mode="RGB"):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(
        0, 256, (height // 4 + 1, width // 4 + 1, *channels), np.uint8
    )
    return Image.fromarray(pixels, mode).resize((width, height), Image.Resampling.BICUBIC)


def write(root, classes=("ant", "bee"), parts=("train", "test"), count=3, ending="jpg", **form):
    """``count`` images of each class in each part (one in the second part)."""
    seed = 0
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count if part == "train" else 1):
                seed += 1
                picture(seed, **form).save(root / part / name / f"{i:04d}.{ending}")
    return DataSpec(name="image-folder", root=str(root))


def pillow(file, mode="RGB"):
    with Image.open(file) as image:
        return np.asarray(image.convert(mode))


@pytest.mark.parametrize("ending", ["jpg", "png", "JPEG"])
def test_pixels_are_those_that_pillow_decodes_and_classes_take_turns(tmp_path, ending):
    data = load(write(tmp_path, classes=("bee", "ant"), ending=ending))
    assert data.train.images.shape == (6, 3, 12, 10)
    assert data.train.labels.tolist() == [0, 1] * 3  # so the first N are of all classes
    assert data.test.labels.tolist() == [0, 1]
    for i, image in enumerate(data.train.images.numpy()):
        file = tmp_path / "train" / ("ant", "bee")[i % 2] / f"{i // 2:04d}.{ending}"
        assert np.array_equal(image, pillow(file).transpose(2, 0, 1))
    pixels = data.train.images.numpy() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)))
    assert data.std == pytest.approx(pixels.std((0, 2, 3)))
    assert (data.classes, data.train.images.dtype) == (2, torch.uint8)


def test_labels_are_torchvisions(tmp_path):
    write(tmp_path, classes=("b", "a10", "a2", "B"))
    theirs = datasets().ImageFolder(str(tmp_path / "train"))
    data = load(DataSpec(name="image-folder", root=str(tmp_path), augment="resized-crop"))
    expected = {str(file): label for file, label in theirs.samples}
    ours = {data.train.images.path(i): int(label) for i, label in enumerate(data.train.labels)}
    assert ours == expected


def test_sizes_that_do_not_divide_take_turns_as_long_as_they_last(tmp_path):
    spec = write(tmp_path, count=2)
    for i in range(2, 5):
        picture(i).save(tmp_path / "train" / "bee" / f"{i:04d}.jpg")
    assert load(spec).train.labels.tolist() == [0, 1, 0, 1, 1, 1, 1]
    some = load(spec.model_copy(update={"train_size": 3, "test_size": 1}))
    assert some.train.labels.tolist() == [0, 1, 0]
    assert len(some.test.images) == 1


def test_gray_images_stay_gray_and_may_stand_among_coloured_ones(tmp_path):
    gray = load(write(tmp_path / "gray", mode="L", ending="png"))
    assert gray.train.images.shape == (6, 1, 12, 10)
    assert np.array_equal(
        gray.train.images[0, 0], pillow(tmp_path / "gray" / "train" / "ant" / "0000.png", "L")
    )
    spec = write(tmp_path / "mixed", ending="png")
    picture(50, mode="L").save(tmp_path / "mixed" / "train" / "bee" / "0001.png")
    picture(51, mode="RGBA").save(tmp_path / "mixed" / "train" / "bee" / "0002.png")
    mixed = load(spec).train.images
    assert torch.equal(mixed[3, 0], mixed[3, 2])
    picture(52).save(tmp_path / "gray" / "train" / "bee" / "0002.png")
    with pytest.raises(UserError, match=r"bee/0002.png is in colour, and the first image .* is gray"):
        load(DataSpec(name="image-folder", root=str(tmp_path / "gray")))


@pytest.mark.parametrize(("height", "width"), [(40, 30), (17, 33), (20, 20), (9, 11)])
def test_a_size_scales_the_short_side_and_takes_the_middle(tmp_path, height, width):
    spec = write(tmp_path, height=height, width=width).model_copy(update={"size": 14})
    data = load(spec)
    library = transforms()
    theirs = library.Compose([library.Resize(14), library.CenterCrop(14), library.PILToTensor()])
    assert data.train.images.shape == (6, 3, 14, 14)
    for part, images in (("train", data.train.images), ("test", data.test.images)):
        for i, image in enumerate(images):
            with Image.open(tmp_path / part / ("ant", "bee")[i % 2] / f"{i // 2:04d}.jpg") as file:
                assert torch.equal(image, theirs(file))


def test_what_is_no_image_by_its_name_does_not_count(tmp_path):
    spec = write(tmp_path)
    before = digest(spec)
    (tmp_path / "train" / "ant" / "boxes.txt").write_text("x")
    (tmp_path / "train" / "ant" / "._0000.jpg").write_text("left by an archiver")
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "readme.jpg").write_text("not in a class")
    assert digest(spec) == before
    assert len(load(spec).train.labels) == 6


def test_folders_within_class_folders_and_links_are_followed(tmp_path):
    write(tmp_path / "there")
    (tmp_path / "here" / "train" / "ant").mkdir(parents=True)
    (tmp_path / "here" / "train" / "ant" / "images").symlink_to(tmp_path / "there" / "train" / "ant")
    (tmp_path / "here" / "train" / "bee").symlink_to(tmp_path / "there" / "train" / "bee")
    (tmp_path / "here" / "val").symlink_to(tmp_path / "there" / "test")
    here, there = (load(DataSpec(name="image-folder", root=str(tmp_path / w))) for w in ("here", "there"))
    assert torch.equal(here.train.images, there.train.images)
    assert torch.equal(here.test.images, there.test.images)


def test_the_digest_is_of_names_and_contents_not_of_places(tmp_path):
    one, moved = write(tmp_path / "one"), write(tmp_path / "elsewhere" / "moved")
    assert digest(one) == digest(moved)
    changed = [write(tmp_path / str(i)) for i in range(4)]
    file = tmp_path / "0" / "test" / "bee" / "0000.jpg"
    file.write_bytes(file.read_bytes()[:-3] + b"\0" + file.read_bytes()[-2:])  # of the same length
    (tmp_path / "1" / "train" / "bee" / "0001.jpg").rename(tmp_path / "1" / "train" / "bee" / "0009.jpg")
    (tmp_path / "2" / "train" / "bee" / "0002.jpg").rename(tmp_path / "2" / "train" / "ant" / "0003.jpg")
    changed[3] = one.model_copy(update={"size": 9})
    assert len({digest(spec) for spec in [one, *changed]}) == 5


def test_a_digest_of_files_needs_no_torch(tmp_path):
    spec = write(tmp_path)
    program = "import sys; from training.data import digest; from training.spec import DataSpec;"
    program += f"digest(DataSpec(name='image-folder', root={spec.root!r}, size=8)); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def spoilt(root, how):
    """A folder with one thing wrong, and what is said."""
    write(root)
    file = root / "train" / "bee" / "0001.jpg"
    whole = file.read_bytes()
    if how == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
        return f"{file} is truncated or damaged"
    if how == "no image":
        file.write_text("this is no image")
        return f"{file} is no image"
    if how == "empty":
        file.write_bytes(b"")
        return f"{file} is no image"
    if how == "a damaged png":
        file.unlink()
        file = file.with_suffix(".png")
        picture(1).save(file)
        file.write_bytes(file.read_bytes()[:60] + b"\xff" * 20 + file.read_bytes()[80:])
        return f"{file} is "
    if how == "16 bit":
        file.unlink()
        file = file.with_suffix(".png")
        Image.fromarray(np.zeros((12, 10), np.uint16)).save(file)
        return f"{file} has more than 8 bits"
    if how == "another size":
        picture(0, 13, 10).save(file)
        return f"{file} has 10 x 13 pixels instead of 10 x 12; data.size scales images"
    if how == "a broken link":
        file.unlink()
        file.symlink_to(root / "nowhere.jpg")
        return f"{file} cannot be read: No such file"
    if how == "an empty class":
        (root / "train" / "cat").mkdir()
        (root / "test" / "cat").mkdir()
        return f"{root / 'train' / 'cat'} holds no image"
    if how == "a class only tested":
        (root / "test" / "cat").mkdir()
        return f"{root} has class 'cat' in only one of train and test"
    if how == "a class never tested":
        (root / "test" / "bee" / "0000.jpg").unlink()
        (root / "test" / "bee").rmdir()
        return f"{root} has class 'bee' in only one"
    if how == "no classes":
        (root / "train").rename(root / "old")
        (root / "train").mkdir()
        return f"{root / 'train'} holds no class folders"
    assert how == "no test"
    (root / "test").rename(root / "tests")
    return "must hold folders train and test"


FAULTS = [
    "truncated",
    "no image",
    "empty",
    "a damaged png",
    "16 bit",
    "another size",
    "a broken link",
    "an empty class",
    "a class only tested",
    "a class never tested",
    "no classes",
    "no test",
]


@pytest.mark.parametrize("how", FAULTS)
def test_what_is_wrong_is_told_in_one_sentence(tmp_path, how):
    message = spoilt(tmp_path, how)
    with pytest.raises(UserError) as told:
        load(DataSpec(name="image-folder", root=str(tmp_path)))
    assert message in str(told.value)
    assert str(told.value).startswith(f"data.root: {tmp_path}")
    assert "\n" not in str(told.value)


def test_a_single_class_is_told(tmp_path):
    with pytest.raises(UserError, match="holds 1 class folders, at least 2 are needed"):
        load(write(tmp_path, classes=("ant",)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about tags of TIFF
def test_damage_anywhere_is_told_or_harmless(tmp_path):
    """Whatever is damaged in a file: an array comes of it, or one sentence."""
    draw = np.random.default_rng(0)
    told = []
    for ending in ("png", "jpg", "bmp", "tif", "webp", "ppm"):
        file = tmp_path / f"x.{ending}"
        picture(1).save(file)
        whole = file.read_bytes()
        for _ in range(60):
            broken = bytearray(whole)
            for at in draw.integers(len(whole), size=4):
                broken[at] ^= int(draw.integers(1, 256))
            file.write_bytes(broken[: draw.integers(1, len(whole) + 1)] if draw.integers(2) else broken)
            try:
                Files(tmp_path, np.array([file.name], dtype=object), (3, 12, 10)).read()
            except UserError as error:
                told.append(str(error).startswith(f"data.root: {file}"))
    assert len(told) > 100
    assert all(told)


def test_an_error_ends_the_reading_and_many_files_come_in_their_order(tmp_path):
    names = np.array([f"{i}.png" for i in range(200)], dtype=object)
    for i, name in enumerate(names):
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(tmp_path / name)
    files = Files(tmp_path, names, (1, 2, 2))
    assert files.read()[:, 0, 0, 0].tolist() == list(range(200))
    assert files[50:60].read()[:, 0, 1, 1].tolist() == list(range(50, 60))
    assert files[np.arange(200) % 100 == 7].read()[:, 0, 0, 0].tolist() == [7, 107]
    (tmp_path / "130.png").unlink()
    with pytest.raises(UserError, match=r"130.png cannot be read"):
        files.read()


def test_only_images_in_files_can_be_streamed(tmp_path):
    with pytest.raises(UserError, match=r"data.augment: resized-crop is for images in files .*'digits'"):
        load(DataSpec(name="digits", augment="resized-crop"))
    with pytest.raises(UserError, match=r"data.size: 'digits' comes in one size"):
        digest(DataSpec(name="digits", size=8))
    spec = write(tmp_path).model_copy(update={"augment": "resized-crop"})
    data = load(spec)
    assert isinstance(data.train, Stream)
    assert isinstance(data.test, Images)
    assert tuple(data.train.images.shape) == (6, 3, 12, 10)


def test_streamed_images_are_split_without_reading_them(tmp_path):
    spec = write(tmp_path, count=10)
    held_in_memory = split(load(spec).train, 0.2, 3)
    streamed = split(load(spec.model_copy(update={"augment": "resized-crop"})).train, 0.2, 3)
    for one, other in zip(held_in_memory, streamed, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
    assert torch.equal(torch.from_numpy(streamed[0].images.read()), held_in_memory[0].images)
    assert torch.equal(streamed[1].images, held_in_memory[1].images)
    for file in (tmp_path / "train").rglob("*.jpg"):
        file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        split(Stream(streamed[0].images, streamed[0].labels), 0.2, 0)[1].images  # noqa: B018


def imagenet(root, classes, size=(40, 30)):
    write(root, classes, ("train", "val"), count=2, ending="JPEG", height=size[0], width=size[1])
    return root


def test_imagenet_test_images_are_torchvisions_resize_and_centre_crop(tmp_path):
    names = [f"n{i:08d}" for i in range(100)]
    imagenet(tmp_path, names[:98], (300, 260))
    imagenet(tmp_path, names[98:], (230, 280))
    data = load(DataSpec(name="imagenet-100", root=str(tmp_path), augment="resized-crop"))
    assert tuple(data.train.images.shape) == (200, 3, 224, 224)
    assert data.test.images.shape == (100, 3, 224, 224)
    assert data.mean == (0.485, 0.456, 0.406)
    library = transforms()
    theirs = library.Compose([library.Resize(256), library.CenterCrop(224), library.PILToTensor()])
    for i in (0, 98):
        with Image.open(tmp_path / "val" / names[i] / "0000.JPEG") as file:
            assert torch.equal(data.test.images[i], theirs(file))
    small = load(
        DataSpec(name="imagenet-100", root=str(tmp_path), size=56)
    )  # without streaming: all in memory
    theirs = library.Compose([library.Resize(64), library.CenterCrop(56), library.PILToTensor()])
    assert small.train.images.shape == (200, 3, 56, 56)
    with Image.open(tmp_path / "train" / names[1] / "0001.JPEG") as file:
        assert torch.equal(small.train.images[101], theirs(file))


def test_imagenet_100_may_be_a_list_beside_all_classes(tmp_path):
    names = [f"n{i:08d}" for i in range(103)]
    imagenet(tmp_path / "all", names)
    imagenet(tmp_path / "some", names[3:])
    spec = DataSpec(name="imagenet-100", root=str(tmp_path / "all"), size=8, augment="resized-crop")
    with pytest.raises(
        UserError, match=r"has 103 classes instead of 100; .* list their names in .*classes.txt"
    ):
        load(spec)
    (tmp_path / "all" / "classes.txt").write_text("# ours\n\n" + "\n".join(reversed(names[3:])) + "\n")
    data = load(spec)
    assert data.classes == 100
    some = load(spec.model_copy(update={"root": str(tmp_path / "some")}))
    assert data.test.labels.tolist() == some.test.labels.tolist()
    assert list(data.train.images.names) == list(some.train.images.names)
    (tmp_path / "all" / "classes.txt").write_text("\n".join([*names[4:], "n1"]))
    with pytest.raises(UserError, match=r"classes.txt lists 'n1', and train has no such folder"):
        load(spec)


def test_imagenet_has_a_thousand_classes_and_goes_by_names_and_sizes(tmp_path):
    spec = DataSpec(name="imagenet", root=str(tmp_path), augment="resized-crop")
    for i in range(1000):
        for part in ("train", "val"):
            (tmp_path / part / f"n{i:08d}").mkdir(parents=True)
            (tmp_path / part / f"n{i:08d}" / "a.JPEG").write_bytes(
                bytes(i % 3 + 1)
            )  # a digest does not look inside
    first = digest(spec)
    (tmp_path / "train" / "n00000000" / "a.JPEG").write_bytes(b"x")
    assert digest(spec) == first
    (tmp_path / "train" / "n00000000" / "a.JPEG").write_bytes(b"xx")
    assert digest(spec) != first
    (tmp_path / "val" / "n00000007" / "a.JPEG").unlink()
    with pytest.raises(UserError, match=r"val/n00000007 holds no image"):
        digest(spec)
    (tmp_path / "train" / "n00000007" / "a.JPEG").unlink()
    (tmp_path / "train" / "n00000007").rmdir()
    with pytest.raises(UserError, match=r"train has 999 class folders, ImageNet has 1000"):
        digest(spec)

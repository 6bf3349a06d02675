"""Extra images: RST's pickle without running it, generated images as .npz, and what of them is wrong."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data import array_pickle, digest, load, split
from training.errors import UserError
from training.spec import DataSpec


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def own(root, shape=(8, 8, 3), classes=3):
    arrays = {
        "train_images": pixels(12, *shape),
        "train_labels": np.arange(12) % classes,
        "test_images": pixels(4, *shape, seed=1),
        "test_labels": np.arange(4) % classes,
    }
    np.savez(root / "own.npz", **arrays)
    return {"name": "npz", "root": str(root / "own.npz")}


def spec_of(root, file, share=0.5, given=None):
    extra = {"extra": {"path": str(file), "share": share}}
    return DataSpec.model_validate((given or own(root)) | extra)


def rst(**changed):
    """What RST's file holds, small."""
    return {"data": pixels(7, 8, 8, 3, seed=2), "extrapolated_targets": np.arange(7) % 3} | changed


def written(held, protocol=4, core="numpy._core"):
    """A pickle as Python 3 writes it under NumPy 2 (numpy._core) or NumPy 1 (numpy.core)."""
    content = pickle.dumps(held, protocol)
    assert b"numpy._core." in content
    if core == "numpy._core":
        return content
    if protocol < 4:  # names end in a newline
        return content.replace(b"cnumpy._core.", b"cnumpy.core.")
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):  # a byte says how long a name is
        old = b"\x8c" + bytes([len(name)]) + name
        new = b"\x8c" + bytes([len(name) - 1]) + name.replace(b"_core", b"core")
        cut = content.count(old)
        content = content.replace(old, new)
        frame = int.from_bytes(content[3:11], "little") - cut
        content = content[:3] + frame.to_bytes(8, "little") + content[11:]
    return content


@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of its old spelling
def test_arrays_come_back_as_pickle_itself_reads_them(tmp_path, protocol, core):
    held = {
        "bytes": pixels(3, 4),
        "columns": np.asfortranarray(pixels(3, 4)),
        "big-endian": np.arange(5, dtype=">i4"),
        "floats": np.linspace(0, 1, 7),
        "flags": np.array([True, False]),
        "list": [1, 2, "x", None, (3.5, b"y")],
        "inner": {"labels": np.arange(4)},
        "number": np.int64(5),
    }
    file = tmp_path / "x.pickle"
    file.write_bytes(written(held, protocol, core))
    ours, theirs = array_pickle.load(file, "field"), pickle.loads(file.read_bytes())
    assert ours.keys() == theirs.keys()
    for name in ("bytes", "columns", "big-endian", "floats", "flags"):
        assert ours[name].dtype.newbyteorder("=") == theirs[name].dtype.newbyteorder("=")
        assert np.array_equal(ours[name], theirs[name])
    assert ours["list"] == theirs["list"]
    assert np.array_equal(ours["inner"]["labels"], np.arange(4))
    assert ours["number"] == 5


class Malicious:
    """Pickled, it is a call that leaves a file behind."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(trace):
    import builtins
    import os
    import subprocess

    yield "posix.system", Malicious(os.system, f"touch {trace}")
    yield "Popen", Malicious(subprocess.Popen, ["touch", str(trace)])
    yield "exec", Malicious(builtins.exec, f"open({str(trace)!r}, 'w')")
    yield "open", Malicious(open, str(trace), "w")
    yield "getattr", Malicious(Path(trace).touch)
    yield "numpy.save", Malicious(np.save, str(trace), 1)
    yield "numpy.fromfile", Malicious(np.fromfile, "/dev/zero", "u1", 4)
    yield "values of type object", np.array([Malicious(os.system, f"touch {trace}")], dtype=object)


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_do_something_is_refused_and_does_nothing(tmp_path, number, protocol):
    trace, file = tmp_path / "trace", tmp_path / "x.pickle"
    name, malicious = list(attacks(trace))[number]
    for held in (malicious, {"data": malicious, "extrapolated_targets": [1]}, [pixels(2, 2), malicious]):
        file.write_bytes(pickle.dumps(held, protocol))
        with pytest.raises(UserError, match=rf"x.pickle wants to load .*{name}.*nothing of the file was run"):
            array_pickle.load(file, "data.extra.path")
        assert not trace.exists()
    if number == 0:  # the test can fail
        pickle.loads(file.read_bytes())
        assert trace.exists()


def test_a_damaged_pickle_is_told_or_read(tmp_path):
    file, whole = tmp_path / "x.pickle", pickle.dumps(rst())
    draw = np.random.default_rng(0)
    told = []
    for _ in range(400):
        broken = bytearray(whole)
        broken[draw.integers(len(whole))] ^= int(draw.integers(1, 256))
        file.write_bytes(broken[: draw.integers(len(whole))] if draw.integers(2) else broken)
        try:
            array_pickle.load(file, "data.extra.path")
        except UserError as error:
            told.append(str(error))
    assert len(told) > 200
    assert all(sentence.startswith(f"data.extra.path: {file}") for sentence in told)


@pytest.mark.parametrize("ending", ["pickle", "pkl", "npz"])
def test_extra_images_are_those_of_the_file(tmp_path, ending):
    file, held = tmp_path / f"extra.{ending}", rst()
    if ending == "npz":
        np.savez(file, image=held["data"], label=held["extrapolated_targets"])
    else:
        file.write_bytes(pickle.dumps(held))
    data = load(spec_of(tmp_path, file, 0.7))
    assert torch.equal(data.train.extra.images, torch.from_numpy(held["data"].transpose(0, 3, 1, 2)))
    assert data.train.extra.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.train.extra.labels.dtype == torch.int64
    assert data.train.extra.share == 0.7
    assert data.test.extra is None
    plain = load(DataSpec.model_validate(own(tmp_path)))
    assert torch.equal(data.train.images, plain.train.images)
    assert (data.mean, data.std) == (plain.mean, plain.std)
    train, val = split(data.train, 0.25, 0)
    assert train.extra is data.train.extra
    assert val.extra is None


def test_labels_may_be_a_list_and_images_channels_first(tmp_path):
    file = tmp_path / "x.pickle"
    images = pixels(7, 3, 8, 8, seed=2)
    file.write_bytes(
        pickle.dumps({"data": images, "extrapolated_targets": [0, 1, 2, 0, 1, 2, 0], "more": "x"})
    )
    extra = load(spec_of(tmp_path, file)).train.extra
    assert torch.equal(extra.images, torch.from_numpy(images))
    extra.images[0] = 0  # as any other images, they can be written


def test_the_digest_sees_extra_images_but_not_their_place_or_packing(tmp_path):
    held, places = rst(), [tmp_path / name for name in ("a.pickle", "b.pkl", "c.npz", "d.pkl", "e.pkl")]
    places[0].write_bytes(pickle.dumps(held, 2))
    places[1].write_bytes(pickle.dumps(held, 5))
    np.savez(places[2], image=held["data"], label=held["extrapolated_targets"])
    places[3].write_bytes(pickle.dumps(rst(data=pixels(7, 8, 8, 3, seed=9))))
    places[4].write_bytes(pickle.dumps(rst(extrapolated_targets=np.zeros(7, int))))
    plain = digest(DataSpec.model_validate(own(tmp_path)))
    seen = [digest(spec_of(tmp_path, place)) for place in places]
    assert seen[0] == seen[1] == seen[2]
    assert len({plain, *seen}) == 4


BAD = {
    "another shape": (
        rst(data=pixels(7, 9, 8, 3)),
        r"images of shape \(3, 9, 8\), .* data set are \(3, 8, 8\)",
    ),
    "gray": (rst(data=pixels(7, 8, 8)), r"images of shape \(1, 8, 8\)"),
    "a label too high": (
        rst(extrapolated_targets=np.arange(7)),
        "labels must be 0 to 2, they go from 0 to 6",
    ),
    "a negative label": (
        rst(extrapolated_targets=np.arange(7) - 1),
        "labels must be 0 to 2, they go from -1",
    ),
    "labels too few": (rst(extrapolated_targets=np.arange(6) % 3), "there are 7 images but 6 labels"),
    "labels in between": (
        rst(extrapolated_targets=np.arange(7) / 3),
        "labels must be a row of whole numbers",
    ),
    "pixels in [0, 1]": (rst(data=pixels(7, 8, 8, 3) / 255), "images must be uint8"),
    "a list of images": (rst(data=[[1, 2]]), "data must be an array, it is of type list"),
    "other names": ({"images": pixels(7, 8, 8, 3)}, "must hold a dict with data and extrapolated_targets"),
    "an array": (pixels(7, 8, 8, 3), "must hold a dict with data and extrapolated_targets"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_wrong_with_a_pickle_is_told(tmp_path, fault):
    held, message = BAD[fault]
    file = tmp_path / "x.pickle"
    file.write_bytes(pickle.dumps(held))
    with pytest.raises(UserError, match=message) as told:
        load(spec_of(tmp_path, file))
    assert str(told.value).startswith(f"data.extra.path: {file}")
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=message):
        digest(spec_of(tmp_path, file))


def test_what_is_wrong_with_other_files_is_told(tmp_path):
    def refused(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as told:
            load(spec_of(tmp_path, tmp_path / name))
        return str(told.value)

    assert (
        refused("none.npz") == f"data.extra.path: {tmp_path}/none.npz does not exist; nothing is downloaded"
    )
    assert "should end in .pickle, .npz or .mat" in refused("x.csv", b"1")
    assert "is damaged, or holds Python objects" in refused("x.npz", b"no archive")
    np.savez(tmp_path / "o.npz", other=pixels(2, 2))
    assert refused("o.npz").endswith("must hold images and labels, or image and label; it holds other")
    whole = pickle.dumps(rst())
    assert "is truncated or damaged" in refused("x.pickle", whole[:-100])


def test_streamed_images_cannot_be_joined(tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels(8, 8, 3)).save(tmp_path / part / name / "0.png")
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(rst(extrapolated_targets=[0] * 7)))
    folder = {"name": "image-folder", "root": str(tmp_path)}
    assert len(load(spec_of(tmp_path, tmp_path / "x.pickle", given=folder)).train.extra.labels) == 7
    with pytest.raises(UserError, match=r"data.extra: resized-crop streams images"):
        load(spec_of(tmp_path, tmp_path / "x.pickle", given=folder | {"augment": "resized-crop"}))

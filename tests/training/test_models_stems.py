"""Stems: what becomes of images of each size, which are too small, and that BatchNorm can still be folded."""

import pytest
import torch
from test_models import FAMILIES, images, network_of
from torch import nn

from evaluation.folding import folded
from training.errors import UserError
from training.models import MODELS

RESIDUAL = [name for name in FAMILIES if "stem" in MODELS.entries[name].parameters]
POSITIONS = {  # of the last feature map, by stem, for sides of 32, 64 and 224 pixels
    "cifar": (4, 8, 28),
    "64": (2, 4, 14),
    "imagenet": (1, 2, 7),
}
TWICE = ["wrn", "lbgat-resnet18"]  # their stages halve once less


@pytest.mark.parametrize("stem", POSITIONS)
@pytest.mark.parametrize("name", RESIDUAL)
def test_every_stem_takes_images_of_its_size(name, stem):
    for side, positions in zip((32, 64, 224), POSITIONS[stem], strict=True):
        with torch.device("meta"):
            network = network_of(name, (3, side, side), classes=5, stem=stem, width=8)
            x = torch.zeros(2, 3, side, side)
            maps = network.body[:-2](x)
            assert network.head(network.body[-2:](maps)).shape == (2, 5)
        times = 2 if name in TWICE else 1
        assert maps.shape[2:] == (times * positions, times * positions)


def test_every_residual_network_has_stems():
    without = {name for name, entry in MODELS.entries.items() if "stem" not in entry.parameters}
    assert without == {"mlp", "toy-mlp", "small-cnn", "small-cnn-4x4"}


def test_images_need_not_be_square():
    with torch.device("meta"):
        network = network_of("resnet50", (3, 64, 96))
        assert network.body[:-2](torch.zeros(2, 3, 64, 96)).shape == (2, 2048, 2, 3)


def test_stems_have_the_strides_of_the_programs():
    firsts = {}
    for name in ("resnet18", "preact-resnet18"):
        for stem in POSITIONS:
            with torch.device("meta"):
                conv = network_of(name, (3, 64, 64), stem=stem).body[0]
            firsts[name, stem] = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    assert firsts == {
        ("resnet18", "cifar"): (3, 1, 1),
        ("resnet18", "64"): (3, 2, 1),
        ("resnet18", "imagenet"): (7, 2, 3),
        ("preact-resnet18", "cifar"): (3, 1, 1),
        ("preact-resnet18", "64"): (3, 2, 1),
        ("preact-resnet18", "imagenet"): (7, 2, 1),
    }


@pytest.mark.parametrize(
    ("name", "chosen", "shape", "message"),
    [
        (
            "resnet50",
            {},
            (3, 16, 32),
            r"model.stem: 'imagenet' needs images of at least 32x32 pixels in this model, the data are 16x32;"
            r" stem 'cifar' or '64' would do",
        ),
        ("resnet18", {"stem": "64"}, (1, 15, 15), r"at least 16x16 .* 15x15; stem 'cifar' would do"),
        (
            "preact-resnet18",
            {},
            (1, 7, 7),
            r"'cifar' needs images of at least 8x8 pixels in this model, .* 7x7$",
        ),
        ("wrn", {}, (1, 1, 3), r"at least 4x4 pixels in this model, the data are 1x3$"),
        ("lbgat-resnet18", {"stem": "imagenet"}, (3, 8, 8), r"at least 16x16 .* 'cifar' or '64' would do"),
        ("wrn", {"form": "gowal"}, (1, 14, 14), r"model.form: 'gowal' needs .* multiples of 4 pixels"),
        ("preact-resnet18", {"form": "gowal", "stem": "64"}, (3, 64, 64), r"needs stem 'cifar' .* '64'"),
    ],
)
def test_images_that_do_not_fit_are_told(name, chosen, shape, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        network_of(name, shape, **chosen)


@pytest.mark.parametrize("stem", POSITIONS)
@pytest.mark.parametrize("name", RESIDUAL)
def test_the_smallest_images_that_are_taken_work(name, stem):
    side = {"cifar": 8, "64": 16, "imagenet": 32}[stem] // (2 if name in TWICE else 1)
    with torch.device("meta"):
        network = network_of(name, (1, side, side), stem=stem, width=8)
        assert network.body[:-2](torch.zeros(2, 1, side, side)).shape[2:] == (1, 1)
        with pytest.raises(UserError, match="at least"):
            network_of(name, (1, side, side - 1), stem=stem, width=8)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("resnet18", {"stem": 64}, {"stem": "64"}),
        ("wrn", {"depth": 16, "widen": 4}, {"depth": 16, "widen": 4, "stem": "cifar", "form": "usual"}),
        ("resnet50", {}, {"stem": "imagenet", "width": 64}),
    ],
)
def test_parameters_as_a_file_gives_them(name, given, expected):
    resolved = MODELS.get(name, "model.name").resolve(given, "model")
    assert expected.items() <= resolved.items()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("resnet18", {"stem": 32}, "model.stem: should be 'cifar', '64' or 'imagenet'"),
        ("resnet18", {"stem": True}, "model.stem: should be 'cifar', '64' or 'imagenet', got True"),
        ("wrn", {"depth": 30}, "model.depth: should be 6 n \\+ 4, like 28 or 34"),
        ("wrn", {"depth": 4}, "model.depth: should be greater than or equal to 10"),
        ("wrn-28-10", {"depth": 34}, "model.depth: 'wrn-28-10' has no such parameter"),
    ],
)
def test_a_wrong_parameter_is_told(name, given, message):
    with pytest.raises(UserError, match=message):
        MODELS.get(name, "model.name").resolve(given, "model")


@pytest.mark.parametrize(
    ("name", "chosen", "left"),
    [
        ("resnet34", {}, 0),
        ("resnet18", {"stem": "64"}, 0),
        ("resnet50", {}, 0),
        ("wrn-50-2", {}, 0),
        ("lbgat-resnet18", {}, 0),
        ("toy-mlp", {}, 0),
        # Before activation: the first of each block and the last of all follow sums, and so are no convolution's ...
        ("preact-resnet18", {"stem": "imagenet"}, 9),
        ("preact-resnet18", {"form": "gowal"}, 9),
        ("wrn", {}, 4),
        ("wrn", {"widen": 2}, 3),  # ... except the very first, where its input goes nowhere else
        ("wrn", {"widen": 2, "form": "gowal"}, 3),
    ],
)
def test_batchnorm_is_folded_for_evaluation(name, chosen, left):
    """In float64: a random network makes much of rounding, and a deep one would hide a difference in it."""
    network = network_of(name, (3, 32, 32), width=8, **chosen).double()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the running statistics become those of these images
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
    x = images(count=8)
    with torch.no_grad():
        network.train()(x)
        quick = folded(network.eval(), x)
        assert quick is not None
        torch.testing.assert_close(quick(x), network(x), rtol=1e-9, atol=1e-9)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in quick.modules()) == left
    assert len(norms) > left or name == "toy-mlp"

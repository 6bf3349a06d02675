"""Numbers of parameters against torchvision's networks, sums written out from the papers, and published figures."""

import pytest
import torch
from test_models import network_of
from torch import nn

from training.data.torchvision_import import datasets


def torchvisions(name, classes, stem):
    """The network of that name, without weights; the stem for small images is put in by hand."""
    with torch.device("cpu"):  # modules that are imported here must not hold tensors without memory
        datasets()  # makes torchvision importable
        from torchvision.models import resnet

    network = getattr(resnet, name)(num_classes=classes)
    if stem == "cifar":
        network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return network


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "theirs", "stem", "classes", "published"),
    [
        ("resnet18", "resnet18", "cifar", 10, 11_173_962),
        ("resnet18", "resnet18", "cifar", 100, 11_220_132),
        ("resnet18", "resnet18", "imagenet", 1000, 11_689_512),
        ("resnet34", "resnet34", "cifar", 10, 21_282_122),
        ("resnet34", "resnet34", "imagenet", 1000, 21_797_672),
        ("resnet50", "resnet50", "cifar", 10, 23_520_842),
        ("resnet50", "resnet50", "imagenet", 1000, 25_557_032),
        ("resnet152", "resnet152", "cifar", 10, 58_156_618),
        ("resnet152", "resnet152", "imagenet", 1000, 60_192_808),
        ("wrn-50-2", "wide_resnet50_2", "imagenet", 1000, 68_883_240),
        ("wrn-101-2", "wide_resnet101_2", "imagenet", 1000, 126_886_696),
        ("lbgat-resnet18", "resnet18", "cifar", 10, 11_173_962),  # strides are no parameters
    ],
)
def test_resnets_have_as_many_parameters_as_torchvisions(name, theirs, stem, classes, published):
    with torch.device("meta"):
        ours = network_of(name, (3, 64, 64), classes, stem=stem)
        assert parameters(ours) == parameters(torchvisions(theirs, classes, stem)) == published


def preact_parameters(blocks, widths, strides, stem=3, classes=10, shortcut=1):
    """Summed by hand: kernel areas, BatchNorms (two for each channel), biases of the head alone."""
    of = widths[0]
    total = stem * stem * 3 * of + (2 * of if stem == 7 else 0)
    for width, stride in zip(widths[1:], strides, strict=True):
        for block in range(blocks):
            changes = of != width or (stride == 2 and block == 0)
            total += 2 * of + 9 * of * width + 2 * width + 9 * width * width
            total += shortcut**2 * of * width if changes else 0
            of = width
    return total + 2 * of + of * classes + classes


@pytest.mark.parametrize(
    ("chosen", "classes", "stem", "shortcut", "published"),
    [
        ({}, 10, 3, 1, 11_172_170),  # with the final BatchNorm; without it 1,024 fewer
        ({}, 100, 3, 1, 11_218_340),
        ({"stem": "64"}, 200, 3, 1, None),
        ({"stem": "imagenet"}, 100, 7, 1, None),
        ({"form": "gowal"}, 10, 3, 3, None),
    ],
)
def test_preact_resnet18_has_the_parameters_of_its_description(chosen, classes, stem, shortcut, published):
    with torch.device("meta"):
        ours = parameters(network_of("preact-resnet18", (3, 64, 64), classes, **chosen))
    widths = (64, 64, 128, 256, 512)
    assert ours == preact_parameters(2, widths, (1, 2, 2, 2), stem, classes, shortcut)
    assert published in (None, ours)


@pytest.mark.parametrize(
    ("depth", "widen", "millions"),  # as papers print them
    [(28, 10, 36.5), (34, 5, None), (34, 10, 46.2), (34, 20, 184.5), (40, 8, 35.7)],
)
def test_wide_resnets_have_the_parameters_of_their_description(depth, widen, millions):
    with torch.device("meta"):
        ours = parameters(network_of(f"wrn-{depth}-{widen}"))
        assert ours == parameters(network_of("wrn", depth=depth, widen=widen))
    widths = (16, 16 * widen, 32 * widen, 64 * widen)
    assert ours == preact_parameters((depth - 4) // 6, widths, (1, 2, 2))
    assert millions in (None, round(ours / 1e6, 1))


def test_small_networks_stay_small():
    sizes = {
        (name, shape): parameters(network_of(name, shape, classes))
        for name, shape, classes in [
            ("small-cnn", (1, 8, 8), 10),
            ("small-cnn-4x4", (1, 28, 28), 10),
            ("mlp", (1, 8, 8), 10),
            ("toy-mlp", (1, 1, 3), 2),
        ]
    }
    assert sizes == {
        # convolutions, BatchNorms, hidden layer, head
        ("small-cnn", (1, 8, 8)): 144 + 32 + 4608 + 64 + (512 * 64 + 64) + (64 * 10 + 10),
        ("small-cnn-4x4", (1, 28, 28)): 256 + 32 + 4096 + 32 + (784 * 64 + 64) + (64 * 10 + 10),
        ("mlp", (1, 8, 8)): (64 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10),
        ("toy-mlp", (1, 1, 3)): (3 * 25 + 25) + (25 * 2 + 2),
    }

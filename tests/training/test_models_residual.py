"""Residual networks against torchvision's, against their formulas written out, and how they begin."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_models import images, network_of, small
from test_models_parameters import torchvisions
from torch import nn


def with_weights_of(theirs, name, **parameters):
    ours = network_of(name, classes=theirs.fc.out_features, normalize="none", **parameters)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    return ours


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_resnet18_is_torchvisions_with_the_cifar_stem(mode):
    theirs = torchvisions("resnet18", 10, "cifar")
    ours = with_weights_of(theirs, "resnet18")
    x = images(count=2)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.double().train(mode)(x), theirs.double().train(mode)(x), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("resnet34", "resnet34"), ("resnet50", "resnet50"), ("wrn-50-2", "wide_resnet50_2")],
)
def test_resnets_for_imagenet_are_torchvisions(name, theirs):
    theirs = torchvisions(theirs, 1000, "imagenet")
    x = images((3, 64, 64), count=4).float()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the running statistics become those of these images
    with torch.no_grad():
        theirs.train()(x)
        ours = with_weights_of(theirs, name, stem="imagenet")
        expected = theirs.eval()(x[:1])
        torch.testing.assert_close(ours.eval()(x[:1]), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01


def test_lbgats_resnet18_keeps_the_size_in_its_second_stage():
    theirs = torchvisions("resnet18", 10, "cifar")
    theirs.layer2[0].conv1.stride = theirs.layer2[0].downsample[0].stride = (1, 1)
    ours = with_weights_of(theirs, "lbgat-resnet18").double()
    x = images(count=2)
    with torch.no_grad():
        maps = ours.body[:-2](x)
        assert maps.shape == (2, 512, 8, 8)
        torch.testing.assert_close(ours(x), theirs.double()(x), rtol=1e-10, atol=1e-10)
    # The program pools windows of 8x8: all there is of 32x32 pixels.
    torch.testing.assert_close(F.avg_pool2d(maps, 8), ours.body[-2](maps))


def pad_below(x, weight, stride):
    """A 3x3 convolution that pads below and to the right only, where it has a stride."""
    return (
        F.conv2d(x, weight, padding=1) if stride == 1 else F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, stride=2)
    )


def pad_around(x, weight, stride):
    return F.conv2d(x, weight, padding=1, stride=stride)


def one_by_one(x, active, weight, stride):
    return F.conv2d(active, weight, stride=stride)


def three_by_three(x, active, weight, stride):
    return pad_below(x, weight, stride)


PREACT = ("preact-resnet18", {}, 2, (1, 2, 2, 2))
WIDE = ("wrn", {"depth": 16, "widen": 2}, 2, (1, 2, 2))


@pytest.mark.parametrize(
    ("model", "form", "conv", "shortcut"),
    [
        (PREACT, "usual", pad_around, one_by_one),
        (PREACT, "gowal", pad_below, three_by_three),
        (WIDE, "usual", pad_around, one_by_one),
        (WIDE, "gowal", pad_below, one_by_one),
    ],
    ids=["preact", "preact-gowal", "wide", "wide-gowal"],
)
def test_preactivation_networks_are_their_formula(model, form, conv, shortcut):
    name, chosen, blocks, strides = model
    network = small(name, normalize="none", form=form, **chosen).eval()
    weights = iter([w for w in network.parameters() if w.ndim == 4])
    norms = iter([m for m in network.modules() if isinstance(m, nn.BatchNorm2d)])

    def norm_relu(x):
        n = next(norms)
        shape = (1, -1, 1, 1)
        scale = n.weight / (n.running_var + n.eps).sqrt()
        return ((x - n.running_mean.view(shape)) * scale.view(shape) + n.bias.view(shape)).clamp(min=0)

    x = images()
    out = F.conv2d(x, next(weights), padding=1)
    for stage, first in enumerate(strides):
        for block in range(blocks):
            stride = first if block == 0 else 1
            active = norm_relu(out)
            path = conv(active, next(weights), stride)
            path = F.conv2d(norm_relu(path), next(weights), padding=1)
            changes = block == 0 and (stage > 0 or path.shape[1] != out.shape[1])
            out = path + (shortcut(out, active, next(weights), stride) if changes else out)
    features = norm_relu(out).mean((2, 3))
    torch.testing.assert_close(network.features(x), features, rtol=1e-10, atol=1e-10)
    assert not list(weights)
    assert not list(norms)


def test_hats_stem_for_imagenet_is_its_formula():
    network = small("preact-resnet18", (3, 64, 64), stem="imagenet", normalize="none").eval()
    x = images((3, 64, 64))
    conv, norm = network.body[0], network.body[1]
    out = F.conv2d(x, conv.weight, stride=2, padding=1)
    out = F.batch_norm(out, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    out = F.max_pool2d(out.relu(), 3, 2, 1)
    torch.testing.assert_close(network.body[:4](x), out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "momentum"), [("preact-resnet18", 0.01), ("wrn", 0.01), ("resnet18", 0.1), ("resnet50", 0.1)]
)
def test_running_statistics_move_as_in_the_programs(name, momentum):
    form = {"form": "gowal"} if momentum == 0.01 else {}
    with torch.device("meta"):
        network = network_of(name, (3, 32, 32), **form)
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {momentum}


def layers(network, kind):
    return [m for m in network.modules() if isinstance(m, kind)]


@pytest.mark.parametrize(("name", "chosen"), [("wrn", {"widen": 4}), ("resnet50", {"width": 32})])
def test_wide_and_imagenet_networks_begin_as_the_programs_do(name, chosen):
    network = network_of(name, **chosen).requires_grad_(False)
    for conv in layers(network, nn.Conv2d):
        if conv.weight.numel() > 5000:
            expected = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
            assert float(conv.weight.std()) == pytest.approx(expected, rel=0.05)
            assert float(conv.weight.abs().max()) > 3 * expected, "normal, not uniform"
    assert not network.head.bias.any()
    assert float(network.head.weight.abs().max()) < 1.001 / math.sqrt(network.head.in_features)
    assert all(bool((n.weight == 1).all()) and not n.bias.any() for n in layers(network, nn.BatchNorm2d))


@pytest.mark.parametrize("name", ["resnet18", "preact-resnet18", "lbgat-resnet18"])
def test_cifar_resnets_begin_as_pytorch_does(name):
    network = network_of(name, width=16).requires_grad_(False)
    for layer in layers(network, (nn.Conv2d, nn.Linear)):
        inputs = layer.weight[0].numel()
        assert float(layer.weight.abs().max()) < 1.001 / math.sqrt(inputs)
    assert network.head.bias.any()

"""What holds for every model."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from training.errors import UserError
from training.models import MODELS, build
from training.spec import Choice

EVERY = sorted(MODELS.entries)
FAMILIES = [  # one for each way of building; the others differ in depth and width
    "lbgat-resnet18",
    "mlp",
    "preact-resnet18",
    "resnet18",
    "resnet50",
    "small-cnn",
    "small-cnn-4x4",
    "toy-mlp",
    "wrn",
]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]


def network_of(name, shape=(3, 32, 32), classes=10, **parameters):
    torch.manual_seed(0)
    mean, std = (0.4, 0.5, 0.6)[: shape[0]], (0.2, 0.25, 0.3)[: shape[0]]
    return build(Choice(name=name, **parameters), shape, classes, mean, std)


def thin(name):
    """Parameters with which a model costs next to nothing and takes any image."""
    known = MODELS.entries[name].parameters
    width = {"width": 1 if name.startswith("wrn-") else 4} if "width" in known else {}
    return width | ({"stem": "cifar"} if "stem" in known else {})


def small(name, shape=(3, 32, 32), **parameters):
    """Thin, in float64, with running statistics that differ from the initial ones."""
    network = network_of(name, shape, **(thin(name) | parameters)).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return network


def images(shape=(3, 32, 32), count=3):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_every_model_takes_every_image_size(name, shape):
    network = network_of(name, shape, classes=7, **thin(name))
    x = images(shape).float()
    features = network.features(x)
    assert features.shape == (3, network.head.in_features)
    assert network(x).shape == (3, 7)


@pytest.mark.parametrize("name", EVERY)
def test_every_model_is_built_without_memory_and_printed(name):
    """At its full width: so sweeps are checked before anything runs."""
    with torch.device("meta"):
        network = network_of(name, (3, 64, 64))
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    assert network(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 10)
    assert "Linear" in str(network)


@pytest.mark.parametrize("name", EVERY)
def test_every_weight_is_drawn_from_torchs_generator(name):
    """So a trial's seed decides its network, whatever was drawn elsewhere."""

    def elsewhere():
        return random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]

    def drawn(seed):
        before = elsewhere()
        torch.manual_seed(seed)
        network = build(Choice(name=name, **thin(name)), (3, 32, 32), 10, (0.5,) * 3, (0.5,) * 3)
        assert elsewhere() == before
        return dict(network.named_parameters())

    one, other = drawn(0), drawn(1)
    random.random(), np.random.rand()
    again = drawn(0)
    assert all(torch.equal(p, again[key]) for key, p in one.items())
    assert not any(torch.equal(p, other[key]) for key, p in one.items() if p.ndim > 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_changes_nothing(name):
    network = small(name).eval()
    expected = network(images())
    network = network.to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("name", FAMILIES)
def test_working_in_place_changes_no_gradient(name, activation):
    """Two forwards are alive at once, as in every loss of two points."""
    network = small(name, activation=activation)
    careful = copy.deepcopy(network)
    for module in careful.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    gradients = []
    for net in (network, careful):
        x, other = images().requires_grad_(), images().flip(0).requires_grad_()
        loss = (net(x).softmax(1) * net(other).log_softmax(1)).sum()
        gradients.append(torch.autograd.grad(loss, [x, other, *net.parameters()]))
    for ours, expected in zip(*gradients, strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_model_looks_at_a_value(name):
    with FakeTensorMode():
        network = network_of(name, **thin(name))
        x = torch.rand(4, 3, 32, 32, requires_grad=True)
        network(x).sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("name", FAMILIES)
def test_every_model_can_be_traced(name):
    """Evaluation folds BatchNorm into convolutions by tracing."""
    network = small(name).eval()
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(images()), network(images()))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_model_compiles_as_one_graph(name):
    torch.compiler.reset()
    network = small(name)
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(images()), network(images()))


@pytest.mark.parametrize("name", FAMILIES)
def test_normalisation_is_inside(name):
    inside, outside = small(name, normalize="data"), small(name, normalize="none")
    outside.load_state_dict(inside.state_dict(), strict=False)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    normal = (images() - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(inside(images()), outside(normal))


def test_a_checkpoint_carries_the_normalisation():
    ours = network_of("mlp")
    other = build(Choice(name="mlp"), (3, 32, 32), 10, (0.0,) * 3, (1.0,) * 3)
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other(images().float()), ours(images().float()))


def test_another_head_can_be_put_in():
    network = network_of("small-cnn", (1, 8, 8))
    network.head = nn.Linear(network.head.in_features, 3, bias=False)
    assert network(images((1, 8, 8)).float()).shape == (3, 3)


def test_a_perceptron_without_hidden_layers_is_linear():
    network = small("mlp", hidden=()).eval()
    x, y = images(), images().flip(0)
    torch.testing.assert_close(network(0.25 * x + 0.75 * y), 0.25 * network(x) + 0.75 * network(y))


@pytest.mark.parametrize("name", EVERY)
def test_a_silu_network_has_no_kinks(name):
    with torch.device("meta"):
        kinds = {type(m) for m in network_of(name, (3, 64, 64), activation="silu").modules()}
    assert nn.SiLU in kinds
    assert nn.ReLU not in kinds


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("resnet81", {}, r"model.name: no model 'resnet81' \(did you mean 'resnet18'\?\)"),
        ("resnet18", {"width": 0}, "model.width: should be greater than or equal to 1"),
        ("resnet18", {"witdh": 8}, r"model.witdh: .*did you mean 'width'"),
        ("mlp", {"activation": "tanh"}, "model.activation: should be 'relu' or 'silu'"),
        ("mlp", {"hidden": [64, 0]}, "model.hidden"),
    ],
)
def test_a_wrong_model_is_told(name, parameters, message):
    with pytest.raises(UserError, match=message):
        MODELS.get(name, "model.name").resolve(parameters, "model")


def test_images_too_small_for_a_model_are_told():
    with pytest.raises(UserError, match="at least 4x4 pixels, the data are 3x3"):
        network_of("small-cnn-4x4", (1, 3, 3))

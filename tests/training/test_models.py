"""Models against published sizes, torchvision, and the formulas written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from training.data.torchvision_import import datasets
from training.errors import UserError
from training.models import MODELS, build
from training.spec import Choice

EVERY = sorted(MODELS.entries)
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]


def network_of(name, shape=(3, 32, 32), classes=10, **parameters):
    torch.manual_seed(0)
    mean, std = (0.4, 0.5, 0.6)[: shape[0]], (0.2, 0.25, 0.3)[: shape[0]]
    return build(Choice(name=name, **parameters), shape, classes, mean, std)


def small(name, shape=(3, 32, 32), **parameters):
    """Thin, in float64, with running statistics that differ from the initial ones."""
    width = {} if name == "mlp" else {"width": 4}
    network = network_of(name, shape, **width, **parameters).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return network


def images(shape=(3, 32, 32), count=3):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("resnet18", 10, 11_173_962),
        ("resnet18", 100, 11_220_132),
        ("preact-resnet18", 10, 11_172_170),  # with the final BatchNorm; without it 1,024 fewer
        ("preact-resnet18", 100, 11_218_340),
    ],
)
def test_networks_of_the_papers_have_their_published_number_of_parameters(name, classes, expected):
    with FakeTensorMode():
        network = network_of(name, classes=classes)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_small_networks_stay_small():
    sizes = {
        (name, shape): sum(p.numel() for p in network_of(name, shape).parameters())
        for name, shape in [("small-cnn", (1, 8, 8)), ("small-cnn-4x4", (1, 28, 28)), ("mlp", (1, 8, 8))]
    }
    assert sizes == {
        # convolutions, BatchNorms, hidden layer, head
        ("small-cnn", (1, 8, 8)): 144 + 32 + 4608 + 64 + (512 * 64 + 64) + (64 * 10 + 10),
        ("small-cnn-4x4", (1, 28, 28)): 256 + 32 + 4096 + 32 + (784 * 64 + 64) + (64 * 10 + 10),
        ("mlp", (1, 8, 8)): (64 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10),
    }


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_resnet18_is_torchvisions_with_the_cifar_stem(mode):
    datasets()  # makes torchvision importable
    from torchvision.models import resnet

    theirs = resnet.ResNet(resnet.BasicBlock, [2, 2, 2, 2], num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours = network_of("resnet18", normalize="none")
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = images(count=2)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.double().train(mode)(x), theirs.double().train(mode)(x), rtol=1e-10, atol=1e-10
        )


def test_preact_resnet18_is_its_formula():
    network = small("preact-resnet18", normalize="none").eval()
    weights = iter([w for w in network.parameters() if w.ndim == 4])
    norms = iter([m for m in network.modules() if isinstance(m, nn.BatchNorm2d)])

    def norm_relu(x):
        n = next(norms)
        shape = (1, -1, 1, 1)
        scale = n.weight / (n.running_var + n.eps).sqrt()
        return ((x - n.running_mean.view(shape)) * scale.view(shape) + n.bias.view(shape)).clamp(min=0)

    x = images()
    out = F.conv2d(x, next(weights), padding=1)
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            active = norm_relu(out)
            path = F.conv2d(active, next(weights), stride=stride, padding=1)
            path = F.conv2d(norm_relu(path), next(weights), padding=1)
            out = path + (F.conv2d(active, next(weights), stride=stride) if stride == 2 else out)
    features = norm_relu(out).mean((2, 3))
    torch.testing.assert_close(network.features(x), features, rtol=1e-10, atol=1e-10)
    assert not list(weights)
    assert not list(norms)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_every_model_takes_every_image_size(name, shape):
    network = network_of(name, shape, classes=7, **({} if name == "mlp" else {"width": 4}))
    x = images(shape).float()
    features = network.features(x)
    assert features.shape == (3, network.head.in_features)
    assert network(x).shape == (3, 7)


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("name", EVERY)
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


@pytest.mark.parametrize("name", EVERY)
def test_no_model_looks_at_a_value(name):
    with FakeTensorMode():
        network = network_of(name)
        x = torch.rand(4, 3, 32, 32, requires_grad=True)
        network(x).sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("name", EVERY)
def test_every_model_can_be_traced(name):
    """Evaluation folds BatchNorm into convolutions by tracing."""
    network = small(name).eval()
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(images()), network(images()))


@pytest.mark.parametrize("name", EVERY)
def test_every_model_compiles_as_one_graph(name):
    torch.compiler.reset()
    network = small(name)
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(images()), network(images()))


@pytest.mark.parametrize("name", EVERY)
def test_normalisation_is_inside(name):
    inside, outside = small(name), small(name, normalize="none")
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


def test_a_silu_network_has_no_kinks():
    assert not any(isinstance(m, nn.ReLU) for m in network_of("resnet18", activation="silu").modules())


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

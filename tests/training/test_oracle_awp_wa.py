"""Adversarial weight perturbation, weight averaging and weight decay's exemption against straight-line code."""

import pytest
import torch
import torch.nn.functional as F
from oracle_steps import (
    THREE,
    assert_same_steps,
    average,
    ce_points,
    kl,
    kl_points,
    method,
    original_awp,
    sam,
    step_on,
    three_batches,
    weigh,
)

from training.data import load
from training.fit import Training
from training.resolve import resolve
from training.spec import TrialSpec
from training.views import Moment


def adversarial(base, net, x, y, now):
    """The points of the base method, and its outer loss as a function of the network."""
    if base == "pgd-at":
        adv = ce_points(net, x, y, now, "uniform")
        return adv, lambda net: weigh((1, "CE.adv", F.cross_entropy(net(adv), y)))[1]
    adv = kl_points(net, x, now)

    def terms_of(net):
        clean, far = net(x), net(adv)
        natural = F.cross_entropy(clean, y)
        return weigh((1, "CE.clean", natural), (6, "KL.adv.clean", kl(clean, far).mean()))[1]

    return adv, terms_of


def plain(net, sgd, terms_of):
    terms = terms_of(net)
    step_on(sgd, terms["loss"])
    return terms


def perturbed(base, radius, since=0, form=original_awp):
    """A step of the base method with weight perturbation from an epoch on."""

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        adv, terms_of = adversarial(base, net, x, y, now)
        if now.epoch < since or radius == 0:
            return plain(net, sgd, terms_of) | {"adv": adv}
        return form(net, sgd, terms_of, radius) | {"adv": adv}

    return published


@pytest.mark.parametrize("base", ["pgd-at", "trades"])
@pytest.mark.parametrize("radius", [0.0, 0.005, 0.1])
def test_awp_steps_on_moved_weights_and_takes_the_move_back(tiny, minibatch, base, radius):
    ours = method(base, **{"with": {"awp": {"radius": radius}}})
    published = perturbed(base, radius)
    net = tiny()
    assert_same_steps(ours, {"student": net}, published, three_batches(minibatch), THREE)
    assert net.norm.num_batches_tracked == (3 if base == "pgd-at" else 6)


def test_awp_begins_at_its_epoch(tiny, minibatch):
    ours = method("trades", **{"with": {"awp": {"radius": 0.1, "since": 10}}})
    moments = [Moment(9, 0, 2, 20), Moment(9, 1, 2, 20), Moment(10, 0, 2, 20)]
    published = perturbed("trades", 0.1, since=10)
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), moments)
    late = perturbed("trades", 0.1, since=11)
    with pytest.raises(AssertionError):  # the comparison would see an epoch too late
        assert_same_steps(ours, {"student": tiny()}, late, three_batches(minibatch), moments)


@pytest.mark.parametrize("base", ["pgd-at", "trades"])
@pytest.mark.parametrize("radius", [0.0, 0.005, 0.1])
@pytest.mark.parametrize("nesterov", [True, False])
def test_the_sam_form_steps_on_weights_put_back(tiny, minibatch, base, radius, nesterov):
    ours = method(base, **{"with": {"awp": {"radius": radius, "form": "sam"}}})
    assert_same_steps(
        ours,
        {"student": tiny()},
        perturbed(base, radius, form=sam),
        three_batches(minibatch),
        THREE,
        nesterov=nesterov,
        not_compared={"norm.num_batches_tracked"},  # a momentum of 0 counts on; nobody reads the count
    )


def averaged(base, decay, warmup, statistics):
    """The base method's step, then the average: of weights always, of running statistics or a copy of them."""

    def published(nets, sgd, x, y, now):
        net, mean = nets["student"], nets["average"]
        adv, terms_of = adversarial(base, net, x, y, now)
        terms = plain(net, sgd, terms_of)
        t = now.epoch * now.steps + now.step
        average(mean, net, min(decay, (1 + t) / (10 + t)) if warmup else decay)
        if statistics == "copy":
            for name in ("running_mean", "running_var"):
                getattr(mean.norm, name).copy_(getattr(net.norm, name))
        return terms | {"adv": adv}

    return published


@pytest.mark.parametrize("statistics", ["average", "copy"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.995])
@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("base", ["pgd-at", "trades"])
def test_averaged_weights_follow_the_student(tiny, minibatch, base, decay, warmup, statistics):
    parameters = {"decay": decay, "warmup": warmup, "statistics": statistics}
    ours, student = method(base, **{"with": {"wa": parameters}}), tiny()
    nets = {"student": student, "average": ours.guides["average"].make(student, {}, None)}
    assert ours.evaluate == "average"
    published = averaged(base, decay, warmup, statistics)
    start = [Moment(0, step, 10, 20) for step in range(3)]
    assert_same_steps(ours, nets, published, three_batches(minibatch), start)
    assert not nets["average"].training
    assert not any(p.requires_grad for p in nets["average"].parameters())
    if decay == 0:
        for name, value in student.state_dict().items():
            assert torch.equal(nets["average"].state_dict()[name], value), name


def test_the_warm_up_of_an_average_is_a_function_of_the_step_of_the_whole_training(tiny, minibatch):
    ours, student = method("pgd-at", **{"with": {"wa": {"decay": 0.9, "warmup": True}}}), tiny()
    nets = {"student": student, "average": ours.guides["average"].make(student, {}, None)}
    moments = [Moment(2, step, 4, 20) for step in (1, 2, 3)]
    published = averaged("pgd-at", 0.9, True, "average")
    assert_same_steps(ours, nets, published, three_batches(minibatch), moments)


def trained(tmp_path, decay_norms):
    """A training whose optimiser has taken one step on gradients of 0."""
    spec = resolve(
        TrialSpec.model_validate(
            {
                "method": "standard",
                "data": {"name": "digits", "train_size": 60},
                "model": {"name": "small-cnn", "width": 4},
                "train": {"epochs": 1, "batch_size": 20, "weight_decay": 0.5, "decay_norms": decay_norms},
                "attack": {"eps": 0.2},
            }
        )
    )
    training = Training(spec, load(spec.data), tmp_path, "k", torch.device("cpu"), {})
    before = {name: p.detach().clone() for name, p in training.networks["student"].named_parameters()}
    for p in training.networks["student"].parameters():
        p.data.add_(1.0)
        p.grad = torch.zeros_like(p)
    training.optimizer.step()
    return training, before


@pytest.mark.parametrize("decay_norms", [True, False])
def test_weight_decay_spares_batch_normalisation_only_where_asked(tmp_path, decay_norms):
    training, before = trained(tmp_path, decay_norms)
    student = training.networks["student"]
    norms = {
        f"{name}.{part}"
        for name, module in student.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    assert norms
    assert norms < set(before)
    lr = training.spec.train.lr
    for name, p in student.named_parameters():
        spared = name in norms and not decay_norms
        # One Nesterov step on a gradient of weight_decay * w moves by lr * (1 + momentum) * weight_decay * w.
        kept = 1.0 if spared else 1 - lr * 1.9 * 0.5
        assert torch.allclose(p, kept * (before[name] + 1), atol=1e-6), name

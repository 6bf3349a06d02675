"""Standard training, PGD-AT, TRADES, MART, ALP, FreeAT, FastAT and RST against straight-line code, in float64."""

import pytest
import torch
import torch.nn.functional as F
from oracle_steps import (
    ALPHA,
    DIVERGENCE,
    EPS,
    NOW,
    THREE,
    K,
    ascend,
    assert_same_steps,
    ce_points,
    draw,
    gaussian,
    kl,
    kl_points,
    mart,
    method,
    smooth,
    step_on,
    three_batches,
    uniform,
    weigh,
    while_searching,
)

MODES = ["eval", "train-tracked", "train-untracked"]


def test_standard_training_is_cross_entropy(tiny, minibatch):
    def published(nets, sgd, x, y, now):
        loss = F.cross_entropy(nets["student"](x), y)
        step_on(sgd, loss)
        return {"loss": loss, "CE.clean": loss}

    ours = method("standard")
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_pgd_at_equals_its_formula(tiny, minibatch, start, mode):
    def published(nets, sgd, x, y, now):
        adv = ce_points(nets["student"], x, y, now, start, mode)
        loss = F.cross_entropy(nets["student"](adv), y)
        step_on(sgd, loss)
        return {"loss": loss, "CE.adv": loss, "adv": adv}

    ours = method("pgd-at", start=start, batchnorm=mode)
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


def test_pgd_at_starts_anywhere_in_the_ball_and_searches_in_eval_mode():
    assert method("pgd-at") == method("pgd-at", start="uniform", batchnorm="eval")


def trades(beta=6.0, name="kl", start="gaussian", mode="eval"):
    divergence = DIVERGENCE[name]

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        adv = kl_points(net, x, now, start, mode, divergence=divergence)
        clean, far = net(x), net(adv)
        loss, terms = weigh(
            (1, "CE.clean", F.cross_entropy(clean, y)),
            (beta, "KL.adv.clean" if name == "kl" else f"{name}.adv.clean", divergence(clean, far).mean()),
        )
        step_on(sgd, loss)
        return terms | {"adv": adv}

    return published


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("regulariser", DIVERGENCE)
def test_trades_equals_its_formula_with_every_divergence(tiny, minibatch, regulariser, mode):
    ours = method("trades", regulariser=regulariser, batchnorm=mode)
    published = trades(6.0, regulariser, mode=mode)
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("start", ["gaussian", "uniform"])
def test_trades_equals_its_formula_for_every_beta(tiny, minibatch, beta, start):
    ours = method("trades", beta=beta, start=start)
    published = trades(beta, start=start)
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


def test_trades_in_an_l2_ball_steps_along_the_normalised_gradient(tiny, minibatch):
    def published(nets, sgd, x, y, now):
        net = nets["student"].eval()
        adv = gaussian(x, now)
        for _ in range(K):
            adv = adv.detach().requires_grad_(True)
            (grad,) = torch.autograd.grad(kl(net(x), net(adv)).sum(), adv)
            adv = adv.detach()
            for i in range(len(x)):
                move = adv[i] + ALPHA * grad[i] / grad[i].norm() - x[i]
                adv[i] = x[i] + (move * EPS / move.norm() if move.norm() > EPS else move)
            adv = adv.clamp(0, 1)
        net.train()
        clean, far = net(x), net(adv)
        loss, terms = weigh(
            (1, "CE.clean", F.cross_entropy(clean, y)), (6, "KL.adv.clean", kl(clean, far).mean())
        )
        step_on(sgd, loss)
        return terms | {"adv": adv}

    ours = method("trades", "l2")
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


@pytest.mark.parametrize("regulariser", ["kl", "js"])
def test_trades_as_published_forwards_the_clean_images_once_more_after_the_adversarial(
    tiny, minibatch, regulariser
):
    divergence = DIVERGENCE[regulariser]

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        adv = kl_points(net, x, now, divergence=divergence)
        natural = F.cross_entropy(net(x), y)
        far = net(adv)
        moved = divergence(net(x), far).mean()
        name = "KL.adv.again" if regulariser == "kl" else f"{regulariser}.adv.again"
        loss, terms = weigh((1, "CE.clean", natural), (6, name, moved))
        step_on(sgd, loss)
        return terms | {"adv": adv}

    ours, net = method("trades", clean_twice=True, regulariser=regulariser), tiny()
    assert_same_steps(ours, {"student": net}, published, [minibatch])
    assert net.norm.num_batches_tracked == 3


@pytest.mark.parametrize("mode", MODES)
def test_mart_equals_its_formula(tiny, minibatch, mode):
    def published(nets, sgd, x, y, now):
        net = nets["student"]
        adv = ce_points(net, x, y, now, mode=mode)
        clean, far = net(x), net(adv)
        cross, runner_up, weighted = mart(clean, far, y)
        loss, terms = weigh(
            (1, "CE.adv", cross), (1, "runner-up.adv", runner_up), (5, "weighted-KL.adv.clean", weighted)
        )
        step_on(sgd, loss)
        return terms | {"adv": adv}

    ours = method("mart", batchnorm=mode)
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


@pytest.mark.parametrize("clean_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pairing", [0.0, 0.5])
def test_alp_equals_its_formula(tiny, minibatch, clean_share, pairing):
    """Without the pairing its ends are the losses of PGD-AT and standard training, but both batches are forwarded."""

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        adv = ce_points(net, x, y, now)
        clean, far = net(x), net(adv)
        loss, terms = weigh(
            (clean_share, "CE.clean", F.cross_entropy(clean, y)),
            (1 - clean_share, "CE.adv", F.cross_entropy(far, y)),
            (pairing, "MSE.adv.clean", F.mse_loss(far, clean)),
        )
        step_on(sgd, loss)
        return terms | {"adv": adv}

    ours = method("alp", clean=clean_share, pairing=pairing)
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


def test_alp_weighs_clean_and_adversarial_images_and_the_pairing_by_a_half():
    assert method("alp") == method("alp", clean=0.5, pairing=0.5, batchnorm="eval")


@pytest.mark.parametrize("replays", [1, 3])
@pytest.mark.parametrize("size", [1.0, 0.25])
def test_free_at_carries_its_noise_from_batch_to_batch_and_learns_from_the_same_backward(
    tiny, minibatch, replays, size
):
    carried = torch.zeros(8, 2, 6, 6, dtype=torch.float64)

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        found = {}
        for _ in range(replays):
            noise = carried.clone().requires_grad_(True)
            shifted = (x + noise).clamp(0, 1)
            found.setdefault("adv", shifted.detach())
            loss = F.cross_entropy(net(shifted), y)
            sgd.zero_grad()
            loss.backward()
            carried.add_(size * EPS * noise.grad.sign()).clamp_(-EPS, EPS)
            sgd.step()
        return found | {"loss": loss, "CE.adv": loss}

    ours, net = method("free-at", replays=replays, step=size), tiny()
    assert_same_steps(ours, {"student": net}, published, three_batches(minibatch), THREE)
    assert net.norm.num_batches_tracked == 3 * replays


def test_free_at_in_wong_et_als_form_clips_the_noise_and_not_the_point(tiny, minibatch):
    """x + noise is forwarded as it is; the moved noise is clipped to the ball, then to where the image stays one."""
    carried = torch.zeros(8, 2, 6, 6, dtype=torch.float64)

    def published(nets, sgd, x, y, now):
        net = nets["student"]
        found = {}
        for _ in range(3):
            noise = carried.clone().requires_grad_(True)
            found.setdefault("adv", (x + noise).detach())
            loss = F.cross_entropy(net(x + noise), y)
            sgd.zero_grad()
            loss.backward()
            moved = (carried + EPS * noise.grad.sign()).clamp(-EPS, EPS)
            carried.copy_(torch.max(torch.min(moved, 1 - x), 0 - x))
            sgd.step()
        return found | {"loss": loss, "CE.adv": loss}

    ours = method("free-at", replays=3, clip="noise")
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


@pytest.mark.parametrize("mode", MODES)
def test_fast_at_takes_one_long_step_from_anywhere_in_the_ball(tiny, minibatch, mode):
    def published(nets, sgd, x, y, now):
        net = nets["student"]
        searched = while_searching(net, mode)
        start = uniform(x, now).clamp(0, 1)  # Wong et al.'s program clips the start to images before its step
        adv = ascend(searched, x, start, lambda logits: F.cross_entropy(logits, y), 1, 1.25 * EPS)
        net.train()
        loss = F.cross_entropy(net(adv), y)
        step_on(sgd, loss)
        return {"loss": loss, "CE.adv": loss, "adv": adv}

    ours = method("fast-at", batchnorm=mode)
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


def test_fast_at_searches_in_train_mode_and_its_search_counts():
    assert method("fast-at") == method("fast-at", step=1.25, batchnorm="train-tracked")


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_rst_is_trades_from_a_start_of_choice(tiny, minibatch, start):
    published = trades(start=start)
    ours = method("rst", start=start)
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


def test_rst_starts_anywhere_in_the_ball():
    assert method("rst") == method("rst", beta=6.0, start="uniform", batchnorm="eval")


def smoothing(amount, where):
    return {"with": {"label-smoothing": {"amount": amount, "where": where}}}


@pytest.mark.parametrize("where", ["everywhere", "loss"])
def test_smoothed_labels_replace_the_label_in_pgd_at(tiny, minibatch, where):
    def published(nets, sgd, x, y, now):
        net = nets["student"]
        adv = ce_points(net, x, smooth(y, 0.2) if where == "everywhere" else y, now, "uniform")
        loss = F.cross_entropy(net(adv), y, label_smoothing=0.2)
        step_on(sgd, loss)
        return {"loss": loss, "CE.adv.smooth": loss, "adv": adv}

    ours = method("pgd-at", **smoothing(0.2, where))
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


@pytest.mark.parametrize("where", ["everywhere", "loss", "clean"])
def test_smoothed_labels_replace_the_label_in_trades(tiny, minibatch, where):
    def published(nets, sgd, x, y, now):
        net = nets["student"]
        adv = kl_points(net, x, now)
        clean, far = net(x), net(adv)
        loss, terms = weigh(
            (1, "CE.clean.smooth", F.cross_entropy(clean, y, label_smoothing=0.2)),
            (6, "KL.adv.clean", kl(clean, far).mean()),
        )
        step_on(sgd, loss)
        return terms | {"adv": adv}

    ours = method("trades", **smoothing(0.2, where))
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


def test_smoothed_labels_on_the_clean_loss_alone_leave_alps_adversarial_loss_hard(tiny, minibatch):
    def published(nets, sgd, x, y, now):
        net = nets["student"]
        adv = ce_points(net, x, y, now)
        clean, far = net(x), net(adv)
        loss, terms = weigh(
            (0.5, "CE.clean.smooth", F.cross_entropy(clean, y, label_smoothing=0.2)),
            (0.5, "CE.adv", F.cross_entropy(far, y)),
            (0.5, "MSE.adv.clean", F.mse_loss(far, clean)),
        )
        step_on(sgd, loss)
        return terms | {"adv": adv}

    ours = method("alp", **smoothing(0.2, "clean"))
    assert_same_steps(ours, {"student": tiny()}, published, three_batches(minibatch), THREE)


def test_the_noise_of_a_step_depends_on_its_moment():
    x = torch.zeros(2, 2, 6, 6, dtype=torch.float64)
    assert (gaussian(x, THREE[0]) - gaussian(x, THREE[1])).abs().max() > 1e-4
    assert torch.equal(gaussian(x), gaussian(x, NOW))
    assert draw().initial_seed() != draw(point="col").initial_seed()

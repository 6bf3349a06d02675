"""Learning rates against torch's own schedulers, step by step."""

import pytest
import torch

from training.schedules import build
from training.spec import Choice
from training.views import Moment

EPOCHS, STEPS, LR = 10, 7, 0.21


def ours(schedule):
    rate = build(schedule, LR).lr
    return [rate(Moment(e, s, STEPS, EPOCHS)) for e in range(EPOCHS) for s in range(STEPS)]


def theirs(scheduler_of, per_epoch=False):
    optimizer = torch.optim.SGD([torch.zeros(1)], LR)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if not per_epoch:
                scheduler.step()
        if per_epoch:
            scheduler.step()
    return rates


@pytest.mark.parametrize("rise", [0.25, 0.4])
def test_onecycle_is_torchs_onecycle(rise):
    def torchs(optimizer):
        total = EPOCHS * STEPS + 1  # its last step lies one beyond the training
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=total, pct_start=rise)

    longer = build(Choice(name="onecycle", rise=rise), LR)
    assert longer.momentum is None
    whole = [longer.lr(Moment(0, s, EPOCHS * STEPS + 1, 1)) for s in range(EPOCHS * STEPS)]
    assert whole == pytest.approx(theirs(torchs))


def test_momentum_goes_against_the_rate_as_torchs_does():
    optimizer = torch.optim.SGD([torch.zeros(1)], LR, 0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=EPOCHS * STEPS + 1, pct_start=0.25, base_momentum=0.85, max_momentum=0.95
    )
    rates = build(Choice(name="onecycle", momentum=(0.95, 0.85)), LR)
    for step in range(EPOCHS * STEPS):
        now = Moment(0, step, EPOCHS * STEPS + 1, 1)
        assert rates.lr(now) == pytest.approx(optimizer.param_groups[0]["lr"])
        assert rates.momentum(now) == pytest.approx(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()


def test_onecycle_ends_at_the_last_step_of_the_training():
    rates = ours(Choice(name="onecycle"))
    assert rates[0] == pytest.approx(LR / 25, rel=0.3)
    assert max(rates) == pytest.approx(LR, rel=0.01)
    assert rates[-1] == pytest.approx(LR / 25 / 1e4)


def test_multistep_is_torchs_multistep():
    expected = theirs(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 8], 0.1), per_epoch=True)
    assert ours(Choice(name="multistep", milestones=[3, 8])) == pytest.approx(expected)


def test_cosine_is_torchs_cosine():
    expected = theirs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS * STEPS))
    assert ours(Choice(name="cosine")) == pytest.approx(expected)


def test_a_triangle_goes_up_and_down_in_straight_lines():
    rates = ours(Choice(name="triangle", peak=0.4))
    expected = [LR * step / 28 for step in range(28)] + [LR * (70 - step) / 42 for step in range(28, 70)]
    assert rates == pytest.approx(expected)


def test_the_first_epoch_has_a_rate_of_its_own():
    rates = ours(Choice(name="warmup-multistep", milestones=[3, 8], first=5))
    plain = ours(Choice(name="multistep", milestones=[3, 8]))
    assert rates == [LR / 5] * STEPS + plain[STEPS:]

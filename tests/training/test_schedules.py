"""Learning rates against torch's own schedulers, step by step."""

import pytest
import torch

from training.schedules import build
from training.spec import Choice
from training.views import Moment

EPOCHS, STEPS, LR = 10, 7, 0.21


def ours(schedule):
    rate = build(schedule, LR)
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
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=total - 1 + 1, pct_start=rise)

    longer = build(Choice(name="onecycle", rise=rise), LR)
    whole = [longer(Moment(0, s, EPOCHS * STEPS + 1, 1)) for s in range(EPOCHS * STEPS)]
    assert whole == pytest.approx(theirs(torchs))


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

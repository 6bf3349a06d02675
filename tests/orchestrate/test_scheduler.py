"""ASHA ends the worse trials, and never one that others wait for."""

from types import SimpleNamespace

import pytest

from orchestrate.sections import Scheduler
from orchestrate.tune_search import scheduler


@pytest.mark.parametrize("spared", [False, True])
def test_a_helper_without_any_robustness_goes_on(spared: bool) -> None:
    asha = scheduler(
        Scheduler(name="asha", grace_epochs=1, reduction=3), lambda name: spared and name == "helper"
    )
    for name in ("a", "b", "c", "d", "helper", "e"):
        asha.on_trial_add(None, SimpleNamespace(trial_id=name))

    def after_one_epoch(name: str, robust: float) -> str:
        return asha.on_trial_result(None, SimpleNamespace(trial_id=name), {"epoch": 1, "val/robust": robust})

    assert [after_one_epoch(name, 0.6) for name in "abcd"] == ["CONTINUE"] * 4
    assert after_one_epoch("helper", 0.0) == ("CONTINUE" if spared else "STOP")
    asha.on_trial_complete(None, SimpleNamespace(trial_id="helper"), {"epoch": 9, "val/robust": 0.0})
    # It was no competitor: one that is worse than the others is still ended, and its zero lowers no bar.
    assert after_one_epoch("e", 0.3) == "STOP"

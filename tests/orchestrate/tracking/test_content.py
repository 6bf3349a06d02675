"""What MLflow is told follows from spec, events and rows alone."""

import math
from pathlib import Path
from typing import Any

import pytest
from written_trials import SPEC

from orchestrate.events import Story
from orchestrate.ledger import Row
from orchestrate.runs import TrialDir
from orchestrate.tracking import content
from orchestrate.tracking.artifacts import log_tail
from training.spec import TrialSpec


def story(*events: dict[str, Any]) -> Story:
    told = Story()
    for event in events:
        told.tell({"t": 1000} | event)
    return told


STARTED = {"event": "started", "attempt": 1}


def test_parameters_are_flat_and_readable() -> None:
    told = content.parameters(TrialSpec.model_validate(SPEC))
    wanted = {
        "method.name": "trades",
        "method.beta": "3.0",
        "method.with.awp.radius": "0.005",
        "train.epochs": "3",
        "train.schedule.name": "onecycle",
        "data.name": "digits",
        "attack.norm": "linf",
        "attack.eps": str(8 / 255),
        "seed": "1",
        "helpers.standard": "feedbeeffeedbeef",
    }
    assert wanted.items() <= told.items()
    assert not [
        name for name, value in told.items() if value in ("null", "{}") or name.startswith("data.root")
    ]


def test_a_metric_keeps_its_name_and_the_time_of_its_event() -> None:
    event = {
        "event": "epoch",
        "epoch": 7,
        "t": 123,
        "metrics": {"loss/KL.adv.clean": 0.5, "val/robust": None},
    }
    assert content.Metrics().of(event) == ("epoch 7", [content.Metric("loss/KL.adv.clean", 0.5, 123, 7)])


def test_names_that_mlflow_refuses_are_mended_and_numbers_that_are_none_are_kept() -> None:
    event = {"event": "epoch", "epoch": 0, "t": 1, "metrics": {"loss/KL(adv, clean)": math.nan}}
    told = content.Metrics().of(event)
    assert told is not None
    [metric] = told[1]
    assert metric.name == "loss/KL.adv. clean."
    assert math.isnan(metric.value)


def test_a_second_evaluation_is_a_second_step_and_a_repeated_one_is_not() -> None:
    metrics = content.Metrics()

    def evaluated(digest: str, checkpoint: str = "best") -> tuple[str, list[tuple[str, int]]] | None:
        event = {"event": "evaluated", "evaluation": digest, "checkpoint": checkpoint, "t": 1}
        told = metrics.of(event | {"metrics": {"robust": 0.5}})
        return told and (told[0], [(m.name, m.step) for m in told[1]])

    assert evaluated("weak") == ("evaluated weak", [("robust", 0)])
    assert evaluated("strong") == ("evaluated strong", [("robust", 1)])
    assert evaluated("weak") is None
    assert evaluated("other", "last") == ("evaluated other", [("last/robust", 0)])


def test_what_was_evaluated_beside_has_its_attacks_before_the_names() -> None:
    metrics = content.Metrics()
    event = {"event": "evaluated", "checkpoint": "last", "t": 1, "metrics": {"robust": 0.5}}
    told = [
        metrics.of(event | {"evaluation": "a", "beside": ""}),
        metrics.of(event | {"evaluation": "b", "beside": "PGD-20"}),
    ]
    assert [[(m.name, m.step) for m in one[1]] for one in told if one] == [
        [("last/robust", 0)],
        [("last/PGD-20/robust", 0)],
    ]


def test_a_row_brings_its_tags_and_its_configuration() -> None:
    rows = [
        Row(0, "k", tags={"paper/x": "full"}, configuration="c", state="finished"),
        Row(1, "k", tags={"note": "mine"}, configuration="c"),
    ]
    told = content.tags(Story(), rows, "s", content.Standing("RUNNING"))
    assert {name: told[name] for name in ("paper/x", "note", "parapet.configuration")} == {
        "paper/x": "full",
        "note": "mine",
        "parapet.configuration": "c",
    }


FAILED = {"event": "failed", "kind": "diverged", "reason": "the loss is NaN"}


@pytest.mark.parametrize(
    ("events", "row_state", "alive", "status", "reason"),
    [
        ((), "open", True, "RUNNING", ""),
        ((), "failed", False, "FAILED", "its helper failed"),
        ((STARTED,), "open", True, "RUNNING", ""),
        ((STARTED,), "open", False, "KILLED", "its job ended unheard"),
        ((STARTED,), "failed", False, "FAILED", "its helper failed"),
        ((STARTED,), "pruned", False, "KILLED", "pruned"),
        ((STARTED,), "pruned", True, "RUNNING", ""),
        ((STARTED, {"event": "finished"}), "open", True, "FINISHED", ""),
        ((STARTED, {"event": "stopped", "why": "pruned"}), "pruned", False, "KILLED", "pruned"),
        ((STARTED, {"event": "stopped", "why": "signal"}), "open", True, "KILLED", "signal"),
        ((STARTED, FAILED), "open", True, "FAILED", "diverged: the loss is NaN"),
        ((STARTED, FAILED, {"event": "started", "attempt": 2}), "open", True, "RUNNING", ""),
        ((STARTED, {"event": "failed", "kind": "cancelled"}), "failed", False, "KILLED", "cancelled"),
    ],
)
def test_how_a_trial_stands(
    events: tuple[dict[str, Any], ...], row_state: str, alive: bool, status: str, reason: str
) -> None:
    row = Row(0, "k", state=row_state, reason="its helper failed" if row_state == "failed" else "")
    assert content.standing(story(*events), row, alive) == content.Standing(status, reason)  # type: ignore[arg-type]


def test_the_tail_of_a_log_is_whole_lines_of_the_last_attempt(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    assert log_tail(trial) == b""
    trial.logs.mkdir()
    for number in (2, 9, 10):
        (trial.logs / f"{number}.txt").write_text("".join(f"{number}: line {i}\n" for i in range(100)))
    assert log_tail(trial, 40) == b"10: line 97\n10: line 98\n10: line 99\n"
    assert log_tail(trial).count(b"\n") == 100


def test_the_row_that_is_still_open_speaks_for_a_trial_that_was_suggested_twice() -> None:
    rows = [Row(0, "k", state="failed"), Row(1, "k", state="finished"), Row(2, "k")]
    assert content.foremost(rows).row == 2
    assert content.foremost(rows[:2]).row == 1

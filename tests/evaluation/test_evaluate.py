"""Evaluations end to end: verdicts, what an outcome says, and the library's own answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated import Trained, evaluate
from small_digits import Pair, digits, small_net, train
from torch import nn

from evaluation import progress, run
from evaluation.autoattack import MEMBERS
from evaluation.spec import EvaluationSpec
from training.errors import UserError
from training.spec import AttackSpec


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps", "asked"), [("linf", 0.15, MEMBERS), ("l2", 0.7, MEMBERS[:2])])
def test_every_member_agrees_with_the_librarys_own_cascade(
    trained: Trained, tmp_path: Path, norm: str, eps: float, asked: tuple[str, ...]
) -> None:
    from pyautoattack import AutoAttack

    network, test = trained
    count, batch = 14, 8
    told: list[tuple[str, int, int]] = []
    metrics, ours = evaluate(
        network,
        test,
        tmp_path / "e.parquet",
        ("autoattack",) if asked == MEMBERS else asked,
        norm=norm,
        eps=eps,
        images=count,
        batch_size=batch,
        tell=lambda *facts: told.append(facts),
    )
    x, y = test.images[:count].float() / 255, test.labels[:count]
    # The library tells only what is left at its end, so it is asked for beginnings of its cascade.
    for last in {1, 2, len(asked)}:
        library = AutoAttack(network, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, seed=0)
        library.attacks_to_run = list(asked[:last])
        _, predicted = library.run_standard_evaluation(x, y, batch_size=batch)
        assert ours.columns[asked[last - 1]].tolist() == (predicted == y).tolist()

    standing = [metrics[name] for name in ("clean", *asked)]
    assert standing == sorted(standing, reverse=True)
    assert 0 < metrics["robust"] == standing[-1] < metrics["clean"]
    assert metrics.get("autoattack", standing[-1]) == standing[-1]
    attacked = [round(s * count) for s in standing[:-1]]
    assert [ours.facts["attacked"][name] for name in asked] == attacked
    assert [done for name, done, _ in told if name == "apgd-ce"] == [0, batch, attacked[0]]
    assert not any(ours.facts["strays"].values())


def test_a_network_trained_the_standard_way_falls(standard: Trained, tmp_path: Path) -> None:
    network, test = standard
    metrics, outcome = evaluate(
        network, test, tmp_path / "e.parquet", ("pgd", "autoattack"), eps=0.3, images=100
    )
    assert metrics["clean"] > 0.9
    assert metrics["robust"] <= metrics["pgd"] <= 0.02
    assert metrics["autoattack"] <= 0.01
    assert outcome.facts["attacked"]["apgd-ce"] == round(100 * metrics["clean"])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["pgd", "apgd-ce", "apgd-t", "fab-t", "square"])
def test_an_attack_asked_for_alone_breaks_images_that_are_right(
    trained: Trained, tmp_path: Path, attack: str, norm: str
) -> None:
    network, test = trained
    eps = {"linf": 0.35, "l2": 2.0}[norm]
    metrics, outcome = evaluate(
        network, test, tmp_path / "e.parquet", (attack,), norm=norm, eps=eps, images=30
    )
    assert metrics.keys() == {"clean", "robust", attack}
    assert outcome.facts["attacked"] == {attack: round(30 * metrics["clean"])}
    assert metrics["robust"] == metrics[attack] < 0.5 < metrics["clean"]
    assert not (outcome.columns[attack] & ~outcome.columns["correct"]).any()


def test_pgd_takes_the_steps_and_restarts_that_are_asked_for(trained: Trained, tmp_path: Path) -> None:
    def robust(file: str, **spec: float) -> float:
        return evaluate(*trained, tmp_path / file, ("pgd",), eps=0.35, images=60, pgd_steps=3, **spec)[0][
            "pgd"
        ]

    noise = robust("a", pgd_step_size=1e-6)  # no way from where it begins
    assert robust("b") < robust("c", pgd_step_size=1e-6, pgd_restarts=30) < noise


def test_verdicts_and_metadata_of_an_outcome(trained: Trained, tmp_path: Path) -> None:
    network, test = trained
    metrics, outcome = evaluate(network, test, tmp_path / "e.parquet", ("pgd", "apgd-ce"), images=50)
    logits = network(test.images[:50].float() / 255).detach()
    labels = test.labels[:50]
    others = logits.clone()
    others[torch.arange(50), labels] = -torch.inf
    margins = logits[torch.arange(50), labels] - others.amax(1)
    columns = outcome.columns
    assert list(columns) == [
        *("index", "label", "clean_prediction", "clean_margin", "correct", "pgd", "apgd-ce", "robust")
    ]
    assert columns["index"].tolist() == list(range(50))
    assert columns["label"].tolist() == labels.tolist()
    assert columns["clean_prediction"].tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(columns["clean_margin"], margins, atol=1e-5)
    assert (columns["correct"] == (columns["clean_margin"] > 0)).all()
    assert (columns["robust"] == (columns["correct"] & columns["pgd"] & columns["apgd-ce"])).all()
    assert metrics == outcome.metrics()

    spec = EvaluationSpec(attacks=("pgd", "apgd-ce"), images=50)
    facts = outcome.facts
    assert facts["key"] == "k"
    assert facts["evaluation"] == spec.digest(AttackSpec(eps=0.1))
    assert EvaluationSpec.model_validate(facts["spec"]) == spec
    assert (facts["threat"], facts["checkpoint"], facts["seed"]) == ({"norm": "linf", "eps": 0.1}, "best", 0)
    assert (facts["classes"], facts["cascade"], facts["left_out"], facts["folded"]) == (
        10,
        ["apgd-ce"],
        [],
        True,
    )
    assert facts["versions"]["pyautoattack"] == "0.2.0"
    assert not (tmp_path / "e.partial").exists()


@pytest.mark.parametrize(
    ("classes", "left_out"), [(2, ["apgd-t", "fab-t"]), (3, ["apgd-t", "fab-t"]), (5, [])]
)
def test_autoattack_on_few_classes(tmp_path: Path, caplog, classes: int, left_out: list[str]) -> None:
    torch.manual_seed(0)
    learn, test = digits(classes)
    network = train(nn.Sequential(nn.Flatten(), nn.Linear(64, classes)), learn, epochs=3)
    metrics, outcome = evaluate(network, test, tmp_path / "e.parquet", ("autoattack",), eps=0.2, images=20)
    ran = [name for name in MEMBERS if name not in left_out]
    assert outcome.facts["cascade"] == ran
    assert outcome.facts["left_out"] == left_out
    assert metrics.keys() == {"clean", "robust", "autoattack", *ran}
    assert metrics["autoattack"] < metrics["clean"]
    told = f"AutoAttack on {classes} classes is apgd-ce and square only"
    assert (told in caplog.text) == bool(left_out)


def test_few_classes_take_every_other_class_as_target(tmp_path: Path, monkeypatch) -> None:
    from pyautoattack import AutoAttack

    seen = []

    def look(ensemble: AutoAttack, x: torch.Tensor, y: torch.Tensor, **settings: int):
        members = (ensemble.apgd, ensemble.apgd_targeted, ensemble.fab)
        restarts = [member.n_restarts for member in members]
        seen.append((ensemble.apgd_targeted.n_target_classes, ensemble.fab.n_target_classes, restarts))
        return x, y

    monkeypatch.setattr(AutoAttack, "run_standard_evaluation", look)
    torch.manual_seed(0)
    for classes in (5, 10, 12):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
        images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
        labels = network(images.float() / 255).argmax(1)
        evaluate(network, Pair(images, labels), tmp_path / f"{classes}.parquet", ("apgd-t",))
    assert seen == [(4, 4, [1, 1, 1]), (9, 9, [1, 1, 1]), (9, 9, [1, 1, 1])]


def test_an_attack_that_few_classes_do_not_allow_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    sentence = (
        r"evaluate\.attacks: 'apgd-t' needs at least 4 classes and there are 3; ask for apgd-ce, square or"
    )
    with pytest.raises(UserError, match=sentence):
        run.check(EvaluationSpec(attacks=("apgd-t",)), digits(3)[1], 3)
    with pytest.raises(UserError, match=sentence):
        evaluate(network, digits(3)[1], tmp_path / "e.parquet", ("apgd-t",))


def test_more_images_than_there_are_is_refused(trained: Trained, tmp_path: Path) -> None:
    network, test = trained
    with pytest.raises(
        UserError, match=r"evaluate\.images: 100000 images asked for, and the test set has 540"
    ):
        evaluate(network, test, tmp_path / "e.parquet", ("pgd",), images=100_000)


def test_pgd_verdicts_do_not_depend_on_the_batches(trained: Trained, tmp_path: Path) -> None:
    network, test = trained
    columns = [
        evaluate(network, test, tmp_path / f"{size}.parquet", ("pgd",), images=200, batch_size=size)[
            1
        ].columns
        for size in (200, 7)
    ]
    assert columns[0]["pgd"].tolist() == columns[1]["pgd"].tolist()
    assert 0.1 < columns[0]["pgd"].mean() < columns[0]["correct"].mean() - 0.1


def test_images_outside_the_ball_do_not_count(trained: Trained, tmp_path: Path, monkeypatch, caplog) -> None:
    network, test = trained
    monkeypatch.setattr(
        run.Member, "__call__", lambda self, network, x, labels, indices: torch.rand_like(x).round()
    )
    metrics, outcome = evaluate(network, test, tmp_path / "e.parquet", ("apgd-ce",), images=50)
    assert metrics["robust"] == metrics["clean"]
    assert outcome.facts["strays"] == outcome.facts["attacked"]
    assert "left the ball" in caplog.text


def test_a_network_that_answers_nan_is_neither_right_nor_robust(tmp_path: Path) -> None:
    class Nan(nn.Module):
        """Right on black images in every place but where it answers NaN, which argmax takes for class 0."""

        def __init__(self, always: bool) -> None:
            super().__init__()
            self.always = always

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(x), 10)
            logits[:, 0] = 1 + 0 * x.sum(dim=(1, 2, 3))
            return logits.masked_fill(self.always | (x.amax(dim=(1, 2, 3)) > 0)[:, None], torch.nan)

    test = Pair(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    never, _ = evaluate(Nan(True), test, tmp_path / "always.parquet", ("pgd", "autoattack"))
    assert set(never.values()) == {0.0}
    off_clean, _ = evaluate(Nan(False), test, tmp_path / "attacked.parquet", ("pgd",))
    assert off_clean == {"clean": 1.0, "robust": 0.0, "pgd": 0.0}


def test_robust_is_right_under_every_attack_and_pgd_stays_out_of_the_cascade(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verdicts(bench: object, attack: object, indices: np.ndarray) -> progress.Verdicts:
        broken = indices < 10 if isinstance(attack, run.UntargetedPGD) else indices >= 20
        return progress.Verdicts(broken, 0, 0.0)

    monkeypatch.setattr(run._Bench, "attack", verdicts)
    _, outcome = evaluate(*trained, tmp_path / "e.parquet", ("pgd", "apgd-ce", "square"), images=30)
    columns, at = outcome.columns, np.arange(30)
    assert columns["pgd"].tolist() == (columns["correct"] & (at >= 10)).tolist()
    assert (
        columns["apgd-ce"].tolist() == columns["square"].tolist() == (columns["correct"] & (at < 20)).tolist()
    )
    assert columns["robust"].tolist() == (columns["correct"] & (at >= 10) & (at < 20)).tolist()
    facts = outcome.facts["attacked"]
    assert facts["pgd"] == facts["apgd-ce"] == columns["correct"].sum() > facts["square"]


def test_the_network_handed_in_is_left_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = small_net().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    evaluate(network, digits()[1], tmp_path / "e.parquet", ("pgd", "apgd-ce"), images=20)
    assert network.training
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_verdicts_do_not_depend_on_whether_batchnorm_could_be_folded(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without folding, searcher and judge are one network: a search must not leave it in train mode."""
    network, test = trained
    small = {"images": 100, "batch_size": 4}  # statistics of so few images are far from the running ones
    _, folded = evaluate(network, test, tmp_path / "a.parquet", ("pgd",), **small)
    monkeypatch.setattr(run, "folded", lambda network, x: None)
    _, whole = evaluate(network, test, tmp_path / "b.parquet", ("pgd",), **small)
    assert whole.facts["folded"] is False
    assert np.array_equal(whole.columns["pgd"], folded.columns["pgd"])

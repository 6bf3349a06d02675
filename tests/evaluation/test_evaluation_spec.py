"""What an evaluation's digest stands for."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from evaluation.spec import EvaluationSpec
from training.spec import AttackSpec

THREAT = AttackSpec(eps="8/255")


def test_the_digest_follows_what_is_computed_and_nothing_else() -> None:
    spec = EvaluationSpec(attacks=("autoattack", "pgd"), images=200)
    same = [
        EvaluationSpec(attacks=("pgd", "autoattack", "pgd"), images=200).digest(THREAT),
        spec.digest(AttackSpec(eps=8 / 255, steps=3, step_size=0.1)),
    ]
    assert set(same) == {spec.digest(THREAT)}
    other = [
        spec.digest(AttackSpec(norm="l2", eps="8/255")),
        spec.digest(AttackSpec(eps=0.1)),
        *(
            spec.model_copy(update=change).digest(THREAT)
            for change in (
                {"images": 201},
                {"checkpoint": "last"},
                {"batch_size": 1},
                {"pgd_steps": 1},
                {"pgd_step_size": 0.003},
                {"pgd_restarts": 2},
            )
        ),
        EvaluationSpec(attacks=("pgd",), images=200).digest(THREAT),
    ]
    assert len({*same, *other}) == 1 + len(other)


def test_digests_are_what_they_were_before_pgd_had_step_sizes_and_restarts() -> None:
    """Outcomes on disk are found by them."""
    assert EvaluationSpec().digest(THREAT) == "935b42111d22a605"
    assert EvaluationSpec(attacks=("pgd",), pgd_steps=20).digest(THREAT) == "99cb42a76c017365"


def test_attacks_have_the_names_that_people_use() -> None:
    assert EvaluationSpec(attacks=("autoattack",)).title == "AutoAttack"
    strong = EvaluationSpec(attacks=("pgd",), pgd_steps=40, pgd_step_size=0.01, pgd_restarts=5)
    assert strong.title == "PGD-40 with steps of 0.01 and 5 restarts"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"attacks": ["autoatack"]}, "no attack 'autoatack' (did you mean 'autoattack'?)"),
        ({"attacks": []}, "at least one attack"),
        ({"images": 0}, "greater than or equal to 1"),
        ({"image": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_is_named(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        EvaluationSpec.model_validate(given)
    assert sentence in str(error.value)

"""What finished trials are worth, put together so that only what can be compared is.

Trials are compared when they were judged by the same attacks, in the same threat model, on the same images, at the
same kind of checkpoint: a :class:`Ground`. A sweep over eps, or two sweeps on two data sets, have several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evaluation.spec import EvaluationSpec
from orchestrate.ledger import Row
from orchestrate.runs import Runs
from training.errors import UserError
from training.spec import TrialSpec, flatten

if TYPE_CHECKING:
    from evaluation.front import TrialResult
    from evaluation.outcomes import Outcome

NORM_NAMES = {"linf": "Linf", "l2": "L2"}
NOT_PARAMETERS = ("seed", "method.name", "data.root", "data.name", "attack.norm", "attack.eps")


@dataclass(frozen=True)
class Ground:
    """On what trials are compared. ``images`` is the digest of the evaluated images and labels."""

    data: str
    images: str
    attacks: str
    norm: str
    eps: float
    checkpoint: str

    @property
    def attack(self) -> str:
        """``AutoAttack, Linf, eps = 8/255``."""
        return f"{self.attacks}, {NORM_NAMES[self.norm]}, eps = {in_words(self.eps)}"

    def __str__(self) -> str:
        last = ", last checkpoint" if self.checkpoint == "last" else ""
        return f"{self.data}, {self.attack}{last}"


@dataclass(frozen=True)
class _Judged:
    """One evaluation of one trial."""

    row: Row
    spec: TrialSpec
    outcome: Outcome


def collect(runs: Runs, rows: Iterable[Row]) -> tuple[dict[Ground, list[TrialResult]], list[str]]:
    """The results of all finished rows by ground, most trials first, and what had to be left out, in sentences."""
    from evaluation import outcomes

    grounds: dict[Ground, dict[str, _Judged]] = {}
    left_out = []
    for row in rows:
        if row.state != "finished" or row.role != "trial":
            continue
        trial = runs.trial(row.key)
        for digest in row.evaluations:
            try:
                judged = _Judged(row, trial.spec(), outcomes.read(trial.outcome_file(digest)))
            except UserError as error:
                left_out.append(f"{row.label} seed {row.seed} is left out: {error}")
                continue
            grounds.setdefault(_ground(judged), {}).setdefault(row.key, judged)
    results = {ground: _results(list(judged.values())) for ground, judged in grounds.items()}
    return dict(sorted(results.items(), key=lambda item: -len(item[1]))), left_out


def in_words(eps: float) -> str:
    """A radius as people write it: ``8/255``, ``0.5``."""
    of_255 = round(eps * 255)
    short = round(eps, 3) == eps  # 0.2 is 51/255, and nobody says so
    return f"{eps:g}" if short or abs(eps * 255 - of_255) > 1e-6 else f"{of_255}/255"


def _ground(judged: _Judged) -> Ground:
    facts = judged.outcome.facts
    attacks = EvaluationSpec.model_validate(facts["spec"]).title
    threat = facts["threat"]
    return Ground(
        judged.spec.data.name, facts["data"], attacks, threat["norm"], threat["eps"], facts["checkpoint"]
    )


def _results(judged: Sequence[_Judged]) -> list[TrialResult]:
    from evaluation.front import TrialResult

    parameters = _parameters([one.spec for one in judged])
    results = []
    for one, given in zip(judged, parameters, strict=True):
        metrics = one.outcome.metrics()
        results.append(
            TrialResult(
                key=one.row.key,
                label=one.row.label or one.row.key,
                method=one.spec.method.name,
                formula=one.row.formula,
                parameters=given,
                seed=one.spec.seed,
                clean=metrics["clean"],
                robust=metrics["robust"],
                images=len(one.outcome.columns["index"]),
                selection=one.spec.selection if one.outcome.facts["checkpoint"] == "best" else "none",
            )
        )
    return results


def _parameters(specs: Sequence[TrialSpec]) -> list[dict[str, Any]]:
    """Per trial, the method's own parameters, and by their full names all others that are not the same in all."""
    flat = [_flat(spec) for spec in specs]
    counts = Counter((name, repr(value)) for facts in flat for name, value in facts.items())
    return [
        {
            name.removeprefix("method."): value
            for name, value in facts.items()
            if name.startswith("method.") or counts[name, repr(value)] < len(flat)
        }
        for facts in flat
    ]


def _flat(spec: TrialSpec) -> dict[str, Any]:
    facts = spec.dump()
    facts["helpers"] = {name: ref.get("key") or ref.get("digest") for name, ref in spec.helpers.items()}
    facts["imports"] = {name: digest[:12] for name, digest in spec.imports.items()}
    flat = {
        name: value
        for name, value in flatten(facts).items()
        if name not in NOT_PARAMETERS and value is not None and value != {}
    }
    if spec.method.with_:  # a modifier may have no parameter, or none that is set
        flat["method.modifiers"] = "+".join(spec.method.with_)
    return flat

"""Brings in the directory of a single trial: one that a batch script trained at another site, say.

It is told for every sweep here that asked for the trial. Where none did it becomes a sweep of its own, made from the
trial's spec and its evaluations, so that it can be listed, compared and gone on with like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from evaluation.spec import EvaluationSpec
from orchestrate import configuration, ledger, sync
from orchestrate.events import Story, story
from orchestrate.labels import Labels
from orchestrate.ledger import Row
from orchestrate.locks import Watch
from orchestrate.runs import Runs, SweepDir, TrialDir, read_yaml, write_whole
from orchestrate.sweep_file import Sweep, build
from training.errors import UserError
from training.spec import TrialSpec


def is_trial(folder: Path) -> bool:
    """Is this the directory of one trial, rather than a store of many?"""
    return (folder / "spec.yaml").is_file()


def check(trial: TrialDir, runs: Runs) -> dict[str, EvaluationSpec]:
    """The evaluations of a copied trial, by digest, foremost first. Raises UserError where it cannot be brought in.

    Changes nothing.
    """
    if trial.path == runs.trial(trial.key).path:
        raise UserError(f"{trial.path}: is in this store already")
    if not re.fullmatch(r"[0-9a-f]{16}", trial.key):
        raise UserError(
            f"{trial.path}: a trial's directory is called by its key, 16 of 0-9 and a-f; name it so again"
        )
    sync.refuse_links(trial.path)
    if (imports := imports_of(trial)) is not None:
        sync.check_imports(imports)
    spec = trial.spec()
    found = {file.stem: _evaluation(file, spec) for file in sorted(trial.path.glob("evaluations/*.yaml"))}
    if not found:
        raise UserError(
            f"{trial.path}: evaluations: holds none, so it is not known when the trial is finished"
        )
    return dict(sorted(found.items(), key=lambda named: _rank(named[1])))


def imports_of(trial: TrialDir) -> Path | None:
    """Where the copy has users' own files, if it is a whole store's and not only the one directory."""
    return trial.imports if trial.path.parent.name == "trials" else None


def homes(trial: TrialDir, evaluations: Mapping[str, EvaluationSpec], runs: Runs) -> list[SweepDir]:
    """The sweeps here that have a trial which is here by now, its rows' states brought up to date; at least one."""
    found = [
        sweep for sweep in runs.sweeps() if any(r.key == trial.key for r in ledger.read(sweep.ledger_file))
    ]
    found = found or [_own_sweep(trial, evaluations, runs)]
    told = story(trial.events)
    for sweep in found:
        if not Watch(sweep.lock_file).held():  # else its driver finds the trial, and notes how it ended
            _close(sweep, trial.key, told)
    return found


def _evaluation(file: Path, spec: TrialSpec) -> EvaluationSpec:
    try:
        evaluation = EvaluationSpec.model_validate(read_yaml(file))
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(f"{file}: {field}: is not what this version of parapet reads") from None
    if evaluation.digest(spec.attack) != file.stem:
        raise UserError(f"{file}: is not the evaluation that its name says: it was changed")
    return evaluation


def _rank(evaluation: EvaluationSpec) -> tuple[bool, float, str]:
    """AutoAttack before others, more images before fewer: the front goes by the first one."""
    images = float("inf") if evaluation.images is None else evaluation.images
    return "autoattack" not in evaluation.attacks, -images, evaluation.title


def _own_sweep(trial: TrialDir, evaluations: Mapping[str, EvaluationSpec], runs: Runs) -> SweepDir:
    spec = trial.spec()
    base = {name: given for name, given in spec.dump().items() if name not in ("seed", "imports")}
    first, *others = (evaluation.model_dump(mode="json") for evaluation in evaluations.values())
    content = {
        "name": f"trial-{trial.key[:8]}",
        "seeds": [spec.seed],
        "base": base,
        "evaluate": first | {"also": others},
        "import": spec.imports,
    }
    made = build(content, f"{trial.path}: spec.yaml")
    sweep = runs.sweep(made.name)
    write_whole(sweep.sweep_file, yaml.safe_dump(made.dump(), sort_keys=False))
    ledger.append(sweep.ledger_file, _row(trial, spec, made, list(evaluations), runs))
    return sweep


def _row(trial: TrialDir, spec: TrialSpec, made: Sweep, evaluations: list[str], runs: Runs) -> Row:
    alike = {name: _configuration(place, runs) for name, place in spec.helpers.items()}
    return Row(
        row=0,
        key=trial.key,
        config={"trial": 0},
        seed=spec.seed,
        evaluations=evaluations,
        label=Labels(made).of({"trial": 0}),
        formula=_formula(spec),
        configuration=configuration.digest(spec, alike),
    )


def _configuration(place: Mapping[str, str], runs: Runs) -> str:
    there = runs.trial(place["key"]) if "key" in place else None
    if there is None or not there.spec_file.exists():
        return configuration.GIVEN
    return configuration.of_reference(place, there.spec())


def _formula(spec: TrialSpec) -> str:
    """What it minimised; not told of a user's own method, whose file would have to be run for that."""
    if spec.imports:
        return ""
    from training.resolve import formula

    return formula(spec)


def _close(sweep: SweepDir, key: str, told: Story) -> None:
    """Note in the ledger how the trial has ended, if it has."""
    for row in ledger.read(sweep.ledger_file):
        if row.key != key:
            continue
        if told.complete(row.evaluations) and row.state != "finished":
            ledger.close(sweep.ledger_file, row.row, "finished")
        elif row.state == "open" and told.failure is not None:
            ledger.close(
                sweep.ledger_file, row.row, "failed", f"{told.failure['kind']}: {told.failure['reason']}"
            )

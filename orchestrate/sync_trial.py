"""Brings in the directory of a single trial: one that a batch script trained at another site, say.

It is told for every sweep here that asked for the trial. Where none did it becomes a sweep of its own, made from the
trial's spec and its evaluations, so that it can be listed and compared like any other. Networks that it began from,
and users' own files where only the one directory was copied, do not come with it.
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


def check(trial: TrialDir, runs: Runs) -> Sweep:
    """The sweep that a copied trial would be by itself. Raises UserError where it cannot be brought in.

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
    found = [_evaluation(file, spec) for file in sorted(trial.path.glob("evaluations/*.yaml"))]
    if not found:
        raise UserError(
            f"{trial.path}: evaluations: holds none, so it is not known when the trial is finished"
        )
    _expect_whole(trial, spec, story(trial.events))
    for sweep, row in _rows(runs, trial.key):
        alike = not row.configuration or bool(spec.helpers) or row.configuration == _configuration(spec, runs)
        if row.seed != spec.seed or not alike:
            raise UserError(
                f"{trial.spec_file}: is not the trial that sweep {sweep.name} has by this key: was the folder renamed?"
            )
    return _sweep(trial, spec, sorted(found, key=_rank))


def imports_of(trial: TrialDir) -> Path | None:
    """Where the copy has users' own files, if it is a whole store's and not only the one directory."""
    return trial.imports if trial.path.parent.name == "trials" else None


def homes(trial: TrialDir, alone: Sweep, runs: Runs) -> list[SweepDir]:
    """The sweeps here that have a trial which is here by now, its rows' states brought up to date; at least one.

    Args:
        alone: what :func:`check` has found, for where no sweep has it.
    """
    if not any(True for _ in _rows(runs, trial.key)):
        sweep, spec = runs.sweep(alone.name), trial.spec()
        write_whole(sweep.sweep_file, yaml.safe_dump(alone.dump(), sort_keys=False))
        ledger.append(sweep.ledger_file, _row(trial, spec, alone, runs))
    found = {sweep.name: sweep for sweep, _ in _rows(runs, trial.key)}
    told = story(trial.events)
    for sweep in found.values():
        if not Watch(sweep.lock_file).held():  # else its driver finds the trial, and notes how it ended
            _close(sweep, trial.key, told)
    return list(found.values())


def _rows(runs: Runs, key: str) -> list[tuple[SweepDir, Row]]:
    """Where sweeps of this store have the trial."""
    return [(s, row) for s in runs.sweeps() for row in ledger.read(s.ledger_file) if row.key == key]


def _expect_whole(trial: TrialDir, spec: TrialSpec, told: Story) -> None:
    """What a trained trial has left is there, readable, and of this spec. Raises UserError."""
    from evaluation import outcomes
    from training import checkpoint

    if told.trained is None and any(trial.outcomes.glob("*.parquet")):
        raise UserError(
            f"{trial.events}: end before the training did, and there are outcomes: were they cut off?"
        )
    for name in ("last.pt", "best.pt") if told.trained is not None else ():
        file = trial.checkpoints / name
        content = checkpoint.load(file)
        same = TrialSpec.model_validate(content["spec"]).key("") == spec.key("")  # wherever the images were
        if content["key"] != trial.key or not same:
            raise UserError(f"{file}: is of another spec than {trial.spec_file} (or the folder was renamed)")
    for digest in told.evaluated:
        file = trial.outcome_file(digest)
        if outcomes.read(file).facts["key"] != trial.key:
            raise UserError(f"{file}: is another trial's")


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


def _sweep(trial: TrialDir, spec: TrialSpec, evaluations: list[EvaluationSpec]) -> Sweep:
    """A sweep of this trial only, with as many of its evaluations as a sweep file can say together."""
    base = {name: given for name, given in spec.dump().items() if name not in ("seed", "imports")}
    for place in base["helpers"].values():
        place.pop("digest", None)  # a file is given by its path
    content = {"name": f"trial-{trial.key[:8]}", "seeds": [spec.seed], "base": base, "import": spec.imports}
    facts = [evaluation.model_dump(mode="json") for evaluation in evaluations]
    for first in facts:  # what `also` leaves out is as in the first, so not every one can be that
        also = [one for one in facts if one is not first]
        made = build(content | {"evaluate": first | {"also": also}}, str(trial.spec_file))
        if set(made.evaluate.specs()) == set(evaluations):
            return made
    return build(content | {"evaluate": facts[0]}, str(trial.spec_file))


def _row(trial: TrialDir, spec: TrialSpec, alone: Sweep, runs: Runs) -> Row:
    return Row(
        row=0,
        key=trial.key,
        config={"trial": 0},
        seed=spec.seed,
        evaluations=[evaluation.digest(spec.attack) for evaluation in alone.evaluate.specs()],
        label=Labels(alone).of({"trial": 0}),
        formula=_formula(spec),
        configuration=_configuration(spec, runs),
    )


def _configuration(spec: TrialSpec, runs: Runs) -> str:
    return configuration.digest(spec, {name: _of(place, runs) for name, place in spec.helpers.items()})


def _of(helper: Mapping[str, str], runs: Runs) -> str:
    there = runs.trial(helper["key"]) if "key" in helper else None
    if there is None or not there.spec_file.exists():
        return configuration.GIVEN
    return configuration.of_reference(helper, there.spec())


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
            reason = f"{told.failure['kind']}: {told.failure['reason']}"
            ledger.close(sweep.ledger_file, row.row, "failed", reason)

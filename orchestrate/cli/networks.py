"""Commands on one trained network: evaluate, export."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrate.cli.common import (
    ImportOption,
    OverridesArgument,
    RunsOption,
    TrialArgument,
    load_imports,
    percent,
    table,
)
from orchestrate.loading import loading
from orchestrate.runs import Runs, TrialDir, locate, write_whole
from training.errors import UserError

if TYPE_CHECKING:
    from evaluation.spec import EvaluationSpec
    from training.data import Dataset
    from training.spec import TrialSpec


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A best.pt or last.pt.")],
    overrides: OverridesArgument = None,
    attacks: Annotated[str, typer.Option(metavar="NAMES", help="With commas between them.")] = "autoattack",
    images: Annotated[int | None, typer.Option(metavar="N", help="Default: all test images.")] = None,
    imports: ImportOption = None,
    runs: RunsOption = None,
) -> None:
    """Attack any checkpoint, here and now.

    Data and threat model are those it was trained with unless overridden (data.root=PATH, attack.eps=4/255).
    Where the checkpoint is a trial's and its test images are used, per-image verdicts go to the trial's outcomes.
    Files of their user's own that trials of --runs were trained with are found there; for any other checkpoint give
    them with --import.
    """
    with loading("torch"):
        import torch

        import evaluation.run as evaluator
        from training.checkpoint import load_network
        from training.data import load

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    load_imports(imports)
    store = locate(runs)
    own = TrialDir(checkpoint.absolute().parent.parent)
    if store.url and own.path.parent == store.path / "trials" and own.spec_file.exists():
        _bring_checkpoints(store, own)
    _load_own_imports(checkpoint, store)
    network, trained, facts = load_network(checkpoint, device=device)
    spec = _overridden(trained, overrides or [])
    wanted = _evaluation(checkpoint, attacks, images)
    data = load(spec.data)
    _check_fit(checkpoint, facts, data)
    try:
        evaluator.check(wanted, data.test, data.classes)
    except UserError as error:  # it speaks of a sweep file's fields
        raise UserError(str(error).replace("evaluate.", "--", 1)) from None
    with _outcome(checkpoint, facts["key"], spec, wanted) as outcome:
        metrics = evaluator.evaluate(
            network,
            data.test,
            wanted,
            spec.attack,
            key=facts["key"],
            outcome=outcome,
            device=device,
            tell=_tell,
            stop=lambda: None,
        )
        if sys.stderr.isatty():
            print(file=sys.stderr)
        table(("attack", "accuracy %"), [(name, percent(value)) for name, value in metrics.items()])
        count = min(len(data.test.labels), wanted.images or len(data.test.labels))
        print(f"\n{count} test images of {spec.data.name}, {spec.attack.norm} eps {spec.attack.eps:g}")
        if outcome.parent.name == "outcomes":
            print(f"per image: {outcome}")
            if store.url:
                from orchestrate.storage.head import Head

                Head(store).push_outcome(TrialDir(outcome.parents[1]), outcome.stem)


def export(
    key: TrialArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: KEY.safetensors")
    ] = None,
    imports: ImportOption = None,
    runs: RunsOption = None,
) -> None:
    """Write the weights of a trial's best network as safetensors, and say how to load them."""
    import json

    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from training.checkpoint import load_network

    store = locate(runs)
    trial = store.find(key)
    _bring_checkpoints(store, trial)
    load_imports(imports, trial.spec().imports, store)
    network, spec, facts = load_network(trial.checkpoints / "best.pt", device="cpu")
    file = output or Path(f"{trial.key}.safetensors")
    if not file.parent.is_dir():
        raise UserError(f"--output: there is no folder {file.parent}")
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    about = {"key": trial.key, "spec": spec.dump(), "facts": {n: facts[n] for n in sorted(facts)}}
    try:
        save_file(weights, file, metadata={name: json.dumps(value) for name, value in about.items()})
    except (SafetensorError, OSError) as error:
        raise UserError(f"--output: {file} cannot be written: {error}") from None
    print(f"{file} ({sum(t.numel() for t in weights.values()):,} numbers). To load it:\n")
    print(_loading(file, spec, facts, store))


def _bring_checkpoints(store: Runs, trial: TrialDir) -> None:
    """Where the store is a local copy of an object store's: it leaves large files there until they are asked for."""
    if store.url:
        from orchestrate.storage.head import Head

        Head(store).pull_checkpoints(trial)


def _load_own_imports(checkpoint: Path, store: Runs) -> None:
    """Load what a trial of this store was trained with. A checkpoint from elsewhere has no say in what is run."""
    trial = TrialDir(checkpoint.resolve().parent.parent)
    if trial.path.parent == store.path / "trials" and trial.spec_file.exists():
        load_imports(None, trial.spec().imports, store)


def _loading(file: Path, spec: TrialSpec, facts: dict[str, Any], store: Runs) -> str:
    """Three lines of Python that make the network again; images are [N, C, H, W] in [0, 1].

    Before them one more, where it is a network of its user's own file.
    """
    from training.models import MODELS
    from training.recipes import build

    model = spec.model.model_dump(mode="json")
    shape, mean, std = tuple(facts["shape"]), tuple(facts["mean"]), tuple(facts["std"])
    head = build(spec.method, spec.attack).head
    arguments = f"training.spec.Choice(**{model!r}), {shape}, {facts['classes']}, {mean}, {std}"
    lines = [
        "import training.models, training.spec, safetensors.torch",
        f"network = training.models.build({arguments}{f', training.models.{head!r}' if head else ''}).eval()",
        f"network.load_state_dict(safetensors.torch.load_file({str(file)!r}))",
    ]
    origin = MODELS.get(spec.model.name, "model.name").origin
    if origin is not None:
        own = store.imports / origin.digest / origin.name
        lines.insert(0, f"import pathlib, training.extensions as own; own.load(pathlib.Path({str(own)!r}))")
    return "\n".join(lines)


def _overridden(trained: TrialSpec, overrides: Sequence[str]) -> TrialSpec:
    """The spec with other data or another threat model."""
    from pydantic import ValidationError

    from orchestrate import overrides as over
    from orchestrate.sweep_file import Sweep, dotted, explain
    from training.spec import TrialSpec

    given = [over.parse(text, Sweep) for text in overrides]
    for override in given:
        if override.path[0] not in ("data", "attack"):
            raise UserError(f"{override.text}: an evaluation can have other data.* or attack.*, nothing else")
    tree = over.apply({"base": trained.dump()}, given)["base"]
    try:
        return TrialSpec.model_validate(tree)
    except ValidationError as error:
        loc, problem = explain(error, TrialSpec)
        raise UserError(f"{dotted(loc)}: {problem}") from None


def _evaluation(checkpoint: Path, attacks: str, images: int | None) -> EvaluationSpec:
    from pydantic import ValidationError

    from evaluation.spec import EvaluationSpec
    from orchestrate.sweep_file import explain

    names = [name.strip() for name in attacks.split(",") if name.strip()]
    which = "best" if checkpoint.name == "best.pt" else "last"
    try:
        return EvaluationSpec.model_validate({"attacks": names, "images": images, "checkpoint": which})
    except ValidationError as error:
        loc, problem = explain(error, EvaluationSpec)
        raise UserError(f"--{loc[0]}: {problem}") from None


def _check_fit(checkpoint: Path, facts: dict[str, Any], data: Dataset) -> None:
    """Raise UserError when the network is for other images or classes than the data have."""
    has, needs = (facts["classes"], *facts["shape"]), (data.classes, *data.test.images.shape[1:])
    if has != needs:
        sizes = ["x".join(str(n) for n in sized[1:]) for sized in (has, needs)]
        raise UserError(
            f"{checkpoint}: is a network for {has[0]} classes of {sizes[0]} images, and data '{data.name}' has"
            f" {needs[0]} classes of {sizes[1]} images"
        )


@contextlib.contextmanager
def _outcome(checkpoint: Path, key: str, spec: TrialSpec, wanted: EvaluationSpec) -> Iterator[Path]:
    """Where verdicts go: to the trial, alone on it meanwhile; or nowhere, for a checkpoint or data of elsewhere."""
    import yaml

    from orchestrate.locks import Lock, LockHeld
    from training.data import digest as data_digest

    trial = TrialDir(checkpoint.absolute().parent.parent)
    own = trial.spec_file.exists() and checkpoint.name in ("best.pt", "last.pt")
    if own:  # the key digests the images' contents, so other images would give another key
        images = {"data": spec.data}
        own = trial.spec().model_copy(update=images).key(data_digest(spec.data)) == key == trial.key
    if not own:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "outcome.parquet"
        return
    digest = wanted.digest(spec.attack)
    try:
        with Lock(trial.lock_file):
            write_whole(trial.evaluation_file(digest), yaml.safe_dump(wanted.model_dump(mode="json")))
            yield trial.outcome_file(digest)
    except LockHeld:
        raise UserError(
            f"{checkpoint}: trial {trial.key} is running; evaluate it when it has ended"
        ) from None


def _tell(attack: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{attack}: {done} of {of} images   ", end="", file=sys.stderr, flush=True)

"""Commands that write files for a user to edit: init, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrate.cli.common import ImportOption, load_imports
from orchestrate.runs import write_whole
from training.errors import UserError

SCHEMA_FILE = "sweep.schema.json"

FIRST_SWEEP = f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
# A sweep: what to train, how to search, how to judge. Look at it with parapet sweep FILE --dry-run, run it with
# parapet sweep FILE. Any field can be overridden: parapet sweep FILE train.epochs=2 attack.eps=8/255

name: first                # results are in RUNS/sweeps/first; the same name goes on with the same sweep
seeds: [0]                 # every configuration runs once with each

base:                      # what all trials have in common
  data: {{name: digits}}     # digits is built in; mnist, fashion-mnist, cifar10, cifar100 and npz want a root:
  model: {{name: small-cnn}} # small-cnn, small-cnn-4x4, mlp, resnet18, preact-resnet18, ...
  train: {{epochs: 20, batch_size: 64, lr: 0.1}}
  attack: {{norm: linf, eps: 0.2, steps: 10}}    # pixels are in [0, 1]; step_size is eps / 4 unless given

trials:                    # each is laid over base; {{grid: [...]}} may stand for any value
- {{method: standard}}       # parapet methods lists them, and what can be added: trades+awp+wa
- {{method: pgd-at}}
- {{method: {{name: trades, beta: {{grid: [1, 3, 6]}}}}}}
- {{method: {{name: hat, beta: 3, gamma: {{grid: [0.25, 0.5]}}}}}}   # its standard network is trained first, and once

search: {{name: grid}}       # or {{name: random, samples: 8}}, {{name: optuna, samples: 24}}: then spaces may also be
                           # {{uniform: [a, b]}}, {{loguniform: [a, b]}} and {{int: [a, b]}}
scheduler: {{name: none}}    # or {{name: asha, metric: val/robust, grace_epochs: 3}}
evaluate: {{attacks: [autoattack], images: 200}}  # of the best checkpoint (by validation); drop images: for all of them
resources: {{cpus: 1}}       # per trial; gpus: 1 where there is one, and fractions are allowed
limits: {{retries: 1}}       # after a crash; hours: per trial
"""


def init(file: Annotated[Path, typer.Argument(metavar="[FILE]")] = Path("sweep.yaml")) -> None:
    """Write a first sweep file with comments, and beside it the schema that editors complete it by."""
    if file.exists():
        raise UserError(f"{file}: is there already; name another file")
    if not file.parent.is_dir():
        raise UserError(f"{file}: there is no folder {file.parent}")
    schema_file = file.with_name(SCHEMA_FILE)
    write_whole(schema_file, _schema())
    write_whole(file, FIRST_SWEEP)
    print(f"{file} and {schema_file} are written. Next: parapet sweep {file} --dry-run")


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: standard output.")
    ] = None,
    imports: ImportOption = None,
) -> None:
    """Print the JSON Schema of the sweep file, for editors; with --import, what a file of yours adds is in it."""
    load_imports(imports)
    if output is None:
        print(_schema(), end="")
        return
    if not output.parent.is_dir():
        raise UserError(f"--output: there is no folder {output.parent}")
    write_whole(output, _schema())


def _schema() -> str:
    from orchestrate.schema import document

    return json.dumps(document(), indent=1) + "\n"

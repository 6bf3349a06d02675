"""The folder that everything is kept in, and the paths inside it. One directory per trial is the interface.

::

    RUNS/                                   --runs, PARAPET_RUNS, or ./runs
      mlflow.db, mlartifacts/               the default store (MLFLOW_TRACKING_URI wins)
      object-store                          only in a local copy of an object store: its address
      identity                              tells this folder from others on one tracking server
      sweeps/NAME/                          sweep.yaml, ledger.jsonl, cluster, origins/, report/, relay.log
      imports/SHA256/NAME.py                users' own files, as they were when a sweep was run with them
      arrays/NONCE/                         what a Slurm job array of several trials needs
      trials/KEY/
        spec.yaml                           the resolved spec
        evaluations/EVAL.yaml               each evaluation that some sweep wants of this trial
        job.json                            only the submitter: an intent with a nonce, then the handle
        live.lock                           held by the process that trains, for as long as it lives
        stop                                a request to end: {"why": "cancelled" | "pruned" | "stopped"}
        events/N.jsonl                      attempt N, append-only
        checkpoints/                        last.pt, previous.pt, best.pt
        outcomes/EVAL.parquet               per-image verdicts
        log/N.txt                           what attempt N printed
        tracked.json                        only relays: what MLflow was told already
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orchestrate.storage import MARK, is_url, local_folder
from training.errors import UserError
from training.spec import TrialSpec

_FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it


@dataclass(frozen=True)
class TrialDir:
    """The directory of one trial."""

    path: Path

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def spec_file(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def job_file(self) -> Path:
        return self.path / "job.json"

    @property
    def lock_file(self) -> Path:
        return self.path / "live.lock"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def outcomes(self) -> Path:
        return self.path / "outcomes"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    @property
    def imports(self) -> Path:
        """Where the store that it is in keeps users' own files."""
        return Runs(self.path.parents[1]).imports

    def evaluation_file(self, digest: str) -> Path:
        return self.path / "evaluations" / f"{digest}.yaml"

    def outcome_file(self, digest: str) -> Path:
        return self.outcomes / f"{digest}.parquet"

    def create(self, spec: TrialSpec) -> None:
        """Write the resolved spec, once; a second sweep that wants the same trial finds it there."""
        if not self.spec_file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.spec_file, yaml.safe_dump(spec.dump(), sort_keys=False))

    @property
    def waits_file(self) -> Path:
        """Why the cluster does not take its job now, in the cluster's words."""
        return self.path / "waits.txt"

    def spec(self) -> TrialSpec:
        """The resolved spec. Raises UserError when there is none."""
        try:
            return TrialSpec.model_validate(yaml.load(self.spec_file.read_text(), _FASTEST))
        except FileNotFoundError:
            raise UserError(f"{self.spec_file}: there is no such trial") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise UserError(f"{self.spec_file}: is no YAML: it was cut off, or changed") from None
        except ValidationError as error:
            field = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise UserError(
                f"{self.spec_file}: {field}: is not what this version of parapet reads, or was changed"
            ) from None


@dataclass(frozen=True)
class SweepDir:
    """The directory of one sweep."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spent_file(self) -> Path:
        """There once the sweep's GPU-hours are spent (:mod:`orchestrate.budget`)."""
        return self.path / "spent"

    @property
    def sweep_file(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def ledger_file(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def cluster_file(self) -> Path:
        """The name of the cluster that it ran on last."""
        return self.path / "cluster"

    @property
    def lock_file(self) -> Path:
        return self.path / "live.lock"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop"

    @property
    def report(self) -> Path:
        return self.path / "report"


@dataclass(frozen=True)
class Runs:
    """All trials and sweeps of one store."""

    path: Path

    @property
    def url(self) -> str:
        """Where this is only a local copy: the object store's address; else empty (see :mod:`orchestrate.storage`)."""
        file = self.path / MARK
        return file.read_text().strip() if file.exists() else ""

    @property
    def imports(self) -> Path:
        return self.path / "imports"

    def trial(self, key: str) -> TrialDir:
        return TrialDir(self.path / "trials" / key)

    def sweep(self, name: str) -> SweepDir:
        return SweepDir(self.path / "sweeps" / name)

    def trials(self) -> Iterator[TrialDir]:
        """Every trial that has a spec, by key."""
        for spec in sorted((self.path / "trials").glob("*/spec.yaml")):
            yield TrialDir(spec.parent)

    def sweeps(self) -> Iterator[SweepDir]:
        """Every sweep, by name."""
        for file in sorted((self.path / "sweeps").glob("*/sweep.yaml")):
            yield SweepDir(file.parent)

    def find(self, prefix: str) -> TrialDir:
        """The one trial whose key begins with ``prefix``; UserError when there is none or more than one."""
        found = [t for t in self.trials() if t.key.startswith(prefix)]
        if len(found) != 1:
            many = f"{len(found)} trials begin with" if found else "there is no trial"
            raise UserError(f"{self.path}: {many} '{prefix}' (parapet ls shows them)")
        return found[0]


def locate(given: str | None, *, pull: bool = True) -> Runs:
    """The store: ``--runs``, else PARAPET_RUNS, else ``./runs``, as an absolute path.

    Of an object store it is a local copy, of what is small; with ``pull`` it is brought up to date.

    Raises UserError: an object store cannot be used; or a relative path inside a Ray job, where the working
    directory is a copy that goes away.
    """
    text = given or os.environ.get("PARAPET_RUNS") or "runs"
    if is_url(text):
        if not pull:
            return Runs(local_folder(text, "runs"))
        from orchestrate.storage.head import Head

        return Head.open(text).runs
    path = Path(text).expanduser()
    if not path.is_absolute() and os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        raise UserError(
            f"--runs: '{text}' is relative, and inside a Ray job the working directory is a copy that goes"
            " away; give an absolute path (--runs or PARAPET_RUNS)"
        )
    return Runs(path.resolve())


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a small file so that a reader sees the old content or the new, never half."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with draft.open("wb") as out:
        out.write(content.encode() if isinstance(content, str) else content)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


class _Loader(_FASTEST):  # type: ignore[misc]
    """YAML as people expect it: a key given twice is an error, and ``1e-3`` is a number (YAML 1.2)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key in (k for k, _ in node.value if isinstance(k, yaml.ScalarNode)):
        if key.value in seen:
            problem = f"the key '{key.value}' is there twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        seen.add(key.value)
    content: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return content


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def read_yaml(file: Path) -> Any:
    """The content of a YAML file; UserError naming file, line and column when it is malformed."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    return parse_yaml(text, str(file))


def parse_yaml(text: str, source: str) -> Any:
    """The content of YAML text; UserError naming its source, line and column when it is malformed."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{source}:{where} malformed YAML: {problem}") from None

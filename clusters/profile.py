"""A profile: what a user says about a Slurm site once, so that no sweep has to. A YAML file of a dozen lines.

``slurm:lab`` is ``~/.config/parapet/lab.yaml``, or else the example of that name in ``clusters/profiles/``;
``slurm:./mine.yaml`` is that file. Mistakes come out before anything is submitted, as one line that names the file, the
line and the field.
"""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from training.errors import UserError

EXAMPLES = Path(__file__).parent / "profiles"
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def _minutes(text: Any) -> Any:
    """``D-HH[:MM[:SS]]``, ``HH:MM:SS``, ``MM:SS`` or minutes, as Slurm reads them, in whole minutes."""
    found = _TIME.fullmatch(str(text).strip())
    if found is None:
        raise ValueError("must be like 8:00:00, 1-12:00:00, or a number of minutes")
    days, *rest = (None if part is None else int(part) for part in found.groups())
    if days is not None or rest[2] is not None:
        hours, minutes, seconds = (part or 0 for part in rest)
    else:
        hours, minutes, seconds = 0, rest[0] or 0, rest[1] or 0
    return math.ceil((((days or 0) * 24 + hours) * 60 + minutes) + seconds / 60)


def _lines(given: Any) -> Any:
    """One line, several, or a block of text."""
    return given.splitlines() if isinstance(given, str) else given


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Mail(_Part):
    """Slurm's own mail."""

    to: str = Field(min_length=1)
    at: tuple[Literal["BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "ALL"], ...] = ("FAIL",)


class Requeue(_Part):
    """What happens to a job that Slurm takes its place away from, or that reaches its time limit.

    Args:
        allowed: may Slurm start the same job again? If not, a lost trial is submitted as a new job.
        timeouts: so many times a job may reach its limit and go on.
        warning: seconds before the limit at which the job is told, so that it writes a checkpoint.
    """

    allowed: bool = True
    timeouts: int = Field(100, ge=0)
    warning: int = Field(120, ge=30, le=3600)


class _Loader(yaml.BaseLoader):
    """Every value as it is written (8:00:00 is no number in base 60); a field given twice is a mistake."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"'{key.value}' is there twice", problem_mark=key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


class Profile(_Part):
    """One site, as its user may use it. What is left out is left to Slurm's own defaults.

    Args:
        partition, account, qos, constraint, exclude, reservation: sbatch's options of these names.
        time: limit of a job, like 8:00:00; a training that takes longer goes on in the next.
        cpus, gpus: what a trial gets unless its sweep file says more.
        gpu_type, gpus_by: how GPUs are asked for: ``--gres=gpu:TYPE:N`` or ``--gpus-per-node=TYPE:N``.
        memory: of a job, like 16G.
        exclusive: a job has its node to itself.
        setup: lines of shell before Python starts: modules, conda.
        python: the Python on the nodes, possibly in a container: ``apptainer exec --nv image.sif python``.
        environment: variables that jobs get; one without a value is passed on from where the sweep runs.
        stage: a folder on each node's own disk that data are copied to, once per node; may hold variables of the node.
        parallel: most jobs of a sweep at once.
        poll: seconds between two questions to Slurm, which are about all jobs together.
        accounting: false where there is no sacct.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: Annotated[int, BeforeValidator(_minutes)] = Field(ge=1)
    cpus: int = Field(1, ge=1)
    gpus: int = Field(0, ge=0, le=1)
    gpu_type: str | None = None
    gpus_by: Literal["gres", "gpus-per-node"] = "gres"
    memory: str | None = Field(None, pattern=r"^\d+[KMGT]$")
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    exclusive: bool = False
    setup: Annotated[tuple[str, ...], BeforeValidator(_lines)] = ()
    python: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    stage: str | None = Field(None, min_length=1)
    requeue: Requeue = Requeue()
    mail: Mail | None = None
    parallel: int = Field(256, ge=1)
    poll: float = Field(10, gt=0)
    accounting: bool = True

    _file: Path = PrivateAttr(default=Path())

    @field_validator("environment")
    @classmethod
    def _names(cls, given: dict[str, str]) -> dict[str, str]:
        for name in given:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"'{name}' is no variable's name")
        return given

    @field_validator("stage")
    @classmethod
    def _whole_path(cls, given: str | None) -> str | None:
        if given is not None and given[0] not in "/$":
            raise ValueError("must be a whole path on the node, like /scratch or $TMPDIR")
        return given

    @property
    def file(self) -> Path:
        """Where it was read from."""
        return self._file

    def line_of(self, field: str) -> str:
        """``FILE: line N: FIELD``, or where there is no such line ``FILE: FIELD``: what a message begins with."""
        return _place(self._file, self._file.read_text() if self._file.is_file() else "", field)


def find(name: str) -> Path:
    """The file of a profile, by its name or path. UserError with the names that there are."""
    own = Path("~/.config/parapet").expanduser()
    if "/" in name or name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"--cluster slurm:{name}: there is no such file")
        return Path(name).resolve()
    for folder in (own, EXAMPLES):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({file.stem for folder in (own, EXAMPLES) for file in folder.glob("*.yaml")})
    raise UserError(
        f"--cluster slurm:{name}: there is no profile '{name}'{_nearest(name, known)}; there is: {', '.join(known)}"
        f" (yours go to {own})"
    )


def read(name: str) -> Profile:
    """The profile of that name or path, checked. Raises UserError."""
    file = find(name)
    text = file.read_text()
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{file}:{where} malformed YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: must hold fields, like partition: gpu")
    try:
        profile = Profile.model_validate(content)
    except ValidationError as error:
        raise UserError(_sentence(file, text, error)) from None
    profile._file = file
    return profile


def _sentence(file: Path, text: str, error: ValidationError) -> str:
    """The first mistake; what is missing comes last."""
    first = min(error.errors(), key=lambda mistake: mistake["type"] == "missing")
    names = [str(part) for part in first["loc"]]
    field = ".".join(name for name in names if not name.isdigit())
    match first["type"]:
        case "extra_forbidden":
            parts: dict[str, type[_Part]] = {"mail": Mail, "requeue": Requeue}
            model = parts.get(names[0], Profile) if len(names) > 1 else Profile
            says = f"there is no such field{_nearest(names[-1], list(model.model_fields))}"
        case "missing":
            says = "is missing"
        case "string_pattern_mismatch":
            says = f"must be like 16G, not '{first['input']}'"
        case "int_parsing" | "float_parsing" | "bool_parsing":
            kind = {"i": "a whole number", "f": "a number", "b": "true or false"}[first["type"][0]]
            says = f"must be {kind}, not '{first['input']}'"
        case "literal_error":
            says = f"must be {first['ctx']['expected']}, not '{first['input']}'"
        case _:
            says = (
                f"{first['msg'].removeprefix('Value error, ').removeprefix('Input ')}, not '{first['input']}'"
            )
    return f"{_place(file, text, field)}: {says[:1].lower()}{says[1:]}"


def _place(file: Path, text: str, field: str) -> str:
    top = field.partition(".")[0]
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(rf"{re.escape(top)}\s*:", line):
            return f"{file}: line {number}: {field}"
    return f"{file}: {field}"


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""

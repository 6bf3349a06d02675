"""A sweep's own Python files: read once, planned with, and kept in the store for whoever trains or looks later.

A sweep file names them by path (``import: [my_methods.py]``), or by what the store keeps of them (``import:
{my_methods.py: SHA256}``), which is how an earlier sweep's own ``sweep.yaml`` does: it goes on with the files as they
were, whatever became of them since.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from orchestrate.runs import Runs, write_whole
from orchestrate.sweep_file import Sweep
from training import extensions
from training.errors import UserError


@dataclass(frozen=True)
class _File:
    place: Path
    content: bytes
    where: str  # how messages call the field that names it

    @property
    def digest(self) -> str:
        return extensions.digest_of(self.content)


class Imports:
    """The files of one sweep as they were when this was made, whatever happens to them afterwards."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._files: dict[str, _File] = {}

    @classmethod
    def of(cls, sweep: Sweep, runs: Runs) -> Self:
        """The files that a sweep names. Raises UserError: one is not there, or two have one name."""
        imports = cls(runs)
        if isinstance(sweep.imports, dict):
            for name, digest in sweep.imports.items():
                imports._add(runs.imports / digest / name, sweep.where(0, f"import.{name}"), digest)
        else:
            for index, file in enumerate(sweep.imports):
                imports._add(Path(file), sweep.where(0, f"import[{index}]"))
        return imports

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by its name."""
        return {name: file.digest for name, file in self._files.items()}

    def load(self) -> None:
        """Run them, so that what they register is there. Raises UserError."""
        for file in self._files.values():
            try:
                extensions.load(file.place, file.content)
            except UserError as error:
                raise UserError(f"{file.where}: {error}") from error

    def keep(self) -> None:
        """Write a copy of each to where trials look for it."""
        for name, file in self._files.items():
            copy = self.runs.imports / file.digest / name
            if not copy.exists() or copy.read_bytes() != file.content:
                write_whole(copy, file.content)

    def _add(self, file: Path, where: str, digest: str | None = None) -> None:
        try:
            content = (
                extensions.kept(file.name, digest, self.runs.imports) if digest else extensions.read(file)
            )
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if file.name in self._files:
            raise UserError(f"{where}: two files are called {file.name}; rename one of them")
        self._files[file.name] = _File(file, content, where)

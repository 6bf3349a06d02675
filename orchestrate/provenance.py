"""What a result came from, besides its spec: the environment, the commit and its changes, the source itself.

A Ray job's working directory has no ``.git``, so reproduction starts from the archive, not from the commit.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import io
import os
import platform
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from training.errors import UserError

SOURCE_LIMIT = 50 * 2**20  # bytes before compression; a source tree beyond this holds data
SOURCE_SUFFIXES = (".py", ".yaml", ".yml", ".toml")
MOST_FOLDERS = 5000  # without git: beyond this it is somebody's home, not a project
NO_SOURCE = frozenset({"runs", "build", "dist", "__pycache__"})


@dataclass(frozen=True)
class Git:
    """The state of a repository: the commit, and what differs from it.

    ``branch`` is empty when detached. ``diff`` covers tracked files (of binary ones it only says that they
    differ), ``untracked`` names files that are neither tracked nor ignored.
    """

    commit: str
    branch: str
    diff: str
    untracked: tuple[str, ...]

    @property
    def dirty(self) -> bool:
        """Did what ran differ from the commit?"""
        return bool(self.diff or self.untracked)


def running_from() -> Path:
    """The folder of the source that runs: a checkout, or a Ray job's copy of one.

    For a parapet that is installed like any other package, the working directory: its own source is then told by
    its version in the environment lock.
    """
    folder = Path(__file__).resolve().parents[1]
    return folder if (folder / "pyproject.toml").exists() else Path.cwd()


def environment_lock() -> str:
    """Interpreter, platform, and every installed distribution as ``name==version``, sorted, one per line."""
    installed = {
        distribution.metadata["Name"].lower().replace("_", "-"): distribution.version
        for distribution in importlib.metadata.distributions()
        if distribution.metadata["Name"]
    }
    head = [f"# python {platform.python_version()} ({sys.executable})", f"# {platform.platform()}"]
    return "\n".join([*head, *(f"{name}=={installed[name]}" for name in sorted(installed))]) + "\n"


def git(folder: Path, exclude: Path | None = None) -> Git | None:
    """The repository that ``folder`` lies in; None where there is none, no commit yet, or no git program.

    What lies under ``exclude`` (the folder that results are kept in) is no change.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return Git(
        commit=commit.strip(),
        branch=(_git(folder, "symbolic-ref", "--short", "--quiet", "HEAD") or "").strip(),
        diff=_git(folder, "diff", "HEAD") or "",
        untracked=tuple(
            file.relative_to(folder).as_posix()
            for file in _existing(folder, _listed(folder, "--others", "--exclude-standard"), exclude)
        ),
    )


def source_archive(out: Path, folder: Path, exclude: Path | None = None, limit: int = SOURCE_LIMIT) -> str:
    """Write the source of ``folder`` to ``out`` (tar.gz) and return the archive's SHA-256.

    Equal sources give equal bytes: names are sorted, times and owners left out. Raises UserError when the files
    are larger than ``limit`` bytes together.
    """
    files = source_files(folder, exclude)
    total = sum(file.stat().st_size for file in files)
    if total > limit:
        largest = max(files, key=lambda file: file.stat().st_size).relative_to(folder)
        raise UserError(
            f"{folder}: the source is {total / 2**20:.1f} MiB and at most {limit / 2**20:.1f} MiB are archived;"
            f" let .gitignore name what is no source (the largest file is {largest})"
        )
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in files:
            content = file.read_bytes()
            entry = tarfile.TarInfo(file.relative_to(folder).as_posix())
            entry.size = len(content)
            entry.mode = 0o755 if os.access(file, os.X_OK) else 0o644
            archive.addfile(entry, io.BytesIO(content))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(packed.getvalue())
    return hashlib.sha256(packed.getvalue()).hexdigest()


def source_files(folder: Path, exclude: Path | None = None) -> list[Path]:
    """The files below ``folder`` that are source, sorted; links and virtual environments are not.

    With git: what is tracked, or untracked and not ignored. Without: Python, YAML and TOML files; UserError where
    there are too many folders to look through.
    """
    if _git(folder, "rev-parse", "--is-inside-work-tree") is None:
        names = _without_git(folder)
    else:
        names = _listed(folder, "--cached", "--others", "--exclude-standard")
    return _existing(folder, names, exclude)


def _existing(folder: Path, names: list[str], exclude: Path | None) -> list[Path]:
    """Those of the names that are files of the project, sorted."""
    environments = {config.parent for config in folder.glob("*/pyvenv.cfg")}
    hidden = environments | ({exclude} if exclude else set())
    files = (folder / name for name in sorted(set(names)))
    return [
        file for file in files if file.is_file() and not file.is_symlink() and hidden.isdisjoint(file.parents)
    ]


def _without_git(folder: Path) -> list[str]:
    found = []
    for count, (parent, folders, files) in enumerate(os.walk(folder)):
        if count == MOST_FOLDERS:
            raise UserError(
                f"{folder}: has more than {MOST_FOLDERS} folders, so its source is not archived; start sweeps from"
                " a project's own folder, or make it a git repository"
            )
        folders[:] = [name for name in folders if name not in NO_SOURCE and not name.startswith(".")]
        here = Path(parent).relative_to(folder)
        found += [(here / name).as_posix() for name in files if name.endswith(SOURCE_SUFFIXES)]
    return found


def _listed(folder: Path, *which: str) -> list[str]:
    """Paths below ``folder``, relative to it, as ``git ls-files`` says."""
    listed = _git(folder, "ls-files", "-z", *which)
    return [name for name in (listed or "").split("\0") if name]


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None when it fails or is not installed."""
    try:
        done = subprocess.run(
            ("git", "-C", str(folder), *arguments), capture_output=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")

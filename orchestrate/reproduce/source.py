"""The source that a trial ran from, unpacked in a fresh folder, and what git says of it.

The archive that was logged with the sweep is what ran. A repository that knows the commit can only confirm it, or,
where no archive was kept, stand in for it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.provenance import SOURCE_LIMIT
from training.errors import UserError

MOST_NAMED = 3  # files that a sentence names
OURS = "orchestrate/trial.py"  # what the source of parapet has, and nobody else's


@dataclass(frozen=True)
class Source:
    """``sentence`` says where it came from and what it was checked against; ``doubt``: is that less than all?

    ``whole``: does it hold parapet itself, not only what somebody wrote beside an installed one?
    """

    folder: Path
    sentence: str
    doubt: bool
    whole: bool


def rebuild(
    into: Path, archive: Path | None, facts: Mapping[str, Any], changes: bytes, beside: Iterable[Path]
) -> Source:
    """The source in ``into``.

    Args:
        archive: what was logged; None: nothing.
        facts: of ``origin.json``: its name with its digest, commit, untracked files.
        changes: ``changes.diff``.
        beside: folders whose repositories may know the commit.

    Raises:
        UserError: the archive is not what was logged, or may not be unpacked; or there is none, and no repository.
    """
    commit = facts.get("commit") or ""
    repository = next((top for folder in beside if (top := _knowing(folder, commit))), None)
    if archive is not None:
        _unpack(archive, facts["source"].partition(".")[0], into)
        sentence, doubt = _confirmed(into, repository, commit, changes, facts)
        return Source(into, f"the archive that was logged; {sentence}", doubt, (into / OURS).exists())
    why = facts.get("no_source") or "it is not in the store"
    if repository is None:
        clone = f"; run this in a repository that has commit {commit}" if commit else ""
        raise UserError(f"source: no archive of what ran can be had ({why}){clone}")
    into.mkdir(parents=True)
    if problem := _checked_out(repository, commit, changes, into):
        raise UserError(
            f"source: no archive of what ran can be had ({why}), nor commit {commit[:12]}: {problem}"
        )
    lacking = facts.get("untracked") or []
    without = f", without what git did not track: {_some(lacking)}" if lacking else ""
    sentence = f"no archive ({why}); commit {commit[:12]} and its changes from {repository}{without}"
    return Source(into, sentence, True, (into / OURS).exists())


def _unpack(archive: Path, digest: str, into: Path) -> None:
    """Unpack ordinary files, into this folder and nowhere else."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != digest:
        raise UserError(f"source: {archive.name} is not what was logged: its SHA-256 is {found}")
    into.mkdir(parents=True)
    size = 0
    try:
        with tarfile.open(archive, "r:gz") as packed:
            for member in packed:
                size += member.size
                if not (member.isfile() or member.isdir()) or size > SOURCE_LIMIT:
                    raise UserError(f"source: {archive.name}: {member.name} is no file of a source archive")
                packed.extract(member, into, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"source: {archive.name} cannot be unpacked: {error}") from None


def _confirmed(
    folder: Path, repository: Path | None, commit: str, changes: bytes, facts: Mapping[str, Any]
) -> tuple[str, bool]:
    """What git says of the unpacked source, and whether that leaves a doubt."""
    if not commit:
        return "there was no repository to check it against", False
    if repository is None:
        return f"not checked: no repository here has commit {commit[:12]}", True
    named = f"commit {commit[:12]}{' and its changes' if changes else ''}"
    with tempfile.TemporaryDirectory(prefix="parapet-") as scratch:
        tree = Path(scratch)
        if problem := _checked_out(repository, commit, changes, tree):
            return f"not checked against {named}: {problem}", True
        ours, theirs = _contents(folder), _contents(tree)
    untracked = set(facts.get("untracked") or ())
    other = [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name) and not (name in untracked and name not in theirs)
    ]
    if other:
        return f"it differs from {named} in {_some(other)}", True
    beyond = f", but for what git did not track: {_some(sorted(untracked))}" if untracked else ""
    return f"it equals {named}{beyond}", False


def _knowing(folder: Path, commit: str) -> Path | None:
    """The top of the repository that ``folder`` is in, where that has the commit."""
    if not commit.isalnum() or _git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return None
    top = _git(folder, "rev-parse", "--show-toplevel")
    return Path(os.fsdecode(top).rstrip("\n")) if top else None


def _checked_out(repository: Path, commit: str, changes: bytes, into: Path) -> str:
    """Put the files of a commit, with changes, into an empty folder; returns what went wrong."""
    packed = _git(repository, "archive", "--format=tar", commit)
    if packed is None:
        return "git archive fails"
    with tempfile.TemporaryFile() as file:
        file.write(packed)
        file.seek(0)
        with tarfile.open(fileobj=file) as tree:
            for member in tree:
                if member.isfile() or member.isdir():  # as in our archives, which hold no links
                    tree.extract(member, into, filter="data")
    if changes and _git(into, "apply", "--whitespace=nowarn", "-", told=changes) is None:
        return "git cannot apply its changes"
    return ""


def _contents(folder: Path) -> dict[str, str]:
    """The digest of every file, by its path below ``folder``."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _git(folder: Path, *arguments: str, told: bytes = b"") -> bytes | None:
    """What git says; None when it fails or is not installed. A repository above a scratch folder is none of its."""
    ceiling = {"GIT_CEILING_DIRECTORIES": str(folder.parent)} if arguments[0] == "apply" else {}
    try:
        done = subprocess.run(
            ("git", "-C", str(folder), *arguments),
            input=told,
            capture_output=True,
            timeout=120,
            check=True,
            env=os.environ | ceiling,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])

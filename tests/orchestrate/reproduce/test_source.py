"""The source of a trial: unpacked safely, confirmed by git, or taken from it."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from orchestrate import provenance
from orchestrate.reproduce import source
from training.errors import UserError


def git(folder: Path, *words: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ("git", "-C", str(folder), *name, *words), check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a commit, a change after it, and a file that git does not track."""
    folder = tmp_path / "project"
    (folder / "orchestrate").mkdir(parents=True)
    (folder / "orchestrate" / "trial.py").write_text("one = 1\n")
    (folder / "run.py").write_text("a\nb\nc\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    (folder / "run.py").write_text("a\nB\nc\n")
    (folder / "notes.py").write_text("n = 1\n")
    return folder


def logged(project: Path, tmp_path: Path) -> tuple[Path, dict[str, Any], bytes]:
    """What a sweep logs of it."""
    archive = tmp_path / "archive.tar.gz"
    digest = provenance.source_archive(archive, project)
    found = provenance.git(project)
    assert found is not None
    facts = {"source": f"{digest}.tar.gz", "commit": found.commit, "untracked": list(found.untracked)}
    return archive, facts, found.diff.encode()


def test_an_archive_is_unpacked_and_confirmed_by_the_commit_and_its_changes(
    project: Path, tmp_path: Path
) -> None:
    archive, facts, changes = logged(project, tmp_path)
    made = source.rebuild(tmp_path / "out", archive, facts, changes, [tmp_path, project])
    assert (made.doubt, made.whole) == (False, True)
    assert (
        f"it equals commit {facts['commit'][:12]} and its changes, but for what git did not track: notes.py"
        in made.sentence
    )
    for name in ("run.py", "notes.py", "orchestrate/trial.py"):
        assert (tmp_path / "out" / name).read_bytes() == (project / name).read_bytes()


def test_an_archive_that_is_not_of_its_commit_is_doubted(project: Path, tmp_path: Path) -> None:
    archive, facts, _ = logged(project, tmp_path)
    made = source.rebuild(tmp_path / "out", archive, facts, b"", [project])
    assert made.doubt
    assert "differs from commit" in made.sentence
    assert "in run.py" in made.sentence


def test_without_an_archive_a_repository_stands_in(project: Path, tmp_path: Path) -> None:
    _, facts, changes = logged(project, tmp_path)
    made = source.rebuild(tmp_path / "out", None, facts, changes, [project])
    assert made.doubt
    assert "without what git did not track: notes.py" in made.sentence
    assert (tmp_path / "out" / "run.py").read_text() == "a\nB\nc\n"
    with pytest.raises(UserError, match=f"run this in a repository that has commit {facts['commit']}"):
        source.rebuild(tmp_path / "none", None, facts, changes, [tmp_path])


@pytest.mark.parametrize("harm", ["../out.py", "/tmp/out.py", "link"])
def test_an_archive_writes_nowhere_else(harm: str, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo(harm)
        entry.size = 1
        if harm == "link":
            entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0
        archive.addfile(entry, io.BytesIO(b"x"))
    file = tmp_path / "archive.tar.gz"
    file.write_bytes(packed.getvalue())
    facts = {"source": f"{hashlib.sha256(packed.getvalue()).hexdigest()}.tar.gz"}
    if harm.startswith("/"):  # the filter takes the slash away
        source.rebuild(tmp_path / "in" / "source", file, facts, b"", [])
        assert (tmp_path / "in" / "source" / "tmp" / "out.py").exists()
        return
    with pytest.raises(UserError, match=r"archive\.tar\.gz"):
        source.rebuild(tmp_path / "in" / "source", file, facts, b"", [])
    assert not (tmp_path / "in" / "out.py").exists()

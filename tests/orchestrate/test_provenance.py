"""What a result came from can be told, and the archive brings the source back."""

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from orchestrate import provenance
from training.errors import UserError


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        file = folder / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def in_git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(("git", *who, *arguments), cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write(tmp_path, a_dot_py="a = 1\n", sub__b_dot_txt="b\n", _dot_gitignore="ignored/\n")
    in_git(tmp_path, "init", "-q", "-b", "trunk")
    in_git(tmp_path, "add", ".")
    in_git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as packed:
        return packed.getnames()


def test_the_environment_names_what_pip_freeze_names() -> None:
    lines = provenance.environment_lock().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    freeze = subprocess.run(
        [sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True
    )
    pins = [line for line in freeze.stdout.splitlines() if "==" in line and not line.startswith("#")]
    frozen = {line.lower().replace("_", "-") for line in pins}
    assert pinned == sorted(pinned, key=lambda line: line.partition("==")[0])
    assert frozen
    assert frozen <= set(pinned)
    assert sys.version.split()[0] in lines[0]


def test_a_clean_repository_is_told_by_commit_and_branch(repository: Path) -> None:
    state = provenance.git(repository)
    assert state is not None
    assert state.commit == in_git(repository, "rev-parse", "HEAD").strip()
    assert state.branch == "trunk"
    assert not state.dirty


def test_the_diff_of_a_dirty_repository_leads_from_the_commit_to_what_ran(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write(repository, a_dot_py="a = 2\n", new_dot_py="c = 3\n", ignored__x_dot_py="")
    state = provenance.git(repository)
    assert state is not None
    assert state.dirty
    assert state.untracked == ("new.py",)
    clone = tmp_path_factory.mktemp("clone")
    in_git(clone, "clone", "-q", str(repository), ".")
    subprocess.run(("git", "apply"), input=state.diff, text=True, cwd=clone, check=True)
    assert (clone / "a.py").read_text() == "a = 2\n"


def test_a_folder_without_git_says_so(tmp_path: Path) -> None:
    assert provenance.git(tmp_path) is None


def test_results_beside_the_source_are_neither_source_nor_a_change(repository: Path) -> None:
    write(repository, results__trials__spec_dot_yaml="x: 1\n", env__pyvenv_dot_cfg="", env__lib__m_dot_py="")
    state = provenance.git(repository, exclude=repository / "results")
    assert state is not None
    assert not state.dirty
    provenance.source_archive(repository / "results" / "s.tar.gz", repository, repository / "results")
    assert names(repository / "results" / "s.tar.gz") == [".gitignore", "a.py", "sub/b.txt"]


def test_the_archive_holds_tracked_and_new_files_but_no_ignored_ones(
    repository: Path, tmp_path: Path
) -> None:
    write(repository, new_dot_py="c = 3\n", ignored__x_dot_py="", a_dot_py="a = 2\n")
    out = tmp_path / "ignored" / "source.tar.gz"
    digest = provenance.source_archive(out, repository)
    assert digest == hashlib.sha256(out.read_bytes()).hexdigest()
    assert names(out) == [".gitignore", "a.py", "new.py", "sub/b.txt"]
    with tarfile.open(out) as packed:
        packed.extractall(tmp_path / "ignored" / "again", filter="data")
    assert (tmp_path / "ignored" / "again" / "a.py").read_text() == "a = 2\n"


def test_equal_sources_give_equal_archives_and_other_sources_other_ones(tmp_path: Path) -> None:
    digests = []
    for i, text in enumerate(["a", "a", "b"]):
        write(tmp_path / str(i), x_dot_py=text, sub__y_dot_yaml="y")
        digests.append(provenance.source_archive(tmp_path / f"{i}.tar.gz", tmp_path / str(i)))
    assert digests[0] == digests[1] != digests[2]


def test_without_git_only_source_files_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    write(
        folder,
        a_dot_py="",
        conf_dot_yaml="",
        pyproject_dot_toml="",
        data_dot_npz="",
        runs__t__spec_dot_yaml="",
    )
    write(folder, _dot_venv__lib__m_dot_py="")
    provenance.source_archive(tmp_path / "s.tar.gz", folder)
    assert names(tmp_path / "s.tar.gz") == ["a.py", "conf.yaml", "pyproject.toml"]


def test_a_source_too_large_to_archive_is_refused_naming_the_largest_file(tmp_path: Path) -> None:
    write(tmp_path, a_dot_py="a", big_dot_py="b" * 2000)
    with pytest.raises(UserError, match=r"big\.py"):
        provenance.source_archive(tmp_path / "s.tar.gz", tmp_path, limit=1000)
    assert not (tmp_path / "s.tar.gz").exists()


def test_a_home_full_of_folders_is_not_searched_for_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "MOST_FOLDERS", 3)
    for name in "abc":
        write(tmp_path, **{f"{name}__x_dot_py": ""})
    with pytest.raises(UserError, match="more than 3 folders"):
        provenance.source_archive(tmp_path / "s.tar.gz", tmp_path)

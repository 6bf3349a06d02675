"""Outcome files: what is written is read, whole or not at all, and damage is told in a sentence."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from evaluation import outcomes
from evaluation.files import write_whole
from evaluation.outcomes import FACTS, Outcome
from training.errors import UserError


def _outcome(rows: int = 4) -> Outcome:
    half = np.arange(rows) % 2 == 0
    columns = {
        "index": np.arange(rows),
        "label": np.arange(rows) % 3,
        "clean_prediction": np.arange(rows) % 3,
        "clean_margin": np.linspace(-1, 1, rows, dtype=np.float32),
        "correct": np.ones(rows, bool),
        "pgd": half,
        "robust": half,
    }
    return Outcome(columns, dict.fromkeys(FACTS) | {"key": "abc", "threat": {"norm": "l2", "eps": 0.5}})


@pytest.mark.parametrize("rows", [0, 4, 1001])
def test_what_is_written_is_read(tmp_path: Path, rows: int) -> None:
    file = tmp_path / "outcomes" / "e.parquet"
    outcomes.write(_outcome(rows), file)
    back = outcomes.read(file)
    assert back.facts == _outcome().facts
    for name, column in _outcome(rows).columns.items():
        assert back.columns[name].dtype == column.dtype
        assert np.array_equal(back.columns[name], column)
    assert back.attacks == ("pgd",)


def test_accuracies_are_parts_of_all_images(tmp_path: Path) -> None:
    outcomes.write(_outcome(), tmp_path / "e.parquet")
    assert outcomes.read(tmp_path / "e.parquet").metrics() == {"clean": 1.0, "robust": 0.5, "pgd": 0.5}


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    file = tmp_path / "e.parquet"
    outcomes.write(_outcome(), file)
    assert pd.read_parquet(file)["pgd"].sum() == 2
    assert pq.read_schema(file).metadata[b"key"] == b'"abc"'


def test_writing_and_reading_load_no_pandas(tmp_path: Path) -> None:
    """Which every trial would wait for."""
    code = """
    import sys
    from test_outcomes import *
    from test_outcomes import _outcome
    outcomes.write(_outcome(), Path("e.parquet"))
    assert outcomes.read(Path("e.parquet")).attacks == ("pgd",)
    assert "pandas" not in sys.modules
    """
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env=env, check=True)


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "truncated", "flipped", "text", "folder", "other parquet", "gaps", "words"]
)
def test_an_unreadable_file_is_named_in_one_sentence(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "e.parquet"
    outcomes.write(_outcome(100), file)
    content = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "folder":
            file.unlink()
            file.mkdir()
        case "other parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"x": [1]}), file)
        case "gaps" | "words":
            import pyarrow as pa
            import pyarrow.parquet as pq

            whole, put = pq.read_table(file), [None if damage == "gaps" else "x"] * 100
            column = whole.column_names.index("pgd")
            pq.write_table(
                whole.set_column(
                    column, "pgd", pa.array(put, pa.bool_() if damage == "gaps" else pa.string())
                ),
                file,
            )
        case _:
            half = len(content) // 2
            bent = {"empty": b"", "truncated": content[:half], "text": b"index,label\n0,1\n"}
            bent["flipped"] = content[:half] + bytes(b ^ 255 for b in content[half:])
            file.write_bytes(bent[damage])
    with pytest.raises(UserError, match=r"e\.parquet: ") as error:
        outcomes.read(file)
    assert "\n" not in str(error.value)


def test_a_file_is_replaced_not_written_over(tmp_path: Path) -> None:
    file, held = tmp_path / "a", tmp_path / "b"
    write_whole(file, b"old")
    held.hardlink_to(file)  # a reader that opened the old file
    write_whole(file, b"new")
    assert (file.read_bytes(), held.read_bytes()) == (b"new", b"old")


def test_a_full_disk_names_the_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "e.parquet"
    write_whole(file, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (1000, hard)
    )  # the kernel refuses the rest of a write, as when full
    try:
        with pytest.raises(OSError, match=r"e\.parquet") as error:
            outcomes.write(_outcome(1000), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["e.parquet"]


def test_a_folder_that_cannot_be_made_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "outcomes").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=r"e\.parquet"):
        outcomes.write(_outcome(), tmp_path / "outcomes" / "e.parquet")

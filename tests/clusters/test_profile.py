"""Profiles: what they may say, and that a mistake is one line with the file, the line and the field."""

from pathlib import Path

import pytest

from clusters import profile as profiles
from training.errors import UserError


def written(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


@pytest.mark.parametrize("name", ["small-lab", "preemptible", "big-centre"])
def test_the_examples_can_be_read(name: str) -> None:
    assert profiles.read(name).partition


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("8:00:00", 480),
        ("30:00", 30),
        ("0:30", 1),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("2-0:0:1", 2881),
    ],
)
def test_times_are_read_as_slurm_reads_them(tmp_path: Path, text: str, minutes: int) -> None:
    assert profiles.read(written(tmp_path, f"time: {text}\n")).time == minutes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time: 60\npartion: gpu\n", "line 2: partion: there is no such field (did you mean 'partition'?)"),
        ("partition: gpu\n", "time: is missing"),
        (
            "time: soon\n",
            "line 1: time: must be like 8:00:00, 1-12:00:00, or a number of minutes, not 'soon'",
        ),
        ("time: 60\nmemory: lots\n", "line 2: memory: must be like 16G, not 'lots'"),
        ("time: 60\ncpus: 0\n", "line 2: cpus: should be greater than or equal to 1, not '0'"),
        ("time: 60\ncpus: many\n", "line 2: cpus: must be a whole number, not 'many'"),
        (
            "time: 60\nrequeue:\n  alowed: true\n",
            "line 2: requeue.alowed: there is no such field (did you mean 'al",
        ),
        ("partition: gpu\nmemory: 16 GB\n", "line 2: memory: must be like 16G, not '16 GB'"),
        ("time: 60\nenvironment: {A B: 3}\n", "line 2: environment: 'A B' is no variable's name"),
        ("time: 60\nstage: scratch\n", "line 2: stage: must be a whole path on the node, like /scratch"),
        ("time: 60\ntime: 90\n", "malformed YAML: 'time' is there twice"),
        ("time: [60\n", "malformed YAML"),
        ("just words\n", "must hold fields"),
    ],
)
def test_a_mistake_names_file_line_and_field(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        profiles.read(written(tmp_path, text))
    assert f"{tmp_path}/mine.yaml: {says}".replace("yaml: malformed", "yaml: line 2: malformed") in str(
        error.value
    )


def test_ones_own_profile_wins_over_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/parapet").mkdir(parents=True)
    (tmp_path / ".config/parapet/small-lab.yaml").write_text("time: 5\n")
    assert profiles.read("small-lab").time == 5
    with pytest.raises(
        UserError, match=r"no profile 'small-lap' \(did you mean 'small-lab'\?\); there is: big-"
    ):
        profiles.read("small-lap")

"""The sweep file: every mistake is one line that names file and field; what is right survives a round trip."""

import subprocess
import sys

import pytest
import yaml

from orchestrate.sweep_file import build, load, probes
from training.errors import UserError

GOOD = """
name: digits
seeds: [0, 1]
base:
  data: {name: digits}
  model: {name: small-cnn}
  train: {epochs: 20, lr: 1e-1}
  attack: {norm: linf, eps: 8/255}
trials:
- {method: {name: standard}, seeds: 0}
- {method: {name: trades, beta: {grid: [1, 3, 6]}}}
- {method: {name: hat, beta: {uniform: [1.5, 4]}, gamma: 0.5, with: {wa: {decay: 0.99}}}}
search: {name: random, samples: 24, seed: 0}
evaluate: {attacks: [pgd, autoattack], checkpoint: both}
"""


def refused(tmp_path, text):
    file = tmp_path / "f.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load(file)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{file}:")
    return message.removeprefix(f"{file}:").strip()


def test_what_is_written_back_reads_the_same(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(GOOD)
    sweep = load(first, ["train.epochs=2", "concurrency=3"])
    second.write_text(yaml.safe_dump(sweep.dump(), sort_keys=False))
    assert load(second).dump() == sweep.dump()
    assert load(second).template(2) == sweep.template(2)
    assert sweep.template(1)["train"]["epochs"] == 2


def test_both_checkpoints_are_two_evaluations_best_first():
    specs = build(yaml.safe_load(GOOD), "x").evaluate.specs()
    assert [s.checkpoint for s in specs] == ["best", "last"]
    assert {s.attacks for s in specs} == {("pgd", "autoattack")}


def test_a_trial_may_tag_its_runs():
    sweep = build(yaml.safe_load(GOOD.replace("seeds: 0}", "seeds: 0, tags: {figure: left}}")), "f")
    assert sweep.tags_of({"trial": 0}) == {"figure": "left"}
    assert sweep.tags_of({"trial": 1}) == {}
    assert "tags" not in sweep.template(0)


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ("3", "trials[0].tags: should be a section of texts, got 3"),
        ("{parapet.key: x}", "trials[0].tags: 'parapet.key' cannot be a tag's name"),
        ("{a+b: x}", "trials[0].tags: 'a+b' cannot be a tag's name"),
        ("{a: 3}", "trials[0].tags.a: should be a text, got 3"),
    ],
)
def test_a_wrong_tag_is_told(tmp_path, tags, told):
    assert refused(tmp_path, GOOD.replace("seeds: 0}", f"seeds: 0, tags: {tags}}}")).startswith(told)


def test_further_evaluations_follow_the_first_in_what_they_do_not_say():
    also = "evaluate: {attacks: autoattack, images: 50, also: [{attacks: pgd, pgd_restarts: 2}, {checkpoint: last}]}"
    text = GOOD.replace("evaluate: {attacks: [pgd, autoattack], checkpoint: both}", also)
    first, pgd, last = build(yaml.safe_load(text), "f").evaluate.specs()
    assert (first.attacks, first.checkpoint, first.images) == (("autoattack",), "best", 50)
    assert (pgd.attacks, pgd.checkpoint, pgd.images, pgd.pgd_restarts) == (("pgd",), "best", 50, 2)
    assert (last.attacks, last.checkpoint) == (("autoattack",), "last")


def test_a_wrong_further_evaluation_is_told(tmp_path):
    wrong = GOOD.replace("checkpoint: both", "also: [{attacks: pdg}]")
    assert "no attack 'pdg' (did you mean 'pgd'?)" in refused(tmp_path, wrong)
    misspelt = GOOD.replace("checkpoint: both", "also: [{steps: 3}]")
    assert "evaluate.also[0].steps: unknown field" in refused(tmp_path, misspelt)


def test_seeds_of_a_trial_win_over_the_sweeps():
    sweep = build(yaml.safe_load(GOOD), "x")
    assert sweep.seeds_of({"trial": 0}) == (0,)
    assert sweep.seeds_of({"trial": 1, "method.beta": 3}) == (0, 1)


def test_where_extra_images_are_is_said_from_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = build(yaml.safe_load(GOOD), "x", ["data.extra={path: more.npz, share: 0.5}"])
    assert sweep.template(0)["data"]["extra"]["path"] == str(tmp_path / "more.npz")


def test_probes_hold_every_listed_value_and_both_ends():
    sweep = build(yaml.safe_load(GOOD), "x")
    assert [c["method.beta"] for c in probes(sweep, 1)] == [1, 3, 6]
    assert [c["method.beta"] for c in probes(sweep, 2)] == [1.5, 4]
    assert list(probes(sweep, 0)) == [{"trial": 0}]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1]", "seeds: [0, 1", "line 4, column 5: malformed YAML:"),
        ("seeds: [0, 1]", "name: twice", "line 3, column 1: malformed YAML: the key 'name' is there twice"),
        ("name: digits\n", "", "name: is missing"),
        ("name: digits\n", "nmae: digits\n", "nmae: unknown field (did you mean 'name'?)"),
        ("name: digits\n", "name: a/b\n", "name: should begin with a letter or digit"),
        ("name: digits\n", "name: [1]\n", "name: should be a text, got [1]"),
        ("seeds: [0, 1]", "seeds: [0, -1]", "seeds[1]: should be greater than or equal to 0, got -1"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds: a seed is there twice"),
        ("seeds: [0, 1]", "seeds: []", "seeds: "),
        ("seeds: [0, 1]", "sedes: [0]", "sedes: unknown field (did you mean 'seeds'?)"),
        ("epochs: 20", "epoch: 20", "base.train.epoch: unknown field (did you mean 'epochs'?)"),
        ("epochs: 20", "epochs: many", "base.train.epochs: should be a whole number, got 'many'"),
        ("epochs: 20", "epochs: 0", "base.train.epochs: should be greater than or equal to 1, got 0"),
        ("epochs: 20", "epochs: 2.5", "base.train.epochs: should be a whole number"),
        ("eps: 8/255", "eps: -8/255", "base.attack.eps: should be greater than 0"),
        ("eps: 8/255", "eps: .nan", "base.attack.eps: should be a finite number"),
        ("eps: 8/255", "eps: 8/0", "base.attack.eps: should be a number, got '8/0'"),
        (", eps: 8/255", "", "base.attack.eps: is missing"),
        ("norm: linf", "norm: l3", "base.attack.norm: should be 'linf' or 'l2', got 'l3'"),
        ("norm: linf", "steps: 0", "base.attack.steps: should be greater than or equal to 1, got 0"),
        ("data: {name: digits}", "data: digits", "base.data: should be a section"),
        (
            "data: {name: digits}",
            "data: {name: digits, extra: {pth: x, share: 0.5}}",
            "base.data.extra.pth: unknown field (did you mean 'path'?)",
        ),
        (
            "model: {name: small-cnn}",
            "model: mlp",
            "base.model: should be a section ({name: mlp}), got 'mlp'",
        ),
        ("model: {name: small-cnn}", "seed: 3", "base.seed: seeds are set by 'seeds'"),
        ("  model: {name: small-cnn}\n", "", "base.model: is missing"),
        ("{method: {name: standard}, seeds: 0}", "{}", "base.method: is missing"),
        ("seeds: 0}", "seeds: [x]}", "trials[0].seeds[0]: should be a whole number, got 'x'"),
        ("seeds: 0}", "seed: 0}", "trials[0].seed: seeds are set by 'seeds'"),
        ("seeds: 0}", "tarin: {}}", "trials[0].tarin: unknown field (did you mean 'train'?)"),
        ("seeds: 0}", "train: {lr: {grid: [1, 0]}}}", "trials[0].train.lr: should be greater than 0, got 0"),
        ("seeds: 0}", "attack: {eps: {uniform: [-1, 1]}}}", "trials[0].attack.eps: should be greater than 0"),
        ("[1.5, 4]", "[4, 1.5]", "trials[2].method.beta: uniform needs a lowest value below"),
        (
            "grid: [1, 3, 6]",
            "gird: [1, 3]",
            "trials[1].method.beta: no search space 'gird' (did you mean 'grid'?)",
        ),
        ("{wa: {decay: 0.99}}", "{wa: 0.99}", "trials[2].method.with.wa: should be a section"),
        ("with: {wa: {decay: 0.99}}", "with: wa", "trials[2].method.with: should be a section"),
        ("{name: standard}", "{name: hat+wa, with: 3}", "trials[0].method.with: should be a section"),
        ("{name: standard}", "3", "trials[0].method: should be a section"),
        ("{name: standard}", "[hat, wa]", "trials[0].method: should be a section"),
        ("seeds: 0}", "setup: nothing/here}", "trials[0].setup: no setup 'nothing/here'"),
        ("seeds: 0}", "setup: 3}", "trials[0].setup: setup is the name of one"),
        ("seeds: 0}", "setup: {grid: [hat/x]}}", "trials[0].setup: no setup 'hat/x'"),
        ("seeds: 0}", "helpers: {standard: {trian: {}}}}", "trials[0].helpers.standard.trian: unknown field"),
        ("random, samples: 24", "random", "search: random search needs samples"),
        ("random, samples: 24", "grid, samples: 24", "search: grid search runs everything"),
        (
            "random, samples: 24",
            "grid",
            "trials[2].method.beta: uniform cannot be searched as a grid; list values",
        ),
        ("random, samples: 24", "optima, samples: 3", "search.name: should be 'grid', 'random' or 'optuna'"),
        ("autoattack]", "autoatack]", "evaluate.attacks: no attack 'autoatack' (did you mean 'autoattack'?)"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(tmp_path, old, new, message):
    assert old in GOOD
    assert refused(tmp_path, GOOD.replace(old, new, 1)).startswith(message)


@pytest.mark.parametrize("text", ["", "just words", "- 1\n- 2", "3"])
def test_a_file_that_is_no_sweep_at_all(tmp_path, text):
    assert refused(tmp_path, text).startswith("a sweep file holds fields")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "bytes.yaml")


def test_reading_a_sweep_file_imports_nothing_heavy():
    heavy = "('torch', 'ray', 'mlflow', 'pandas', 'numpy', 'optuna', 'matplotlib')"
    code = f"import sys, orchestrate.search; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_place_of_extra_images_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extra = {"path": "ddpm.npz", "share": 0.7}
    tree = yaml.safe_load(GOOD)
    tree["base"]["data"]["extra"] = extra
    tree["trials"][0]["data"] = {"extra": {"path": {"grid": ["a.npz", "/b.npz"]}}}
    sweep = build(tree, "x")
    assert sweep.template(1)["data"]["extra"]["path"] == str(tmp_path / "ddpm.npz")
    assert sweep.template(0)["data"]["extra"]["path"] == {"grid": [str(tmp_path / "a.npz"), "/b.npz"]}
    tree["trials"][0]["data"] = {"extra": "ddpm.npz"}
    with pytest.raises(UserError, match=r"x: trials\[0\].data.extra: should be a section"):
        build(tree, "x")


def test_a_modifier_named_twice_is_said_so():
    with pytest.raises(UserError, match=r"'hat\+awp\+awp': a modifier is there twice"):
        build({"name": "x", "base": {"method": "hat+awp+awp"}}, "f.yaml")

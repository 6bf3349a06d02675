"""``parapet methods``: what it says is what would be trained."""

import pytest

from orchestrate import catalogue
from orchestrate.cli import main
from training.errors import UserError
from training.recipes import MODIFIERS, RECIPES, build
from training.resolve import resolve
from training.spec import AttackSpec, TrialSpec

ATTACK = AttackSpec(eps=8 / 255)
EXTRA = {"name": "digits", "extra": {"path": "FILE", "share": 0.5}}
FACTS = {"data": EXTRA, "model": {"name": "mlp"}, "attack": {"eps": 8 / 255}}

pytestmark = pytest.mark.usefixtures("own_files")


def shown(capsys, *words):
    code = main(["methods", *words])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


def refused(capsys, *words):
    assert main(["methods", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_everything_that_is_registered_is_listed(capsys):
    out = shown(capsys)
    for registry, part in zip((RECIPES, MODIFIERS), out.split("\n\n"), strict=False):
        for name, entry in registry.entries.items():
            [line] = [line for line in part.splitlines() if line.split("  ")[0] == name]
            assert entry.summary.replace("``", "") in line
            assert entry.source in line
    assert "CE(clean) + 6*KL(adv to clean)" in out


def test_setups_are_listed_when_asked_for(capsys):
    from training.setups import names

    assert "about" not in shown(capsys)
    out = shown(capsys, "--setups")
    for name in names():
        assert name in out


def test_every_combination_of_two_is_described_or_refused_in_a_line():
    refusals = {}
    for name in [f"{recipe}+{modifier}" for recipe in RECIPES.entries for modifier in MODIFIERS.entries]:
        try:
            found = catalogue.describe(name)
        except UserError as error:
            refusals[name] = str(error)
            continue
        method = build(resolve(TrialSpec.model_validate(FACTS | {"method": name})).method, ATTACK)
        assert dict(found.facts)["loss"] == method.formula
        assert all(all(cell and "\n" not in cell for cell in row) for row in found.parameters)
    assert refusals["standard+fat"].startswith("method.with.fat: ")
    assert all("\n" not in said for said in refusals.values())


def test_one_composition_in_detail(capsys):
    out = shown(capsys, "hat+awp+wa")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "hat+awp+wa"
    assert "loss CE(clean) + 2.5*KL(adv to clean) + 0.5*CE(help, help label)" in lines
    search = "search adv: 10 steps of 2/255 up KL(adv to clean), from x + 0.001 N(0, I); BatchNorm eval"
    assert search in lines
    assert any(line.startswith("update AWP: ") and "radius 0.005" in line for line in lines)
    assert any(line.startswith("evaluated average network") for line in lines)
    assert (
        "helper standard: a trial of its own by standard, seed 0, unless helpers.standard says otherwise"
        in lines
    )
    rows = {line.split()[0]: line for line in lines if line.startswith("method.")}
    assert "2.5 a number" in rows["method.beta"]
    assert rows["method.batchnorm"].endswith("eval eval, train-tracked, train-untracked")
    assert "0.005 a number, at least 0, at most 1" in rows["method.with.awp.radius"]
    assert "0.995 a number, at least 0, below 1" in rows["method.with.wa.decay"]


def test_fields_change_what_is_shown(capsys):
    out = shown(capsys, "hat", "method.beta=3", "attack.eps=0.2", "method.batchnorm=train-tracked")
    assert "CE(clean) + 3*KL(adv to clean)" in out
    assert "3 (default 2.5)" in out
    assert "eps 0.2" in out
    assert "BatchNorm train-tracked" in out
    assert "linear" in shown(capsys, "trades", "method.beta={linear: [1, 6]}")


def test_a_modifier_alone_is_described_too(capsys):
    out = shown(capsys, "awp")
    assert "Take each step for weights moved up the loss" in out
    assert "method.with.awp.radius" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hta"], "no method 'hta' (did you mean 'hat'?)"),
        (["hat+apw"], "no modifier 'apw' (did you mean 'awp'?)"),
        (["hat+"], "no modifier ''"),
        (["standard+fat"], "method.with.fat: ends PGD searches early, and this method has none"),
        (["hat", "method.betta=3"], "'hat' has no such parameter (did you mean 'beta'?)"),
        (["hat", "method.beta=-1"], "method.beta: should be at least 0"),
        (
            ["hat", "train.epochs=3"],
            "train.epochs=3: what a method is made of depends on method.* and attack.*",
        ),
        (["hat", "attack.eps=0"], "attack.eps: should be greater than 0"),
        (["method.beta=3"], "name the method first"),
        (["hat", "awp"], "written field=value"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_code_2(capsys, words, said):
    assert said in refused(capsys, *words)


def test_methods_of_a_file_are_shown_with_where_they_are_from(capsys, tmp_path):
    import own_methods

    file = tmp_path / "mine.py"
    file.write_text(own_methods.HALVED)
    out = shown(capsys, "halved+untouched", "--import", str(file))
    assert "0.5*CE(clean) + 3*KL(adv to clean)" in out
    assert "this test; mine.py" in out
    assert "halved" in shown(capsys)
    assert "there is no such file" in refused(capsys, "--import", str(tmp_path / "absent.py"))

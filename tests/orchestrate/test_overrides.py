"""``key=value``: what it changes, and what it says about a key that does not exist."""

import pytest

from orchestrate.sweep_file import build
from training.errors import UserError


def content():
    return {
        "name": "x",
        "base": {
            "data": {"name": "digits"},
            "model": {"name": "small-cnn", "width": 8},
            "train": {"epochs": 20},
            "attack": {"eps": 0.1},
        },
        "trials": [
            {"method": {"name": "standard"}},
            {"method": {"name": "trades", "beta": {"grid": [1, 3]}}, "train": {"epochs": 5}},
            {"method": {"name": "pgd-at"}, "model": {"name": "mlp"}},
        ],
    }


def sweep(*overrides):
    return build(content(), "f.yaml", overrides)


def values(swept, path):
    found = []
    for index in range(len(swept.trials)):
        at = swept.template(index)
        for part in path.split("."):
            at = at.get(part, "absent")
        found.append(at)
    return found


def test_a_field_of_a_trial_is_set_for_every_trial_whatever_the_file_says():
    assert values(sweep(), "train.epochs") == [20, 5, 20]
    assert values(sweep("train.epochs=2"), "train.epochs") == [2, 2, 2]


def test_it_reaches_trials_whose_own_section_replaces_the_one_of_base():
    assert values(sweep("model.width=4"), "model.width") == [4, 4, 4]


def test_a_parameter_of_the_method_is_set_where_a_trial_sets_it():
    assert values(sweep("method.beta=6"), "method.beta") == ["absent", 6, "absent"]


def test_a_place_in_the_file_is_set_exactly_there():
    assert values(sweep("base.train.epochs=2"), "train.epochs") == [2, 5, 2]
    assert values(sweep("trials.1.train.epochs=2"), "train.epochs") == [20, 2, 20]
    assert values(sweep("trials[0].method.name=trades"), "method.name") == ["trades", "trades", "pgd-at"]
    assert sweep("search={name: random, samples: 3}", "search.samples=4").search.samples == 4
    assert sweep("seeds=[0, 3]", "trials.2.seeds=7").seeds_of({"trial": 0}) == (0, 3)
    assert sweep("seeds=[0, 3]", "trials.2.seeds=7").seeds_of({"trial": 2}) == (7,)


def test_the_last_name_alone_is_enough_where_one_section_has_it():
    assert values(sweep("eps=8/255"), "attack.eps") == ["8/255"] * 3
    assert values(sweep("epochs=2"), "train.epochs") == [2, 2, 2]


def test_values_are_yaml():
    assert values(sweep("train.lr=1e-3"), "train.lr") == [0.001] * 3
    assert values(sweep("train.nesterov=false"), "train.nesterov") == [False] * 3
    assert list(
        sweep("method.beta={uniform: [1, 2]}", "search={name: random, samples: 2}").dimensions(1)
    ) == ["method.beta"]
    assert values(sweep("data.root=/a=b"), "data.root") == ["/a=b"] * 3


def short(*overrides):
    """Methods by their short names."""
    trials = [{"method": "hat+awp"}, {"method": {"name": "trades+awp+wa", "beta": 2}}, {"method": "standard"}]
    swept = build(content() | {"trials": trials}, "f.yaml", overrides)
    return [swept.template(index)["method"] for index in range(3)]


def test_a_short_name_is_the_section_that_it_stands_for():
    hat, trades, standard = short()
    assert hat == {"name": "hat", "with": {"awp": {}}}
    assert trades == {"name": "trades", "beta": 2, "with": {"awp": {}, "wa": {}}}
    assert standard == {"name": "standard"}
    assert short("method=hat+awp+wa") == [{"name": "hat", "with": {"awp": {}, "wa": {}}}] * 3
    assert short("trials.2.method.name=hat+wa")[2] == {"name": "hat", "with": {"wa": {}}}
    assert short("base.method=hat", "trials.2.method={with: {wa: {}}}")[2] == {
        "name": "hat",
        "with": {"wa": {}},
    }


def test_an_override_reaches_into_a_method_with_a_short_name():
    assert [m.get("beta") for m in short("trials.0.method.beta=3")] == [3, 2, None]
    assert short("method=hat+awp", "method.beta=3")[2] == {"name": "hat", "with": {"awp": {}}, "beta": 3}
    hat, trades, standard = short("method.with.awp.radius=0.01")
    assert hat["with"] == {"awp": {"radius": 0.01}}
    assert trades["with"] == {"awp": {"radius": 0.01}, "wa": {}}
    assert "with" not in standard, "a parameter of a modifier makes nobody have the modifier"
    assert [list(m["with"]) for m in short("method.with.fat={}")] == [
        ["awp", "fat"],
        ["awp", "wa", "fat"],
        ["fat"],
    ]


def test_a_helper_may_have_a_short_name_too():
    swept = sweep("helpers.start.method=hat+awp", "helpers.start.method.beta=3")
    assert swept.template(0)["helpers"] == {
        "start": {"method": {"name": "hat", "with": {"awp": {}}, "beta": 3}}
    }


def test_an_annealed_value_is_replaced_as_a_whole():
    trials = [{"method": {"name": "trades", "beta": {"linear": [1, 6]}}}]
    base = content()["base"] | {"method": {"name": "trades", "beta": {"cosine": [6, 1]}}}
    swept = build(content() | {"base": base, "trials": trials}, "f.yaml")
    assert swept.template(0)["method"]["beta"] == {"linear": [1, 6]}


def test_later_overrides_win():
    assert values(sweep("train.epochs=2", "train.epochs=3"), "train.epochs") == [3, 3, 3]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs", "written field=value"),
        ("=3", "written field=value"),
        ("train.epoch=2", "unknown field 'train.epoch' (did you mean 'epochs'?)"),
        ("trian.epochs=2", "unknown field 'trian' (did you mean 'train'?)"),
        ("epoch=2", "unknown field 'epoch' (did you mean 'epochs'?)"),
        ("seed=1", "did you mean 'seeds'?"),
        ("setpu=x", "did you mean 'setup'?"),
        ("setup.name=x", "'setup' is a value"),
        ("setup=hat/cifar11", "no setup 'hat/cifar11'"),
        ("imports={}", "did you mean 'import'?"),
        ("base.imports={}", "unknown field 'imports'"),
        ("import=3", "should be a list of Python files, got 3"),
        ("base.atack.eps=1", "did you mean 'attack'?"),
        ("trials.0.data.rot=x", "did you mean 'root'?"),
        ("trials.x.data.root=x", "'trials' is a list"),
        ("trials.3.train.epochs=2", "the file has 3 trials"),
        ("train.epochs.x=2", "'train.epochs' is a value"),
        ("evaluate.image=2", "did you mean 'images'?"),
        ("helpers.standard.train.epoch=2", "did you mean 'epochs'?"),
        ("train.lr=[", "malformed YAML"),
        ("train.epochs=two", "should be a whole number, got 'two'"),
        ("train.epochs=yes", "should be a number, got True"),
        ("seeds=[1,yes]", "should be a number, got [1, True]"),
        ("trials.1.train.epochs=two", "should be a whole number, got 'two'"),
        ("base.attack.steps=0", "should be greater than or equal to 1, got 0"),
        ("attack.eps=-8/255", "should be greater than 0"),
        ("train.lr={grid: [0.1, -1]}", "should be greater than 0, got -1"),
        ("resources.gpus=2", "one GPU at most"),
    ],
)
def test_a_wrong_override_is_named_with_what_would_be_right(override, words):
    with pytest.raises(UserError) as refused:
        sweep(override)
    message = str(refused.value)
    assert message.startswith(f"{override}: ")
    assert words in message
    assert "\n" not in message


def test_an_override_cannot_reach_into_a_search_space():
    with pytest.raises(UserError, match=r"^model\.width=3: 'model' is .*override 'model' itself"):
        sweep("model={grid: [{name: mlp}]}", "model.width=3")


def test_a_mistake_in_the_file_is_not_blamed_on_an_override():
    broken = content()
    broken["base"]["attack"]["eps"] = -1
    with pytest.raises(UserError, match=r"^f\.yaml: base\.attack\.eps: "):
        build(broken, "f.yaml", ["train.epochs=2", "trials.1.train.lr=1"])


def test_a_section_that_need_not_be_there_has_fields_too():
    swept = sweep("data.extra.path=/images.npz", "data.extra.share=0.3")
    assert values(swept, "data.extra") == [{"path": "/images.npz", "share": 0.3}] * 3
    with pytest.raises(UserError, match=r"unknown field 'data\.extra\.pth' \(did you mean 'path'\?\)"):
        sweep("data.extra.pth=x")


def test_a_parameter_of_a_modifier_that_no_trial_has_is_refused_and_the_modifier_itself_is_added():
    with pytest.raises(
        UserError, match=r"no trial has the modifier 'wa'; add it by name, as in method=NAME\+wa"
    ):
        sweep("method.with.wa.decay=0.9")
    assert values(sweep("method.with.wa={}"), "method.with") == [{"wa": {}}] * 3
    assert (
        values(sweep("method.with.wa={}", "method.with.wa.decay=0.9"), "method.with")
        == [{"wa": {"decay": 0.9}}] * 3
    )


def test_what_lies_in_a_space_of_methods_is_said_to_be_out_of_reach():
    spaced = content() | {"trials": [{"method": {"grid": ["trades", "hat+awp"]}}]}
    with pytest.raises(UserError, match="'method' is a search space in the file; write its values as trials"):
        build(spaced, "f.yaml", ("method.gamma=1",))

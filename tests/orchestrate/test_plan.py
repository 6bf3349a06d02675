"""Planning: keys, helpers, labels and evaluations of trials; mistakes and doubts before anything starts."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from orchestrate.events import EventWriter
from orchestrate.plan import Planner, all_of
from orchestrate.runs import Runs
from orchestrate.sweep_file import build
from training import checkpoint
from training.errors import UserError
from training.models import build as build_model
from training.resolve import formula, resolve
from training.spec import Choice, TrialSpec

BASE = {
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [4]},
    "train": {"epochs": 3},
    "attack": {"eps": 0.2, "steps": 4},
}


def sweep(*trials, source="f.yaml", overrides=(), **fields):
    return build({"name": "x", "base": BASE, "trials": list(trials)} | fields, source, overrides)


def method(name, **parameters):
    return {"method": {"name": name, **parameters}}


def plan(swept, tmp_path):
    return all_of(swept, Planner(swept, Runs(tmp_path)))


def checkpoint_file(file: Path, classes: int, shape=(1, 8, 8)) -> Path:
    """A real checkpoint of a standard network for so many classes."""
    spec = resolve(TrialSpec.model_validate(BASE | method("standard")))
    network = build_model(Choice(name="mlp", hidden=[4]), shape, classes, (0.5,), (0.5,))
    facts = {"shape": list(shape), "classes": classes, "mean": [0.5], "std": [0.5]}
    content = {"format": checkpoint.FORMAT, "key": "a" * 16, "spec": spec.dump(), "facts": facts}
    checkpoint.save(content | {"epoch": 2, "network": network.state_dict()}, file)
    return file


def test_a_trial_has_everything_filled_in_and_the_key_of_just_that(tmp_path):
    (wanted,) = plan(sweep(method("trades")), tmp_path)
    assert wanted.spec.method.parameters["beta"] == 6.0
    assert wanted.spec.attack.step_size == 0.05
    from training.data import digest

    assert wanted.key == wanted.spec.key(digest(wanted.spec.data))
    assert wanted.formula == formula(wanted.spec) == "CE(clean) + 6*KL(adv to clean)"
    assert wanted.cost > 0


def test_the_key_knows_what_training_computes_and_nothing_else(tmp_path):
    def key(*overrides):
        return plan(sweep(method("trades"), overrides=overrides), tmp_path)[0].key

    plain = key()
    for same in ("method.beta=6", "attack.step_size=0.05", "name=y", "limits.hours=1", "evaluate.images=5"):
        assert key(same) == plain, same
    for other in ("method.beta=5", "seeds=1", "train.epochs=4", "attack.eps=0.1", "data.split_seed=1"):
        assert key(other) != plain, other
    assert key("data.train_size=1000") != plain, "other images, by their contents"


def test_seeds_dimensions_and_evaluations(tmp_path):
    swept = sweep(
        method("trades", beta={"grid": [1, 3]}) | {"seeds": [0, 5]},
        method("standard"),
        evaluate={"attacks": "pgd", "checkpoint": "both"},
    )
    wanted = plan(swept, tmp_path)
    assert [(w.config.get("method.beta"), w.seed) for w in wanted] == [
        (1, 0),
        (1, 5),
        (3, 0),
        (3, 5),
        (None, 0),
    ]
    assert len({w.key for w in wanted}) == 5
    assert [e.checkpoint for e in wanted[0].evaluations.values()] == ["best", "last"]
    assert [e.digest(wanted[0].spec.attack) for e in wanted[0].evaluations.values()] == list(
        wanted[0].evaluations
    )


def test_labels_hold_the_method_and_what_differs(tmp_path):
    swept = sweep(
        method("standard"),
        method("trades", beta={"grid": [1, 3.5]}),
        method("trades", beta=6) | {"train": {"epochs": 5}},
        method("hat", beta=3, gamma=0.5),
        method("hat", beta=3, gamma={"grid": [0.1, 0.25]}, **{"with": {"wa": {"decay": 0.9}}}),
        method("pgd-at") | {"attack": {"eps": "8/255"}, "model": {"name": "small-cnn", "width": 4}},
        method("pgd-at"),
    )
    labels = [w.label for w in plan(swept, tmp_path)]
    assert labels == [
        "standard",
        "trades beta=1 epochs=3",
        "trades beta=3.5 epochs=3",
        "trades beta=6 epochs=5",
        "hat gamma=0.5",
        "hat+wa gamma=0.1 decay=0.9",
        "hat+wa gamma=0.25 decay=0.9",
        "pgd-at model=small-cnn eps=8/255",
        "pgd-at model=mlp eps=0.2",
    ]


def test_short_names_are_the_trials_that_they_stand_for(tmp_path):
    long = sweep(
        method("hat", **{"with": {"awp": {}, "wa": {}}}), method("trades", beta=2, **{"with": {"awp": {}}})
    )
    short = sweep({"method": "hat+awp+wa"}, method("trades+awp", beta=2))
    assert [w.key for w in plan(short, tmp_path)] == [w.key for w in plan(long, tmp_path)]
    assert [w.label for w in plan(short, tmp_path)] == ["hat+awp+wa", "trades+awp"]


def test_methods_can_be_searched_by_their_short_names(tmp_path):
    whole = sweep({"method": {"grid": ["trades", "hat+awp", {"name": "hat", "beta": 3}]}})
    assert [w.label for w in plan(whole, tmp_path)] == ["trades", "hat+awp", "hat beta=3"]
    names = sweep(method({"grid": ["trades", "trades+awp"]}, beta={"grid": [1, 3]}))
    assert [w.label for w in plan(names, tmp_path)] == [
        "trades beta=1",
        "trades beta=3",
        "trades+awp beta=1",
        "trades+awp beta=3",
    ]


def test_an_annealed_parameter_is_one_value_in_a_label(tmp_path):
    swept = sweep(
        method("trades", beta={"linear": [1, 6]}), method("trades", beta={"grid": [3, {"cosine": [1, 6]}]})
    )
    assert [w.label for w in plan(swept, tmp_path)] == [
        "trades beta=linear[1, 6]",
        "trades beta=3",
        "trades beta=cosine[1, 6]",
    ]


def test_helpers_of_helpers_are_planned_and_their_names_checked(tmp_path):
    started = method("pgd-at+pretrained") | {
        "helpers": {"start": {"method": "hat+wa", "train": {"epochs": 1}}}
    }
    (wanted,) = plan(sweep(started), tmp_path)
    (start,) = wanted.helpers
    assert (start.label, start.spec.train.epochs) == ("hat+wa (helper)", 1)
    assert [(h.label, h.spec.train.epochs) for h in start.helpers] == [("standard (helper)", 1)]
    assert start.spec.helpers == {"standard": {"key": start.helpers[0].key}}
    for helpers, words in (
        (
            {"strat": {}},
            "f.yaml: trials[0].helpers.strat: no trial needs a helper 'strat' (did you mean 'start'?)",
        ),
        (
            {"start": {"helpers": {"standard": {}}}},
            "f.yaml: trials[0].helpers.start.helpers.standard: no trial needs",
        ),
        ({"start": {"setup": "no/such"}}, "f.yaml: trials[0].helpers.start.setup: no setup 'no/such'"),
    ):
        assert refused(sweep(started | {"helpers": helpers}), tmp_path).startswith(words)


def test_a_helper_that_base_names_is_for_those_that_need_it(tmp_path):
    both = [method("trades"), method("hat")]
    helpers = {"standard": {"train": {"epochs": 1}}}
    swept = sweep(*both, base=BASE | {"helpers": helpers})
    assert [[h.spec.train.epochs for h in w.helpers] for w in plan(swept, tmp_path)] == [[], [1]]
    Planner(swept, Runs(tmp_path)).check()
    own = sweep(both[0] | {"helpers": helpers}, both[1])
    assert refused(own, tmp_path).startswith("f.yaml: trials[0].helpers.standard: no trial needs a helper")
    assert "no trial needs" in refused(sweep(method("hat", gamma=0) | {"helpers": helpers}), tmp_path)


@pytest.fixture
def setup(monkeypatch, tmp_path):
    """A setup ``here/digits``, as a paper's recipe would be."""
    from training import setups

    folder = tmp_path / "setups" / "here"
    folder.mkdir(parents=True)
    (folder / "digits.yaml").write_text(
        "about: a test\nsource: nowhere\n"
        "train: {epochs: 7, lr: 0.3}\nattack: {norm: linf, eps: 0.1}\nmethods: {trades: {beta: 4}}\n"
    )
    monkeypatch.setattr(setups, "FOLDER", tmp_path / "setups")


def test_a_setup_lies_below_what_the_file_and_overrides_say(setup, tmp_path):
    base = {name: BASE[name] for name in ("data", "model")}

    def wanted(trial, *overrides):
        swept = sweep(trial | {"setup": "here/digits"}, base=base, overrides=overrides)
        return plan(swept, tmp_path / "runs")[0]

    spec = wanted({"method": "trades"}).spec
    assert (spec.train.epochs, spec.train.lr, spec.attack.eps) == (7, 0.3, 0.1)
    assert spec.method.parameters["beta"] == 4
    spec = wanted(method("trades+wa", beta=2) | {"train": {"lr": 0.1}}, "train.epochs=2").spec
    assert (spec.train.epochs, spec.train.lr, spec.attack.eps) == (2, 0.1, 0.1)
    assert spec.method.parameters["beta"] == 2
    plain = plan(
        sweep(
            method("trades", beta=4), base=base | {"train": {"epochs": 7, "lr": 0.3}, "attack": {"eps": 0.1}}
        ),
        tmp_path,
    )
    assert wanted({"method": "trades"}).key == plain[0].key, "a setup is no part of a key: what it says is"
    both = sweep({"method": "trades", "setup": {"grid": [None, "here/digits"]}})
    assert [w.label for w in plan(both, tmp_path)] == ["trades", "trades setup=here/digits"]


def test_what_is_wrong_with_what_a_setup_says_is_said_of_the_setup(setup, tmp_path):
    base = {name: BASE[name] for name in ("data", "model")}
    file = tmp_path / "setups" / "here" / "bad.yaml"
    file.write_text("train: {lr: 0}\nattack: {eps: 0.1}\n")
    for given, words in (
        ({"base": base | {"setup": "here/bad"}}, "f.yaml: base.setup (train.lr): should be greater than 0"),
        (
            {"base": base, "overrides": ["setup=here/bad"]},
            "setup=here/bad (train.lr): should be greater than 0",
        ),
    ):
        with pytest.raises(UserError) as error:
            sweep({"method": "trades"}, **given)
        assert str(error.value).startswith(words)


def test_a_helper_of_a_helper_can_be_trained_by_a_setup(setup, tmp_path):
    swept = sweep(method("hat") | {"helpers": {"standard": {"setup": "here/digits"}}})
    assert plan(swept, tmp_path / "runs")[0].helpers[0].spec.train.epochs == 7


def test_a_helper_is_a_trial_of_its_own_shared_by_seeds_and_methods(tmp_path):
    swept = sweep(method("standard"), method("hat", beta={"grid": [1, 2]}) | {"seeds": [0, 1]})
    standard, *hats = plan(swept, tmp_path)
    assert {h.key for w in hats for h in w.helpers} == {standard.key}, (
        "the same as the sweep's own standard trial"
    )
    assert {w.spec.helpers["standard"]["key"] for w in hats} == {standard.key}
    assert hats[0].helpers[0].evaluations == {}
    assert standard.helpers == ()
    assert plan(sweep(method("hat", gamma=0)), tmp_path)[0].helpers == (), "gamma 0 asks no helper"


def test_a_helper_can_be_changed_and_then_the_trial_is_another(tmp_path):
    def wanted(**helpers):
        return plan(sweep(method("hat") | {"helpers": helpers}), tmp_path)[0]

    longer = wanted(standard={"train": {"epochs": 7}})
    assert longer.helpers[0].spec.train.epochs == 7
    assert longer.spec.train.epochs == 3
    assert longer.key != wanted().key


def test_a_helper_given_by_path_is_known_by_its_contents(tmp_path):
    def wanted(file):
        return plan(sweep(method("hat") | {"helpers": {"standard": {"path": str(file)}}}), tmp_path / "runs")[
            0
        ]

    first = wanted(checkpoint_file(tmp_path / "a.pt", classes=10))
    assert first.helpers == ()
    moved = (tmp_path / "a.pt").rename(tmp_path / "b.pt")
    assert wanted(moved).key == first.key
    assert wanted(checkpoint_file(tmp_path / "c.pt", classes=10)).key != first.key, "other weights"


def refused(swept, tmp_path):
    with pytest.raises(UserError) as error:
        Planner(swept, Runs(tmp_path / "runs")).check()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()
    return str(error.value)


def test_a_helper_with_other_classes_or_other_images_is_refused(tmp_path):
    for classes, shape in ((7, (1, 8, 8)), (10, (1, 28, 28))):
        file = checkpoint_file(tmp_path / "h.pt", classes, shape)
        message = refused(sweep(method("hat") | {"helpers": {"standard": {"path": str(file)}}}), tmp_path)
        assert message.startswith("f.yaml: trials[0].helpers.standard: ")
        assert f"{classes} classes" in message


def test_an_unreadable_or_truncated_helper_is_refused(tmp_path):
    good = checkpoint_file(tmp_path / "h.pt", 10).read_bytes()
    (tmp_path / "cut.pt").write_bytes(good[: len(good) // 2])
    for name, words in (("cut.pt", "truncated"), ("absent.pt", "cannot be read"), ("", "cannot be read")):
        given = sweep(method("hat"), overrides=[f"helpers.standard.path={tmp_path / name}"])
        message = refused(given, tmp_path)
        assert str(tmp_path / name) in message
        assert words in message


@pytest.mark.parametrize(
    ("trial", "overrides", "message"),
    [
        (method("tradse"), [], "f.yaml: trials[0].method.name: no method 'tradse' (did you mean 'trades'?)"),
        (
            method("trades", betta=1),
            [],
            "f.yaml: trials[0].method.betta: 'trades' has no such parameter (did you",
        ),
        (method("trades", beta={"grid": [1, -1]}), [], "f.yaml: trials[0].method.beta: "),
        (method("trades", beta="x"), [], "f.yaml: trials[0].method.beta: "),
        (method("trades", **{"with": {"ema": {}}}), [], "f.yaml: trials[0].method.with: no modifier 'ema'"),
        ({"method": "trades+ema"}, [], "f.yaml: trials[0].method.with: no modifier 'ema'"),
        ({"method": "trades+apw"}, [], "no modifier 'apw' (did you mean 'awp'?)"),
        (method("trades"), ["method=hta+awp"], "method=hta+awp: no method 'hta' (did you mean 'hat'?)"),
        ({"method": "standard+fat"}, [], "f.yaml: trials[0].method.with.fat: ends PGD searches early"),
        (
            method("trades"),
            ["method=standard+adr"],
            "method=standard+adr: rectifies the labels of a PGD search",
        ),
        (method("trades"), ["model.name=mpl"], "model.name=mpl: no model 'mpl' (did you mean 'mlp'?)"),
        (
            method("trades"),
            ["model.hiden=3"],
            "model.hiden=3: 'mlp' has no such parameter (did you mean 'hidden'?)",
        ),
        (
            method("trades"),
            ["train.schedule.name=multistep"],
            "train.schedule.milestones: 'multistep' needs this",
        ),
        (
            method("trades"),
            ["train.batch_size=1168"],
            "train.batch_size=1168: 1168 is more than the 1167 images",
        ),
        (
            method("trades"),
            ["data.name=minst"],
            "data.name=minst: no data set 'minst' (did you mean 'mnist'?)",
        ),
        (method("trades"), ["data.name=mnist"], "f.yaml: base.data.root: 'mnist' needs"),
        (method("trades"), ["data.name=mnist", "data.root=/nope"], "data.root=/nope: /nope does not exist"),
        (method("trades"), ["data.test_size=501"], "data.test_size=501: 501 is more than the 500 images"),
        (method("trades"), ["evaluate.images=501"], "evaluate.images=501: 501 images asked for"),
        (
            method("hat"),
            ["helpers.standrad.seed=1"],
            "helpers.standrad.seed=1: no trial needs a helper 'standrad' (did you mean 'standard'?)",
        ),
        (
            method("hat"),
            ["helpers.standard.train.lr=0"],
            "helpers.standard.train.lr=0: should be greater than 0",
        ),
        (method("hat"), ["helpers.standard.model.hidden=[0]"], "helpers.standard.model.hidden=[0]: "),
        (method("hat"), ["helpers.standard.key=abc"], "helpers.standard.key=abc: "),
        (method("hat"), ["helpers.standard.run=abc"], "helpers.standard.run=abc: there is no tracking store"),
        (
            method("hat"),
            ["helpers.standard={path: x, train: {}}"],
            "helpers.standard={path: x, train: {}}: a network",
        ),
        (method("trades"), ["resources.cpus=4096"], "f.yaml: resources.cpus: 4096 is more than"),
    ],
)
def test_a_mistake_that_only_the_recipes_or_the_data_know(tmp_path, trial, overrides, message, monkeypatch):
    monkeypatch.delenv("PARAPET_DATA", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert message in refused(sweep(trial, overrides=overrides), tmp_path)


def test_a_corrupt_file_of_images_is_named_with_the_field(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03 not what it says"))
    overrides = ["data.name=mnist", f"data.root={tmp_path / 'MNIST'}"]
    message = refused(sweep(method("trades"), overrides=overrides), tmp_path)
    assert message.startswith(f"data.root={tmp_path / 'MNIST'}: ")
    assert "ubyte.gz" in message


def test_labels_out_of_range_are_named_with_the_file(tmp_path):
    images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10
    file = tmp_path / "own.npz"
    np.savez(file, train_images=images, train_labels=labels - 1, test_images=images, test_labels=labels)
    message = refused(sweep(method("trades"), overrides=["data.name=npz", f"data.root={file}"]), tmp_path)
    assert message.startswith(f"data.root={file}: ")
    assert "labels must be" in message


def doubts(tmp_path, *overrides, **fields):
    swept = sweep(method("trades"), overrides=["seeds=[0, 1]", *overrides], **fields)
    return Planner(swept, Runs(tmp_path)).warnings()


def test_what_is_legal_and_probably_wrong_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert doubts(tmp_path) == []
    cases = {
        "attack.eps=8": ["attack.eps=8: 8 is more than pixels can differ"],
        "attack.step_size=0.01": ["4 steps of 0.01 do not reach as far as eps, 0.2"],
        "selection=test": ["selection=test: the best epoch is chosen on the test images"],
        f"concurrency={cores + 1}": [f"concurrency: {cores + 1} trials at once, and {cores} cores have room"],
        "resources.cpus=0.01": ["resources.cpus: at 0.01 each, 16 trials at once"],
        "scheduler={name: asha, grace_epochs: 3}": ["keeps asha from ending any trial"],
        "seeds=0": ["seeds: one per configuration"],
    }
    for override, expected in cases.items():
        found = doubts(tmp_path, override)
        assert len(found) == 1, (override, found)
        assert expected[0] in found[0]
    assert doubts(tmp_path, "attack.norm=l2", "attack.eps=1.5") == [], (
        "an L2 ball may well be wider than a pixel"
    )


def test_trials_that_are_the_same_are_noticed(tmp_path):
    swept = sweep(method("trades", beta=6), method("trades"), seeds=[0, 1])
    assert Planner(swept, Runs(tmp_path)).warnings() == [
        "trials[0] and trials[1] are the same trial; it runs once"
    ]


def test_paths_are_the_current_directorys_wherever_the_sweep_goes_on(tmp_path, monkeypatch):
    images, labels = np.zeros((200, 8, 8), np.uint8), np.arange(200) % 10
    np.savez(
        tmp_path / "own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels
    )
    checkpoint_file(tmp_path / "h.pt", 10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    small = ["data.name=npz", "train.batch_size=9"]
    for data, helper in (("own.npz", "h.pt"), ("~/own.npz", "~/h.pt")):
        paths = [f"data.root={data}", f"helpers.standard.path={helper}"]
        again = build(sweep(method("hat"), overrides=[*small, *paths]).dump(), "sweep.yaml")
        monkeypatch.chdir("/")
        (wanted,) = plan(again, tmp_path / "runs")
        assert wanted.spec.data.root == str(tmp_path / "own.npz")
        assert wanted.spec.helpers["standard"]["path"] == str(tmp_path / "h.pt")
        monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARAPET_DATA", "own.npz")
    (wanted,) = plan(sweep(method("trades"), overrides=small), tmp_path / "runs")
    assert wanted.spec.data.root == str(tmp_path / "own.npz")


def test_a_helper_given_by_run_is_that_runs_trial_or_a_copy_of_its_checkpoint(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    address = f"sqlite:///{tmp_path / 'tracking.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    client = MlflowClient(address)
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment, tags={"parapet.key": "a" * 16}).info.run_id
    empty = client.create_run(experiment).info.run_id
    file = checkpoint_file(tmp_path / "last.pt", 10)
    client.log_artifact(run, str(file), "checkpoints")

    def wanted(run_id, runs):
        swept = sweep(method("hat") | {"helpers": {"standard": {"run": run_id}}})
        return Planner(swept, Runs(tmp_path / runs)).check()[0].spec.helpers["standard"]

    copied = wanted(run, "elsewhere")
    assert copied["path"] == str(tmp_path / "elsewhere" / "helpers" / run / "last.pt")
    assert copied["digest"] == hashlib.sha256(file.read_bytes()).hexdigest()
    for run_id in (empty, "absent"):
        with pytest.raises(UserError, match=r"helpers\.standard\.run: .* has no checkpoint of run"):
            wanted(run_id, "elsewhere")
    trial = Runs(tmp_path / "here").trial("a" * 16)
    trial.create(resolve(TrialSpec.model_validate(BASE | method("standard"))))
    trial.checkpoints.mkdir()
    file.rename(trial.checkpoints / "last.pt")
    events = EventWriter(trial.events)
    events.started()
    events.write("trained", epochs=3, best_epoch=2, metrics={})
    assert wanted(run, "here") == {"key": "a" * 16}
    prefix = sweep(method("hat") | {"helpers": {"standard": {"key": "aaa"}}})
    assert plan(prefix, tmp_path / "here")[0].spec.helpers["standard"] == {"key": "a" * 16}


def test_planning_writes_nothing(tmp_path):
    plan(sweep(method("hat"), method("standard")), tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_a_spec_read_back_from_its_file_has_the_same_key(tmp_path):
    (wanted,) = plan(sweep(method("hat", **{"with": {"wa": {}}})), tmp_path)
    again = TrialSpec.model_validate(yaml.safe_load(yaml.safe_dump(wanted.spec.dump(), sort_keys=False)))
    from training.data import digest

    assert again.key(digest(again.data)) == wanted.key


def test_images_that_a_model_cannot_take_are_noticed(tmp_path):
    images, labels = np.zeros((200, 3, 3), np.uint8), np.arange(200) % 10
    file = tmp_path / "tiny.npz"
    np.savez(file, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    data = {"data": {"name": "npz", "root": str(file)}, "model": {"name": "small-cnn-4x4"}}
    message = refused(sweep(method("trades") | data, overrides=["train.batch_size=9"]), tmp_path)
    assert message.startswith("f.yaml: trials[0].model.name: 'small-cnn-4x4' needs images of at least 4x4")


def test_a_start_that_is_another_network_is_refused_before_anything_starts(tmp_path):
    for given, said in (
        ({"model": {"name": "small-cnn", "width": 3}}, "its model, 'small-cnn', is not the 'small-cnn'"),
        ({"model": {"name": "mlp"}}, "its model, 'mlp', is not the 'small-cnn'"),
        ({"method": {"name": "standard", "with": {"he": {}}}}, "ends in Head"),
    ):
        content = {
            "name": "x",
            "base": {
                "data": {"name": "digits"},
                "model": {"name": "small-cnn"},
                "attack": {"eps": 0.2},
                "helpers": {"start": given},
            },
            "trials": [{"method": "pgd-at+pretrained"}],
        }
        sweep = build(content, "f.yaml")
        with pytest.raises(UserError, match=rf"f\.yaml: base\.helpers\.start: .*{said}"):
            Planner(sweep, Runs(tmp_path)).check()


def planned(tmp_path, **trial):
    base = {"data": {"name": "digits"}, "model": {"name": "small-cnn"}, "attack": {"eps": 0.2}}
    sweep = build({"name": "x", "base": base, "trials": [trial]}, "f.yaml")
    (wanted,) = Planner(sweep, Runs(tmp_path)).check()
    return wanted


def test_a_natural_network_that_cannot_take_the_data_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match=r"method: its natural network, 'resnet50': .*images of at least"):
        planned(tmp_path, method={"name": "lbgat", "model": "resnet50"})


@pytest.mark.parametrize("name", ["standard", "fast-at", "free-at"])
def test_how_others_search_is_no_part_of_the_key_of_what_does_not(tmp_path, name):
    keys = {planned(tmp_path, method=name, attack={"steps": steps}).key for steps in (3, 10)}
    assert len(keys) == 1
    keys = {planned(tmp_path, method="pgd-at", attack={"steps": steps}).key for steps in (3, 10)}
    assert len(keys) == 2


def test_numbers_that_are_none_are_refused_where_keys_would_not_tell_them_apart(tmp_path):
    for factor in (float("nan"), float("inf"), -1.0):
        with pytest.raises(UserError, match=r"method\.factor: should be|method\.factor: input should be"):
            planned(tmp_path, method={"name": "hat", "factor": factor})

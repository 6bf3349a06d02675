"""Planning of the networks that others begin from: trained as trials of their own, by a setup, or given."""

import hashlib

import pytest
from small_plans import BASE, checkpoint_file, method, plan, refused, sweep

from orchestrate.events import EventWriter
from orchestrate.plan import Planner
from orchestrate.runs import Runs
from training.errors import UserError
from training.resolve import resolve
from training.spec import TrialSpec


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

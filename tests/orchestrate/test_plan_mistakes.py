"""Planning: mistakes and doubts before anything starts."""

import gzip
import os

import numpy as np
import pytest
from small_plans import checkpoint_file, method, planned, refused, sweep

from orchestrate.plan import Planner
from orchestrate.runs import Runs
from orchestrate.sweep_file import build
from training.errors import UserError


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
        (
            method("trades", beta={"cosine": [True, 2]}),
            [],
            "f.yaml: trials[0].method.beta: should be a number",
        ),
        (method("trades", beta=True), [], "f.yaml: trials[0].method.beta: should be a number, got True"),
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


def test_a_natural_network_that_cannot_take_the_data_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match=r"method: its natural network, 'resnet50': .*images of at least"):
        planned(tmp_path, method={"name": "lbgat", "model": "resnet50"})


def test_numbers_that_are_none_are_refused_where_keys_would_not_tell_them_apart(tmp_path):
    for factor in (float("nan"), float("inf"), -1.0):
        with pytest.raises(UserError, match=r"method\.factor: should be|method\.factor: input should be"):
            planned(tmp_path, method={"name": "hat", "factor": factor})

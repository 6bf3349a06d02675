"""The loop on real digits: interrupted anywhere it ends bit for bit where an uninterrupted run ends."""

import errno
import os
import subprocess
import sys

import pytest
import torch
from every_method import assert_same, stop_after, tensors

from training import checkpoint
from training.data import load
from training.errors import Diverged, Stopped, UserError
from training.fit import Control, Training, fit
from training.precision import Forward
from training.resolve import helper_spec, needed_helpers, resolve
from training.spec import AttackSpec, TrainSpec, TrialSpec
from training.views import Moment

CPU = torch.device("cpu")


def spec_of(method="trades", **train):
    return resolve(
        TrialSpec.model_validate(
            {
                "method": {"name": method} if isinstance(method, str) else method,
                "data": {"name": "digits", "train_size": 200, "augment": "crop-flip"},
                "model": {"name": "small-cnn", "width": 4},
                "train": {"epochs": 4, "batch_size": 50} | train,
                "attack": {"eps": 0.2, "steps": 2},
            }
        )
    )


@pytest.fixture(scope="module")
def digits():
    return load(spec_of().data)


def train(spec, data, folder, control=Control(), helpers=None):
    return list(fit(spec, data, folder, key="k", device=CPU, helpers=helpers or {}, control=control))


WA = {"name": "trades", "with": {"wa": {"decay": 0.9}}}


@pytest.mark.parametrize("method", ["standard", "pgd-at", WA], ids=["standard", "pgd-at", "trades+wa"])
def test_a_run_interrupted_at_several_steps_equals_an_uninterrupted_one(tmp_path, digits, method):
    spec = spec_of(method)
    whole = train(spec, digits, tmp_path / "whole")
    pieces = []
    for steps in (1, 3, 2, 4):  # within an epoch, across its end, and again within
        with pytest.raises(Stopped):
            pieces.extend(
                fit(
                    spec, digits, tmp_path / "cut", key="k", device=CPU, helpers={}, control=stop_after(steps)
                )
            )
        torch.rand(5)  # the process that goes on has drawn other things
    pieces += train(spec, digits, tmp_path / "cut")
    assert_same(tensors(tmp_path / "whole"), tensors(tmp_path / "cut"))
    assert_same(tensors(tmp_path / "whole", checkpoint.BEST), tensors(tmp_path / "cut", checkpoint.BEST))

    def curves(events):
        return [
            {k: v for k, v in e["metrics"].items() if "second" not in k}
            for e in events
            if e["event"] == "epoch"
        ]

    assert curves(whole) == curves(pieces)


def test_a_process_killed_while_training_goes_on_to_the_same_weights(tmp_path, digits):
    """SIGKILL at a step, from inside a real process; what it left on disk is all that is known."""
    program = f"""
import os, signal, sys, torch
from pathlib import Path
sys.path[:0] = {sys.path!r}
from test_fit import CPU, Control, digits, fit, load, spec_of
count = iter(range(10**6))
def stop():
    if next(count) == int(sys.argv[1]):
        assert "torch._dynamo" not in sys.modules  # seconds at a trial's start, for nothing
        os.kill(os.getpid(), signal.SIGKILL)
spec = spec_of()
control = Control(stop=stop, checkpoint_every_s=0.0)
for event in fit(spec, load(spec.data), Path(sys.argv[2]), key="k", device=CPU, helpers={{}}, control=control):
    pass
"""
    train(spec_of(), digits, tmp_path / "whole")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    for steps in ("2", "4"):
        done = subprocess.run([sys.executable, "-c", program, steps, str(tmp_path / "cut")], env=environment)
        assert done.returncode == -9
    assert checkpoint.position(tmp_path / "cut", "k") > (0, 2)
    train(spec_of(), digits, tmp_path / "cut")
    assert_same(tensors(tmp_path / "whole"), tensors(tmp_path / "cut"))


def test_seeds_differ_and_repeat(tmp_path, digits):
    one, again = spec_of(), spec_of()
    other = one.model_copy(update={"seed": 1})
    for name, spec in (("one", one), ("again", again), ("other", other)):
        train(spec, digits, tmp_path / name)
    assert_same(tensors(tmp_path / "one"), tensors(tmp_path / "again"))
    key = "/networks/student/head.weight"
    assert not torch.equal(tensors(tmp_path / "one")[key], tensors(tmp_path / "other")[key])


def test_events_tell_each_epoch_with_every_loss_term(tmp_path, digits):
    events = train(spec_of(), digits, tmp_path)
    epochs = [e for e in events if e["event"] == "epoch"]
    assert [e["epoch"] for e in epochs] == [0, 1, 2, 3]
    metrics = epochs[0]["metrics"]
    assert {"loss", "loss/CE.clean", "loss/KL.adv.clean", "lr", "val/clean", "val/robust", "seconds"} <= set(
        metrics
    )
    assert metrics["loss"] == pytest.approx(
        metrics["loss/CE.clean"] + 6 * metrics["loss/KL.adv.clean"], rel=1e-4
    )
    best = max(epochs, key=lambda e: (e["metrics"]["val/robust"], -e["epoch"]))
    assert events[-1]["event"] == "trained"
    assert events[-1]["best_epoch"] == best["epoch"]
    assert events[-1]["metrics"]["val/robust"] == best["metrics"]["val/robust"]
    _, _, facts = checkpoint.load_network(tmp_path / checkpoint.BEST)
    assert facts["epoch"] == best["epoch"]


def test_rate_and_momentum_follow_their_schedule(tmp_path, digits):
    spec = spec_of("standard", schedule={"name": "onecycle", "momentum": [0.95, 0.85]})
    training = Training(spec, digits, tmp_path, "k", CPU, {})
    seen = []
    training.optimizer.register_step_pre_hook(
        lambda sgd, *_: seen.extend((group["lr"], group["momentum"]) for group in sgd.param_groups)
    )
    list(training.run(Control()))
    moments = [Moment(epoch, step, 3, 4) for epoch in range(4) for step in range(3)]
    assert seen == [(training.rates.lr(now), training.rates.momentum(now)) for now in moments]
    assert len({momentum for _, momentum in seen}) > 6


def test_the_student_learns(tmp_path, digits):
    spec = spec_of("standard", epochs=6, batch_size=20)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"augment": "none"})})
    first, *_, last = [e for e in train(spec, digits, tmp_path) if e["event"] == "epoch"]
    assert last["metrics"]["loss"] < 0.5 * first["metrics"]["loss"]


def test_training_again_when_all_is_done_only_says_so(tmp_path, digits):
    train(spec_of(), digits, tmp_path)
    before = tensors(tmp_path)
    assert checkpoint.load(tmp_path / checkpoint.LAST)["complete"]
    assert [e["event"] for e in train(spec_of(), digits, tmp_path)] == ["checkpoint", "trained"]
    assert_same(before, tensors(tmp_path))


def test_a_deadline_ends_training_at_a_checkpoint(tmp_path, digits):
    with pytest.raises(Stopped, match="time"):
        train(spec_of(), digits, tmp_path, Control(deadline=0.0))
    assert checkpoint.position(tmp_path, "k") == (0, 0)
    assert not checkpoint.load(tmp_path / checkpoint.LAST)["complete"]


def test_a_loss_that_is_no_number_ends_the_trial_and_saves_nothing_of_it(tmp_path, digits):
    with pytest.raises(Diverged, match="epoch"):
        train(spec_of("standard", lr=1e30, nesterov=False), digits, tmp_path)
    assert not (tmp_path / checkpoint.LAST).exists()


def test_hat_trains_with_its_helper_and_saves_it_once(tmp_path, digits):
    hat = spec_of("hat")
    (needed,) = needed_helpers(hat)
    helper = resolve(helper_spec(hat, needed, {}))
    assert helper.seed == 0
    train(helper, digits, tmp_path / "standard")
    network, _, _ = checkpoint.load_network(tmp_path / "standard" / checkpoint.LAST)
    train(hat, digits, tmp_path / "hat", helpers={"standard": network})
    assert list(checkpoint.load(tmp_path / "hat" / checkpoint.LAST)["networks"]) == ["student"]


def test_a_checkpoint_is_an_ordinary_torch_file(tmp_path, digits):
    train(spec_of(), digits, tmp_path)
    assert torch.load(tmp_path / checkpoint.BEST, weights_only=True)["key"] == "k"


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_a_truncated_checkpoint_is_refused_by_name_and_the_one_before_it_used(tmp_path, digits, keep, caplog):
    with pytest.raises(Stopped):
        train(spec_of(), digits, tmp_path, stop_after(2))
    with pytest.raises(Stopped):
        train(spec_of(), digits, tmp_path, stop_after(1))
    last = tmp_path / checkpoint.LAST
    last.write_bytes(last.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"last\.pt: is truncated"):
        checkpoint.load(last)
    assert checkpoint.position(tmp_path, "k") == (0, 2)
    assert "last.pt: is truncated" in caplog.text  # what was lost is said
    train(spec_of(), digits, tmp_path)
    train(spec_of(), digits, tmp_path / "whole")
    assert_same(tensors(tmp_path / "whole"), tensors(tmp_path))


def test_a_flipped_byte_is_found(tmp_path):
    file = tmp_path / "last.pt"
    checkpoint.save({"format": checkpoint.FORMAT, "weights": torch.rand(1000)}, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(file)


def test_a_pickle_is_never_unpickled(tmp_path):
    """Not even when its checksum holds: who can write a file can write its checksum."""
    file = tmp_path / "best.pt"
    trap = Trap(tmp_path / "sprung")
    torch.save({"format": 1, "trap": trap}, file)
    with pytest.raises(UserError, match="no parapet checkpoint"):
        checkpoint.load(file)
    checkpoint.save({"format": checkpoint.FORMAT, "trap": trap}, file)
    with pytest.raises(UserError, match="never loaded"):
        checkpoint.load(file)
    assert not (tmp_path / "sprung").exists()


def test_what_cannot_be_read_back_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_checked", lambda file: None)
    with pytest.raises(OSError, match="cannot be written"):
        checkpoint.save({"format": 1}, tmp_path / "last.pt")
    assert list(tmp_path.iterdir()) == []


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (str(self.file),))


def test_an_archive_with_parts_missing_is_no_checkpoint(tmp_path):
    checkpoint.save({"format": checkpoint.FORMAT, "key": "k"}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="is not a parapet checkpoint"):
        checkpoint.load_network(tmp_path / "best.pt")


def test_a_network_that_answers_with_no_numbers_has_diverged(tmp_path, digits):
    """One step with a rate of 1e30: its own loss is still fine."""
    spec = spec_of("standard", lr=1e30, nesterov=False, batch_size=180, epochs=1)
    with pytest.raises(Diverged, match="answers"):
        train(spec, digits, tmp_path)
    assert not (tmp_path / checkpoint.BEST).exists()


def test_how_others_search_makes_standard_training_no_other_trial():
    one, other = (
        spec_of("standard").model_copy(update={"attack": AttackSpec(eps=0.2, steps=n)}) for n in (3, 9)
    )
    assert resolve(one).key("data") == resolve(other).key("data")
    assert resolve(one).key("data") != resolve(one.model_copy(update={"seed": 1})).key("data")
    trained = (spec_of("pgd-at").model_copy(update={"attack": AttackSpec(eps=0.2, steps=n)}) for n in (3, 9))
    assert len({resolve(spec).key("data") for spec in trained}) == 2


def test_a_checkpoint_of_another_spec_is_refused(tmp_path, digits):
    train(spec_of(), digits, tmp_path)
    with pytest.raises(UserError, match="another spec"):
        list(fit(spec_of(), digits, tmp_path, key="other", device=CPU, helpers={}, control=Control()))
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.expect(tmp_path / "nowhere.pt", "k")


def test_a_full_disk_names_the_file_and_loses_nothing(tmp_path, digits, monkeypatch):
    """The kernel's own refusal: files may not grow past a limit, as on a full disk."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    train(spec_of(epochs=1), digits, tmp_path)
    before = tensors(tmp_path)
    training = Training(spec_of(epochs=1), digits, tmp_path, "k", CPU, {})
    training.restore()
    monkeypatch.setattr(signal, "signal", signal.signal)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match=r"last\.pt: cannot be written") as raised:
            training.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert raised.value.errno == errno.EFBIG
    assert_same(before, tensors(tmp_path))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_selection_on_test_trains_on_every_training_image(tmp_path, digits):
    chosen = spec_of().model_copy(update={"selection": "test"})
    assert len(Training(chosen, digits, tmp_path, "k", CPU, {}).batches) == 4
    assert len(Training(spec_of(), digits, tmp_path, "k", CPU, {}).batches) == 3


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"channels_last": True}])
def test_training_options_that_cpus_have(tmp_path, digits, options):
    events = train(spec_of("trades", **options), digits, tmp_path)
    assert events[-1]["event"] == "trained"
    plain = train(spec_of("trades"), digits, tmp_path / "plain")
    ours, theirs = (
        e[0]["metrics"]["loss"] for e in ([x for x in y if x["event"] == "epoch"] for y in (events, plain))
    )
    assert ours == pytest.approx(theirs, rel=0.05)


def test_compiled_training_never_recompiles(tmp_path, digits):
    """One callable per network, mode and gradient; the eager backend checks the guards without a C++ compiler."""
    import torch._dynamo

    torch._dynamo.reset()
    spec = spec_of("trades")
    training = Training(spec, digits, tmp_path / "ours", "k", CPU, {})
    training.forward.compile, training.forward.backend = True, "eager"
    torch._dynamo.config.error_on_recompile = True
    try:
        events = list(training.run(Control()))
    finally:
        torch._dynamo.config.error_on_recompile = False
    assert len(training.forward.compiled) >= 3  # searching, training, judging
    plain = train(spec, digits, tmp_path / "plain")
    assert [e["metrics"]["loss"] for e in events if e["event"] == "epoch"] == pytest.approx(
        [e["metrics"]["loss"] for e in plain if e["event"] == "epoch"]
    )


def test_bf16_hands_out_float_logits():
    forward = Forward(TrainSpec(precision="bf16"), CPU)
    network = torch.nn.Linear(8, 3)
    logits = forward(network, torch.rand(4, 8))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float())


def test_a_hypersphere_student_starts_from_a_network_of_its_own_kind(tmp_path, digits):
    spec = spec_of({"name": "pgd-at", "with": {"he": {}, "pretrained": {"by": "pgd-at"}}}, epochs=1)
    (needed,) = needed_helpers(spec)
    begun = resolve(helper_spec(spec, needed, {}))
    assert list(begun.method.with_) == ["he"]
    train(begun, digits, tmp_path / "start")
    start, _, _ = checkpoint.load_network(tmp_path / "start" / checkpoint.LAST)
    training = Training(spec, digits, tmp_path / "own", "k", CPU, {"start": start})
    for name, value in training.networks["student"].state_dict().items():
        assert torch.equal(value, start.state_dict()[name]), name


def test_a_start_of_another_shape_is_told_before_anything_is_trained(tmp_path, digits):
    spec = spec_of({"name": "pgd-at", "with": {"pretrained": {}}}, epochs=1)
    other = TrialSpec.model_validate(
        spec.dump() | {"model": {"name": "small-cnn", "width": 6}, "method": "standard"}
    )
    train(resolve(other), digits, tmp_path / "start")
    start, _, _ = checkpoint.load_network(tmp_path / "start" / checkpoint.LAST)
    with pytest.raises(
        UserError, match=r"helpers\.start: is another network than the one to train: size mismatch"
    ):
        Training(spec, digits, tmp_path / "own", "k", CPU, {"start": start})

"""What holds for whole trainings of every method: resumed, checkpointed, in bf16, compiled.

The rows are those of every_method.py. What a method computes is for the tests against the papers.
"""

import math

import pytest
import torch
from every_method import (
    TRAINED,
    assert_same,
    same,
    spec_of,
    stop_after,
    tensors,
    training_of,
)

from training import checkpoint
from training.errors import Stopped
from training.fit import Control
from training.recipes import MODIFIERS, RECIPES

# --- whole trainings


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trains a row to its end, once: the folder, and what the validated networks said after each epoch."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("whole")
            training = training_of(spec_of(name), folder)
            judge, answers = training.judge, []

            def judged(network, epoch):
                answers.append(answers_of(network))
                return judge(network, epoch)

            training.judge = judged
            for _ in training.run(Control()):
                pass
            made[name] = folder, answers
        return made[name]

    return run


@torch.no_grad()
def answers_of(network):
    """Logits of a few images in eval mode."""
    mode = network.training
    network.eval()
    logits = network(torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    network.train(mode)
    return logits


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_that_was_interrupted_ends_bit_for_bit_where_a_whole_one_ends(name, whole, tmp_path):
    folder, _ = whole(name)
    first = training_of(spec_of(name), tmp_path)
    with pytest.raises(Stopped):
        list(first.run(stop_after(4)))
    assert checkpoint.position(tmp_path, "k") == (1, 1)
    torch.rand(5)  # the process that goes on has drawn other things
    second = training_of(spec_of(name), tmp_path)
    assert second.restore()
    list(second.run(Control()))
    for file in (checkpoint.LAST, checkpoint.BEST):
        assert_same(tensors(folder, file), tensors(tmp_path, file))


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_gives_the_very_network_that_was_validated(name, whole):
    folder, answers = whole(name)
    for file in (checkpoint.LAST, checkpoint.BEST):
        network, _, facts = checkpoint.load_network(folder / file)
        epoch = facts["epoch"] if file == checkpoint.BEST else -1
        assert not network.training
        assert torch.equal(answers_of(network), answers[epoch])
    assert not torch.equal(answers[0], answers[1])


@pytest.mark.parametrize("name", ["standard", "free-at"])
def test_another_seed_is_another_run_where_a_step_draws_nothing(name):
    def begin(seed):
        training = training_of(spec_of(name).model_copy(update={"seed": seed}))
        training._step(torch.arange(48))
        return dict(training.networks["student"].named_parameters())

    assert same(begin(1), begin(1))
    assert not same(begin(1), begin(2))


# --- precision and compilation


@pytest.mark.parametrize(
    "name", [*RECIPES.entries, *(f"trades+{modifier}" for modifier in MODIFIERS.entries)]
)
def test_a_step_in_bf16_and_channels_last(name):
    """The weights stay in float32, and the loss is about that of float32."""
    losses = []
    for options in ({"precision": "bf16", "channels_last": True}, {}):
        training = training_of(spec_of(name, **options))
        training._step(torch.arange(training.batches.batch_size * len(training.batches)))
        losses.append(training.sums["loss"].item())
        weights = list(training.networks["student"].parameters())
        assert all(p.isfinite().all() and p.dtype == torch.float32 for p in weights)
    assert math.isfinite(losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_a_hypersphere_is_not_rounded_to_bf16():
    """Where a cosine is 0.999, bfloat16 says 1, and its arccos has no slope."""
    training = training_of(spec_of("trades+m-he", precision="bf16"))
    head = training.networks["student"].head
    features = (head.weight[:1].detach() + 0.01).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features)
    assert logits[0, 0] > head(features)[0].sort().values[-2]
    assert torch.equal(logits, head(features))
    logits[0, 0].backward()
    assert features.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


COMPILED = {  # how many callables; judging takes two, in eval mode with and without a gradient
    "st": 2 + 3,  # searching, training, and training on col, which is not tracked
    "pgd-at+adr": 2 + 3,  # the average, searching in train mode, training
    "lbgat": 2 + 2,  # searching is like judging; training, of two networks
    "free-at": 2 + 1,  # one backward for both
    "trades+he": 2 + 1,  # searching is like judging
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_training_never_recompiles(name):
    """One callable per network, mode and gradient; the eager backend checks the guards without a C++ compiler."""
    import torch._dynamo

    torch._dynamo.reset()
    plain, ours = training_of(spec_of(name)), training_of(spec_of(name))
    ours.forward.compile, ours.forward.backend = True, "eager"
    with torch._dynamo.config.patch(error_on_recompile=True):
        for training in (plain, ours):
            for _ in range(2):
                training._step(torch.arange(48))
                training.judge(training.networks[training.method.evaluate], 0)
                training.step = 0
    assert ours.sums["loss"].item() == pytest.approx(plain.sums["loss"].item(), rel=1e-5)
    assert len(ours.forward.compiled) == COMPILED[name]

"""Wide ResNets for CIFAR (Zagoruyko and Komodakis 2016), in the form of TRADES' program and all that copied it.

``wrn-D-K`` has D layers: a stem, three stages of (D - 4) / 6 pre-activation blocks of two convolutions, which are 16 K,
32 K and 64 K wide, and the head. Differs from that program in one thing: it builds a further stage that it never uses
(``sub_block1``), so its checkpoints hold more parameters than the network has.

The wide ResNets for ImageNet (wrn-50-2, wrn-101-2) are in :mod:`training.models.resnet`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field

from training.models.initialisation import he_normal
from training.models.network import MODELS, Activation, Inputs, Network, Normalize, Width
from training.models.preact_resnet import Form, PreActBlock, check_form, preact_network
from training.models.stems import Stem, check_size, preact_stem_layers


def _three_even_stages(depth: int) -> int:
    if (depth - 4) % 6:
        below = depth - (depth - 4) % 6
        raise ValueError(f"should be 6 n + 4, like {below} or {below + 6}")
    return depth


Depth = Annotated[int, Field(ge=10, le=1000), AfterValidator(_three_even_stages)]
Widen = Annotated[int, Field(ge=1, le=64)]


@MODELS.register("wrn", source="Zagoruyko and Komodakis 2016, Table 1")
def wrn(
    inputs: Inputs,
    *,
    depth: Depth = 10,
    widen: Widen = 1,
    width: Width = 16,
    activation: Activation = "relu",
    normalize: Normalize = "data",
    stem: Stem = "cifar",
    form: Form = "usual",
) -> Network:
    """A Wide ResNet of any depth and factor, features of 4 * width * widen: ``depth: 10, widen: 1`` runs on a laptop.

    Images [N, C, H, W] in [0, 1] to logits [N, K]. Initialised by :func:`training.models.initialisation.he_normal`.

    Args:
        depth: 6 n + 4, for n blocks in each of the three stages.
        widen: the stages are ``widen`` times as wide as ``width``, 2 and 4 times that.
        width: of the stem.
        form: ``gowal`` is the network of Gowal et al. 2020's program, which HAT's large recipe trains with SiLU:
            strided 3x3 convolutions pad below and to the right only, and BatchNorm's momentum is 0.01.
    """
    strides = (1, 2, 2)
    check_size(inputs, stem, strides)
    check_form(inputs, stem, strides, form)
    layers = preact_stem_layers(stem, inputs.shape[0], width, activation)
    of = width
    for stage, stride in enumerate(strides):
        to = width * widen * 2**stage
        for block in range((depth - 4) // 6):
            step = stride if block == 0 else 1
            layers.append(PreActBlock(of, to, step, activation, same_padding=form == "gowal"))
            of = to
    return he_normal(preact_network(inputs, normalize, layers, of, activation, form))


def _named(depth: int, widen: int, about: str) -> Callable[..., Network]:
    """:func:`wrn` with a depth and a factor that have a name."""

    def build(
        inputs: Inputs,
        *,
        width: Width = 16,
        activation: Activation = "relu",
        normalize: Normalize = "data",
        stem: Stem = "cifar",
        form: Form = "usual",
    ) -> Network:
        network: Network = wrn(
            inputs,
            depth=depth,
            widen=widen,
            width=width,
            activation=activation,
            normalize=normalize,
            stem=stem,
            form=form,
        )
        return network

    build.__doc__ = f"Wide ResNet-{depth}-{widen}, features of {64 * widen}; {about}."
    return build


for _depth, _widen, _about in (
    (28, 10, "36,479,194 parameters with 10 classes"),
    (34, 5, "11,554,074 parameters with 10 classes"),
    (34, 10, "46,160,474 parameters with 10 classes"),
    (34, 20, "184,531,674 parameters with 10 classes"),
    (40, 8, "35,748,314 parameters with 10 classes"),
):
    MODELS.register(f"wrn-{_depth}-{_widen}", source="Zagoruyko and Komodakis 2016, Table 1")(
        _named(_depth, _widen, _about)
    )

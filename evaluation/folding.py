"""The same function in fewer operations, for searching, and in full precision, for verdicts.

Folding BatchNorm into the convolutions before it saves a good part of AutoAttack's time.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError

AGREEMENT = 1e-9  # largest difference of a folded network's logits in float64, in units of the largest logit
LOOK = 8  # images on which the two are compared

log = logging.getLogger(__name__)


def folded(network: nn.Module, x: Tensor) -> nn.Module | None:
    """A copy of ``network`` (eval mode) with its BatchNorm folded, or None where that cannot be done.

    It cannot be done to a network that torch.fx does not trace (one that branches on its input). ``x``
    [N, C, H, W] are images on which the copy must agree with the original.
    """
    assert not network.training, "BatchNorm is constant in eval mode only"
    try:
        whole = copy.deepcopy(network).double()
        quick = fuse(copy.deepcopy(whole))
    except (
        TraceError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # what tracing raises for what it cannot follow
        log.info("BatchNorm is not folded, the evaluation takes longer: %s", error)
        return None
    some = x[
        :LOOK
    ].double()  # in float32 the rounding of a deep network is larger than any mistake that is looked for
    with torch.no_grad():
        expected, got = whole(some), quick(some)
    gap = float((expected - got).abs().max() / expected.abs().max().clamp(min=1.0))
    if not gap <= AGREEMENT:
        log.warning("BatchNorm is not folded: the logits would differ by %.1e, relative to the largest", gap)
        return None
    return quick.to(x.dtype)


@contextmanager
def exact() -> Iterator[None]:
    """Convolutions in float32. On a GPU they are done in TF32 otherwise, which moves logits by a thousandth."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed

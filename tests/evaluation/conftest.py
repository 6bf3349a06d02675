"""Networks that are trained once for all tests of a session."""

from __future__ import annotations

import pytest
import torch
from small_digits import Pair, digits, small_net, train
from torch import nn


@pytest.fixture(scope="session")
def trained() -> tuple[nn.Module, Pair]:
    """A network that learnt digits with noise against it (some robustness at eps 0.1), and test digits."""
    torch.manual_seed(0)
    learn, test = digits()
    return train(small_net(), learn, epochs=6, eps=0.1), test


@pytest.fixture(scope="session")
def standard() -> tuple[nn.Module, Pair]:
    """A network that learnt digits as they are, and test digits."""
    torch.manual_seed(0)
    learn, test = digits()
    return train(small_net(), learn, epochs=6), test

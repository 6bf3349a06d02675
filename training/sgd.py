"""PyTorch's SGD without the seconds that its compiler takes to load."""

from __future__ import annotations

import inspect

import torch
from torch import optim

_plain = inspect.unwrap


class SGD(optim.SGD):
    """``torch.optim.SGD``, whose methods do not import ``torch._dynamo``.

    PyTorch wraps them so that they may be called in code that is being compiled, which never happens here: a compiled
    training compiles its networks. Without the wrappers the arithmetic is the same, bit for bit, and a trial that
    compiles nothing starts earlier by as much as importing PyTorch itself takes.
    """

    add_param_group = _plain(optim.SGD.add_param_group)
    zero_grad = _plain(optim.SGD.zero_grad)
    state_dict = _plain(optim.SGD.state_dict)
    load_state_dict = _plain(optim.SGD.load_state_dict)
    step = torch.no_grad()(_plain(optim.SGD.step))

"""How weights are drawn where a published program does not leave it to PyTorch.

PyTorch's own way, which the CIFAR ResNets and PreAct ResNets of the published programs keep: each weight uniform within
+- 1 / sqrt(inputs of the unit), likewise the bias. Everything is drawn from torch's global generator.
"""

from __future__ import annotations

import math

from torch import nn

from training.models.network import Network


def he_normal(network: Network) -> Network:
    """Draw each convolution again from N(0, 2 / n), n = kernel height * width * output channels; the head's bias is 0.

    He et al. 2015, for what flows backward. So do the Wide ResNets of TRADES' program and all that copied it (HE, HAT,
    LBGAT), and the ImageNet networks of HE's program: torchvision's, which however leave the bias as PyTorch draws it.
    BatchNorm begins with 1 and 0, and the head's weight is PyTorch's, in all of them.

    Returns:
        The same network.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, std=math.sqrt(2 / (height * width * module.out_channels)))
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network

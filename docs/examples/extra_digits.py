"""Extra images for the digits: every training digit moved by one pixel in four directions, as an .npz for data.extra.

python docs/examples/extra_digits.py extra.npz
parapet train rst data.extra.path=extra.npz data.extra.share=0.5
"""

import sys

import numpy as np

from training.data import load
from training.spec import DataSpec

data = load(DataSpec(name="digits"))
images, labels = data.train.images.numpy(), data.train.labels.numpy()
moved = []
for axis, by in ((2, 1), (2, -1), (3, 1), (3, -1)):
    rolled = np.roll(images, by, axis)
    edge = [slice(None)] * 4
    edge[axis] = slice(0, 1) if by > 0 else slice(-1, None)
    rolled[tuple(edge)] = 0  # what comes in at the edge is background
    moved.append(rolled)
np.savez_compressed(sys.argv[1], image=np.concatenate(moved), label=np.tile(labels, 4))
print(f"{sys.argv[1]}: {4 * len(labels)} images")

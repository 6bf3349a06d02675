"""HAT's toy problem against a straight-line simulation of its formulas."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from training.data import digest, load
from training.spec import DataSpec

TOY = DataSpec(name="hat-toy")
LEVEL = 1 / 80  # in the paper's units


def features(part):
    """The paper's x1, x2, x3 [N, 3], from the pixels, to half a level."""
    pixels = part.images.numpy().reshape(-1, 3) / 255
    return (pixels - 0.5) * 255 / 80 + np.array([0, 0, 0.75])


def simulated(label, count, draw):
    """Appendix A.1, line by line."""
    rho, alpha, beta = ((0.35, 0.65, 0.70), (1.0, 0.80, 0.85))[label]
    z = draw.uniform(0, 2 * np.pi, count)
    x1 = rho * np.cos(z) + draw.normal(0, 0.2, count)
    x2 = rho * np.sin(z) + draw.normal(0, 0.2, count)
    return np.stack([x1, x2, draw.uniform(alpha, beta, count)], axis=1)


def test_it_is_the_same_everywhere():
    """Fixed once: a change here changes every key of every trial on it."""
    assert digest(TOY) == "f77101a159d421da"


def test_shapes_and_classes():
    data = load(TOY)
    assert data.train.images.shape == (2000, 1, 1, 3)
    assert data.test.images.shape == (1000, 1, 1, 3)
    assert np.bincount(data.train.labels).tolist() == [1000, 1000]
    assert np.bincount(data.test.labels).tolist() == [500, 500]
    assert data.classes == 2


@pytest.mark.parametrize("label", [0, 1])
def test_features_are_distributed_as_the_formulas_say(label):
    data, draw = load(TOY), np.random.default_rng(1)
    ours = np.concatenate([features(part)[part.labels.numpy() == label] for part in (data.train, data.test)])
    theirs = simulated(label, 100_000, draw)
    rounding = draw.uniform(-LEVEL / 2, LEVEL / 2, ours.shape)  # what a level stands for
    for of in (
        lambda x: x[:, 0],
        lambda x: x[:, 1],
        lambda x: np.hypot(x[:, 0], x[:, 1]),
        lambda x: np.arctan2(x[:, 1], x[:, 0]),
        lambda x: x[:, 0] * x[:, 1],
    ):
        assert ks_2samp(of(ours + rounding), of(theirs)).pvalue > 0.01
    assert np.abs(np.corrcoef(ours.T) - np.eye(3)).max() < 0.1
    low, high = ((0.65, 0.70), (0.80, 0.85))[label]
    values, counts = np.unique(ours[:, 2], return_counts=True)
    assert values == pytest.approx(np.arange(low + LEVEL / 2, high, LEVEL))  # four levels, as often each
    assert np.abs(counts - 375).max() < 5 * (1500 * 0.25 * 0.75) ** 0.5


def test_the_papers_eps_is_eight_levels():
    data = load(TOY)
    levels = data.train.images.numpy()[:, 0, 0, 2].astype(int)
    labels = data.train.labels.numpy()
    gap = levels[labels == 1].min() - levels[labels == 0].max()
    assert gap == pytest.approx(0.1 * 80, abs=1)  # beta_1 = 0.70 to alpha_2 = 0.80
    ends = np.isin(data.train.images.numpy()[..., :2], (0, 255)).mean()
    assert ends < 0.002  # points that are moved into [0, 1]

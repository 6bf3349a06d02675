"""Noise that knows its image, not its batch."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from evaluation.attacks import ball_noise
from evaluation.noise import normal, uniform
from training.threat import L2, Linf


def test_an_image_gets_the_same_noise_in_any_batch_and_order() -> None:
    indices = torch.randperm(100)
    together = uniform(0, "pgd", 0, indices, (3, 4, 4))
    alone = torch.cat([uniform(0, "pgd", 0, i[None], (3, 4, 4)) for i in indices])
    assert torch.equal(together, alone)


def test_seed_attack_restart_image_and_place_each_change_it() -> None:
    def first(seed: int = 0, attack: str = "pgd", restart: int = 0, index: int = 0) -> torch.Tensor:
        return uniform(seed, attack, restart, torch.tensor([index]), (64,))[0]

    draws = [
        first(),
        first(seed=1),
        first(attack="square"),
        first(restart=1),
        first(index=1),
        first(index=2**40),
    ]
    assert all((a != b).all() for i, a in enumerate(draws) for b in draws[:i])
    assert len(first().unique()) == 64


def test_it_equals_splitmix64_in_exact_integers() -> None:
    from training.randomness import seed_of

    def mix(x: int) -> int:
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) % 2**64
        return x ^ x >> 31

    stream = seed_of(7, "evaluation/pgd", step=2)
    for index in (0, 5, 123_456_789):
        image = mix((mix(index + 1) + stream) % 2**64)
        expected = [(mix((image + place * 0x9E3779B97F4A7C15) % 2**64) >> 40) / 2**24 for place in (1, 2, 3)]
        assert uniform(7, "pgd", 2, torch.tensor([index]), (3,))[0].tolist() == expected


def test_uniform_noise_is_uniform_and_independent_between_neighbours() -> None:
    draws = uniform(0, "pgd", 0, torch.arange(2000), (8, 8)).double()
    assert 0 <= draws.min() < draws.max() < 1
    assert stats.kstest(draws.flatten().numpy(), "uniform").pvalue > 1e-3
    for a, b in ((draws[1:], draws[:-1]), (draws[:, 1:], draws[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.01


def test_normal_noise_is_normal() -> None:
    draws = normal(0, "pgd", 0, torch.arange(2000), (64,)).double()
    assert stats.kstest(draws.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("d", [4, 64])
def test_a_start_fills_the_l2_ball_evenly(d: int) -> None:
    x = torch.zeros(3000, d, 1, 1)
    moves = ball_noise(L2(0.5), 0, "pgd", 0, torch.arange(3000), x).flatten(1)
    radii = moves.norm(dim=1)
    assert radii.max() <= 0.5 + 1e-6
    assert stats.kstest(((radii / 0.5) ** d).double().numpy(), "uniform").pvalue > 1e-3
    assert moves.mean(dim=0).abs().max() < 0.05


def test_a_start_fills_the_linf_ball_evenly() -> None:
    moves = ball_noise(Linf(0.1), 0, "pgd", 0, torch.arange(500), torch.zeros(500, 3, 4, 4))
    assert stats.kstest((moves.flatten().double().numpy() + 0.1) / 0.2, "uniform").pvalue > 1e-3

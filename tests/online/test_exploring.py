"""What acts while it learns, and the log-probabilities of what it did."""

import math

import pytest
import torch

from offrl.distributions import Categorical, Deterministic, Gaussian, Greedy
from offrl.online.exploring import anything, exploring

LOW, HIGH = torch.tensor([-2.0]), torch.tensor([2.0])


def test_noise_is_in_half_ranges_and_clipped_to_the_bounds():
    policy = Deterministic(torch.tensor([[0.0], [2.0]]).repeat(20_000, 1), LOW, HIGH)
    acting = exploring(policy, 0.1, 0.0)
    action = acting.sample(torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0)))
    inside, at_bound = action[::2, 0], action[1::2, 0]
    assert float(inside.std()) == pytest.approx(0.2, rel=0.02)
    assert float((at_bound == 2).float().mean()) == pytest.approx(0.5, abs=0.01)
    mass = acting.log_prob(torch.full((40_000, 1), 2.0))[1]
    assert float(mass) == pytest.approx(math.log(0.5), abs=1e-5)


def test_a_greedy_policy_is_random_as_often_as_epsilon_says():
    value = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    acting = exploring(Greedy(value), 0.0, 0.2)
    assert torch.allclose(acting.log_probs.exp(), torch.tensor([[0.05, 0.85, 0.05, 0.05]]))


def test_a_stochastic_policy_acts_as_it_is():
    gaussian = Gaussian(torch.zeros(1, 1), torch.ones(1), LOW, HIGH)
    assert exploring(gaussian, 0.5, 0.5) is gaussian


def test_the_warm_up_is_uniform_over_the_bounds():
    acting = anything(Deterministic(torch.zeros(20_000, 1), LOW, HIGH))
    draws = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    action = acting.sample(draws)
    counts = torch.histc(action, bins=8, min=-2, max=2) / 20_000
    assert torch.allclose(counts, torch.full((8,), 0.125), atol=0.01)
    assert torch.allclose(acting.log_prob(action), torch.full((20_000,), -math.log(4)))
    among = anything(Categorical(torch.tensor([[0.7, 0.2, 0.1]]).log()))
    assert torch.allclose(among.log_probs.exp(), torch.full((1, 3), 1 / 3))

"""The maths against hand-worked numbers, obvious loops, and the mistakes that are made in it."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from offrl import losses

# Three steps, gamma .9, lambda .8: rewards 1, 2, 3; V = 10, 20, 30; V of the final observation 40.
# Then another episode of one terminated step, reward 5, V = 50: its advantage is -45.
REWARD = torch.tensor([1.0, 2, 3, 5], dtype=torch.float64)
VALUE = torch.tensor([10.0, 20, 30, 50], dtype=torch.float64)
NEXT_VALUE = torch.tensor([20.0, 30, 40, 60], dtype=torch.float64)
LAST = torch.tensor([False, False, True, True])
TERMINATED = [1.4832, -10.44, -27.0, -45.0]
TRUNCATED = [20.1456, 15.48, 9.0, -45.0]
LEAKED = [3.34944, -7.848, -23.4, -45.0]  # where the second episode runs into the first


def flags(*values: Any):
    return torch.tensor(values, dtype=torch.float64)


def gae(
    terminated: Tensor,
    *,
    value: Tensor = VALUE,
    next_value: Any = NEXT_VALUE,
    last: Any = LAST,
    td_lambda: float = 0.8,
):
    return losses.advantage_lambda(REWARD, value, next_value, terminated, last, 0.9, td_lambda)


def close(tensor: Tensor, numbers: list[float]):
    return torch.allclose(tensor, torch.tensor(numbers, dtype=torch.float64), atol=1e-9, rtol=0)


def test_a_terminated_episode_has_the_advantages_worked_out_by_hand():
    assert close(gae(flags(0, 0, 1, 1)), TERMINATED)


def test_a_truncated_episode_bootstraps_from_its_final_observation():
    assert close(gae(flags(0, 0, 0, 1)), TRUNCATED)


def test_advantage_plus_value_is_the_td_lambda_return():
    assert close((gae(flags(0, 0, 1, 1)) + VALUE)[:3], [11.4832, 9.56, 3.0])
    assert close((gae(flags(0, 0, 0, 1)) + VALUE)[:3], [30.1456, 35.48, 39.0])


def test_the_next_episode_does_not_leak_into_the_one_before():
    nothing_ends = torch.tensor([False, False, False, True])
    assert close(gae(flags(0, 0, 0, 1), last=nothing_ends), LEAKED)  # the mistake, made on purpose
    assert close(gae(flags(0, 0, 0, 1)), TRUNCATED)


def test_what_follows_a_terminated_step_does_not_count():
    wild = NEXT_VALUE.clone()
    wild[2:] = 1e9
    assert close(gae(flags(0, 0, 1, 1), next_value=wild), TERMINATED)


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(lambda: gae(flags(0, 0, 0, 1)), id="a terminal step bootstraps"),
        pytest.param(lambda: gae(flags(1, 1, 1, 1)), id="every step is terminal"),
        pytest.param(lambda: gae(flags(0, 0, 1, 1), td_lambda=1.0), id="lambda is ignored"),
        pytest.param(lambda: gae(flags(0, 0, 1, 1), next_value=VALUE), id="V(s) for V(s')"),
        pytest.param(
            lambda: gae(flags(0, 0, 1, 1), next_value=VALUE.roll(-1)).roll(1), id="rows shifted"
        ),
    ],
)
def test_the_numbers_tell_a_wrong_variant(mistake: Any):
    assert not close(mistake(), TERMINATED)


def test_lambda_one_is_the_return_less_the_value_and_lambda_zero_one_step():
    returns = torch.tensor([1 + 0.9 * 2 + 0.81 * 3, 2 + 0.9 * 3, 3, 5], dtype=torch.float64)
    assert torch.allclose(gae(flags(0, 0, 1, 1), td_lambda=1.0), returns - VALUE, atol=1e-12)
    one_step = REWARD + 0.9 * flags(1, 1, 0, 0) * NEXT_VALUE - VALUE
    assert torch.allclose(gae(flags(0, 0, 1, 1), td_lambda=0.0), one_step, atol=1e-12)


EPISODES = st.lists(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(0, 1)), min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)


@given(EPISODES)
def test_discounted_sums_are_those_of_a_plain_loop(episodes: list[list[tuple[float, float]]]):
    expected, x, carry = [], [], []
    for episode in episodes:
        ahead, sums = 0.0, []
        for number, factor in reversed(episode):
            ahead = number + (factor * ahead if sums else 0.0)
            sums.append(ahead)
        expected += reversed(sums)
        x += [number for number, _ in episode]
        carry += [factor for _, factor in episode[:-1]] + [0.0]
    found = losses.discounted_sums(
        torch.tensor(x, dtype=torch.float64), torch.tensor(carry, dtype=torch.float64)
    )
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 1000])
def test_discounted_sums_of_one_long_episode_are_geometric(length: int):
    carry = torch.full((length,), 0.99, dtype=torch.float64)
    carry[-1] = 0
    found = losses.discounted_sums(torch.ones(length, dtype=torch.float64), carry)
    left = torch.arange(length, 0, -1, dtype=torch.float64)
    assert torch.allclose(found, (1 - 0.99**left) / 0.01, atol=1e-9)


def test_discounted_sums_change_neither_argument():
    x, carry = torch.ones(5), torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0])
    losses.discounted_sums(x, carry)
    assert x.tolist() == [1.0] * 5
    assert carry.tolist() == [0.5] * 4 + [0.0]


def test_a_weight_is_the_exponential_of_the_advantage_over_the_temperature():
    advantage = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    assert close(losses.awr_weight(advantage, 0.5, 1e9), [math.exp(2), 1.0, math.exp(-2)])
    assert close(losses.awr_weight(advantage, 0.5, 5.0), [5.0, 1.0, math.exp(-2)])
    assert close(losses.awr_weight(advantage, math.inf, 5.0), [1.0, 1.0, 1.0])


def test_a_huge_advantage_is_capped_before_its_exponential_overflows():
    weight = losses.awr_weight(torch.tensor([1e30, -1e30]), 1e-3, 20.0)
    assert torch.allclose(weight, torch.tensor([20.0, 0.0]))


@given(st.floats(1.001, 1e4), st.integers(1, 70))
def test_every_capped_row_counts_as_capped_whatever_the_cap_rounds_to(cap: float, n: int):
    advantage = torch.cat([torch.full((n,), 1e3), torch.full((n,), -1.0)])
    assert float(losses.capped_share(advantage, 1.0, cap)) == 0.5


def test_the_effective_share_is_one_for_equal_weights_and_one_nth_for_a_single_one():
    assert float(losses.effective_share(torch.full((4,), 3.0))) == 1.0
    assert float(losses.effective_share(torch.tensor([4.0, 0, 0, 0]))) == 0.25
    assert math.isclose(
        float(losses.effective_share(torch.tensor([1.0, 2.0, 3.0]))), 18 / 7 / 3, rel_tol=1e-6
    )


def test_the_effective_share_of_vanishing_weights_is_a_number():
    assert float(losses.effective_share(torch.tensor([1e-30, 1e-30]))) == 1.0
    assert float(losses.effective_share(torch.zeros(3))) == 0.0


def test_standardised_numbers_have_mean_zero_and_spread_one():
    x = losses.standardise(torch.tensor([5.0, 7.0, 12.0], dtype=torch.float64))
    assert abs(float(x.mean())) < 1e-12
    assert math.isclose(float(x.std(correction=0)), 1.0, abs_tol=1e-5)
    assert losses.standardise(torch.full((3,), 2.0)).tolist() == [0.0, 0.0, 0.0]


def test_explained_variance_is_one_for_a_perfect_and_zero_for_a_constant_prediction():
    target = torch.tensor([1.0, 2.0, 6.0])
    assert float(losses.explained_variance(target, target)) == 1.0
    assert float(losses.explained_variance(target, torch.full((3,), 3.0))) == pytest.approx(0.0)
    assert float(losses.explained_variance(torch.ones(3), torch.ones(3))) == 1.0

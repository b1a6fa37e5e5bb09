"""A table keeps each row beside its own next observation; a batch is rows of it."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from offrl.batch import Table
from offrl.testing import toy_dataset


@given(st.integers(1, 6), st.integers(1, 5), st.booleans())
def test_a_table_holds_the_transitions_row_by_row(episodes: int, length: int, discrete: bool):
    data = toy_dataset(discrete=discrete, episodes=episodes, length=length)
    logged, table = data.transitions, Table.of(data.transitions, dtype=torch.float64)
    batch = table.gather(torch.arange(len(table)), {}, {})
    assert np.array_equal(batch.obs.numpy(), logged.obs)
    assert np.array_equal(batch.next_obs.numpy(), logged.next_obs)
    assert np.array_equal(batch.action.numpy(), logged.action)
    assert np.array_equal(batch.reward.numpy(), logged.reward)
    assert np.array_equal(batch.terminated.numpy(), logged.terminated)
    assert np.array_equal(table.last.numpy(), logged.terminated | logged.truncated)
    np.testing.assert_allclose(table.returns.numpy(), logged.returns)
    assert bool(batch.behavior_log_prob.isnan().all())


def test_equal_returns_are_equal_to_the_bit_wherever_they_lie():
    data = toy_dataset(discrete=True, episodes=40)
    table = Table.of(data.transitions)
    rewards = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2]).repeat(40)
    object.__setattr__(table, "reward", rewards)
    assert len(set(table.returns.tolist())) == 1  # so that %BC breaks ties by order, not by noise


def test_truncated_rows_are_not_terminated_rows():
    table = Table.of(toy_dataset(discrete=True).transitions)
    assert float(table.terminated.sum()) == 20
    assert int(table.last.sum()) == 40


def test_types_are_those_asked_for_and_actions_stay_whole_numbers():
    table = Table.of(toy_dataset(discrete=True).transitions)
    assert table.observations.dtype == table.reward.dtype == table.terminated.dtype == torch.float32
    assert table.action.dtype == torch.int64


@given(st.data())
def test_a_table_of_some_episodes_is_the_table_of_those_alone(draw: st.DataObject):
    n = draw.draw(st.integers(2, 6))
    chosen = sorted(draw.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    logged = toy_dataset(discrete=False, episodes=n, length=3).transitions
    some, alone = (
        Table.of(logged, episodes=np.array(chosen)),
        Table.of(logged.take_episodes(chosen)),
    )
    for one, two in zip(
        some.gather(torch.arange(len(some)), {}, {})[:5],
        alone.gather(torch.arange(len(alone)), {}, {})[:5],
        strict=True,
    ):
        assert torch.equal(one, two)
    assert torch.equal(some.starts, alone.starts)
    assert torch.equal(some.returns, alone.returns)
    assert torch.equal(torch.cat([*some.observed()]), alone.observations.double())

"""Rollouts as tables: whose observation follows whose, and advantages cut where they must be."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offrl import losses
from offrl.batch import Table
from offrl.data.spec import Spec
from offrl.online.rollouts import Rollouts, Running, joined, table_of

SPEC = Spec(gym.spaces.Box(-np.inf, np.inf, (1,), np.float32), gym.spaces.Discrete(2))
DISCOUNT, LAMBDA = 0.9, 0.8

# Two worlds, four steps each: world 0 terminates at step 1, world 1 is cut off at step 2.
TERMINATED = [[0, 0], [1, 0], [0, 0], [0, 0]]
TRUNCATED = [[0, 0], [0, 0], [0, 1], [0, 0]]


def lived(terminated: Any = TERMINATED, truncated: Any = TRUNCATED) -> dict[str, Tensor]:
    """Columns [T, K] whose observations are 100 worlds + 10 episodes + steps; rewards differ."""
    ends = np.array(terminated, bool) | np.array(truncated, bool)
    steps, worlds = ends.shape
    obs, next_obs = np.zeros((steps, worlds, 1)), np.zeros((steps, worlds, 1))
    for k in range(worlds):
        episode = step = 0
        for t in range(steps):
            obs[t, k] = 100 * k + 10 * episode + step
            next_obs[t, k] = obs[t, k] + 1
            episode, step = (episode + 1, 0) if ends[t, k] else (episode, step + 1)
    number = torch.arange(steps * worlds, dtype=torch.float32).view(steps, worlds)
    return {
        "obs": torch.as_tensor(obs, dtype=torch.float32),
        "action": number.long() % 2,
        "reward": torch.sin(number).double(),
        "next_obs": torch.as_tensor(next_obs, dtype=torch.float32),
        "terminated": torch.as_tensor(np.array(terminated, bool)),
        "truncated": torch.as_tensor(np.array(truncated, bool)),
        "behavior_log_prob": -number,
    }


def value(obs: Tensor) -> Tensor:
    """Some V that differs everywhere."""
    return torch.cos(obs.double().squeeze(-1))


def advantages(table: Table) -> Tensor:
    v = value(table.observations)
    return losses.advantage_lambda(
        table.reward.double(), v[table.obs_row], v[table.obs_row + 1],
        table.terminated.double(), table.last, DISCOUNT, LAMBDA,
    )  # fmt: skip


def by_hand(columns: dict[str, Tensor], wrong: str = "") -> Tensor:
    """The same, world by world and backwards in time; `wrong` names what is got wrong."""
    steps, worlds = columns["reward"].shape
    found = torch.zeros(steps, worlds, dtype=torch.float64)
    for k in range(worlds):
        following = torch.tensor(0.0)
        for t in reversed(range(steps)):
            ended = bool(columns["terminated"][t, k])
            cut = bool(columns["truncated"][t, k])
            seen = columns["next_obs"][t, k]
            if wrong == "observation of the next episode" and (ended or cut) and t + 1 < steps:
                seen = columns["obs"][t + 1, k]
            future = value(seen[None])[0]
            if ended or (cut and wrong == "a time limit is an end"):
                future = torch.tensor(0.0)
            if t == steps - 1 and wrong == "the end of the rollout is an end":
                future = torch.tensor(0.0)
            if ended and wrong == "an end bootstraps":
                future = value(seen[None])[0]
            if cut and wrong == "advantages leak over a time limit":
                pass
            elif (ended or cut) and wrong != "advantages leak into the episode before":
                following = torch.tensor(0.0)
            here = value(columns["obs"][t, k][None])[0]
            delta = columns["reward"][t, k] + DISCOUNT * future - here
            following = delta + DISCOUNT * LAMBDA * following
            found[t, k] = following
    return found.T.flatten()


def test_every_observation_is_followed_by_its_own():
    table = table_of(lived(), SPEC)
    here, there = table.observations[table.obs_row], table.observations[table.obs_row + 1]
    assert here[:, 0].tolist() == [0, 1, 10, 11, 100, 101, 102, 110]
    assert there[:, 0].tolist() == [1, 2, 11, 12, 101, 102, 103, 111]
    assert table.starts.tolist() == [0, 2, 4, 7, 8]
    assert table.terminated.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert table.behavior_log_prob.tolist() == [0, -2, -4, -6, -1, -3, -5, -7]


def test_advantages_are_those_of_each_world_by_itself():
    assert torch.allclose(advantages(table_of(lived(), SPEC)), by_hand(lived()), atol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        "observation of the next episode", "a time limit is an end", "an end bootstraps",
        "the end of the rollout is an end", "advantages leak over a time limit",
        "advantages leak into the episode before",
    ],
)  # fmt: skip
def test_the_numbers_tell_a_wrong_advantage(wrong: str):
    found, other = advantages(table_of(lived(), SPEC)), by_hand(lived(), wrong)
    assert float((found - other).abs().max()) > 0.05


@given(
    st.integers(1, 6).flatmap(
        lambda k: st.lists(st.lists(st.integers(0, 3), min_size=k, max_size=k), min_size=1)
    )
)
@settings(max_examples=60, deadline=None)
def test_whatever_ends_where_advantages_are_those_of_each_world(ends: list[list[int]]):
    array = np.array(ends)
    columns = lived(array & 1, array >> 1)
    table = table_of(columns, SPEC)
    assert torch.allclose(advantages(table), by_hand(columns), atol=1e-10)
    assert len(table.observations) == len(table) + len(table.starts) - 1


def rollouts(capacity: int, n: int = 3) -> Rollouts:
    made = Rollouts(SPEC, capacity)
    for number in range(n):
        columns = lived()
        for t in range(4):
            rows = {name: column[t] for name, column in columns.items()}
            made.add({**rows, "obs": rows["obs"] + number, "next_obs": rows["next_obs"] + number})
        made.close()
    return made


def test_tables_are_joined_row_by_row():
    tables = rollouts(99).tables
    table = joined(tables)
    index = torch.arange(len(table))
    parts = [t.gather(torch.arange(len(t)), {}, {}) for t in tables]
    for name in ("obs", "action", "reward", "next_obs", "terminated", "behavior_log_prob"):
        whole = getattr(table.gather(index, {}, {}), name)
        assert torch.equal(whole, torch.cat([getattr(part, name) for part in parts])), name
    assert torch.equal(advantages(table), torch.cat([advantages(t) for t in tables]))


@pytest.mark.parametrize(("capacity", "kept"), [(0, 1), (1, 1), (8, 1), (15, 1), (16, 2), (99, 3)])
def test_the_newest_rollouts_are_kept(capacity: int, kept: int):
    found = rollouts(capacity).table()
    assert len(found) == 8 * kept
    assert float(found.observations[-1]) == 111 + 2  # the newest is the last


def test_nothing_is_open_until_something_is_lived():
    made = rollouts(0)
    assert made.close() is None
    assert len(made.table()) == 8


def test_what_is_kept_comes_back_from_its_tensors():
    made = rollouts(20)
    tensors = {f"{number}/{name}": tensor for number, columns in made.tensors().items()
               for name, tensor in columns.items()}  # fmt: skip
    back = Rollouts(SPEC, 20)
    back.restore(tensors)
    for one, two in zip(made.tables, back.tables, strict=True):
        assert torch.equal(one.observations, two.observations)
        assert torch.equal(one.starts, two.starts)
    assert rollouts(0).tensors() == {}  # it was learned from, and is not looked at again


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_running_statistics_are_those_of_everything_so_far(sizes: list[int]):
    rng = np.random.default_rng(len(sizes))
    parts = [rng.normal([1e3, -5], [2, 0.1], (n, 2)) for n in sizes]
    running = Running(2)
    for part in parts:
        running.add(torch.as_tensor(part))
    found, rows = running.buffers(), np.concatenate(parts)
    assert np.allclose(found["obs_mean"], rows.mean(0), rtol=1e-12)
    spread = rows.std(0)
    assert np.allclose(found["obs_std"], np.where(spread > 1e-6, spread, 1), rtol=1e-6)

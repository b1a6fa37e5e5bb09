"""BC: which rows %BC keeps, and what each head minimises."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.algorithm import configure
from offrl.algos import get
from offrl.batch import Table
from offrl.data.dataset import Dataset
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.testing import Trial, toy_dataset

BC: Any = get("bc")

# Five episodes: lengths 1, 2, 3, 4, 10; undiscounted returns 5, 1, 9, 9, -20.
LENGTHS = [1, 2, 3, 4, 10]
REWARDS = [[5], [0, 1], [10, -10, 9], [0, 0, 0, 9], [-2] * 10]


def table():
    n = sum(LENGTHS)
    ends = np.isin(np.arange(n), np.cumsum(LENGTHS) - 1)
    data = Dataset.from_arrays(
        np.zeros((n + 5, 1), np.float32),
        np.zeros(n, np.int64),
        np.concatenate(REWARDS),
        ends,
        np.zeros(n, bool),
        action_space=gym.spaces.Discrete(2),
    )
    return Table.of(data.transitions)


def kept(**settings: Any):
    """The numbers of the episodes that are imitated, each whole."""
    where = table()
    rows = BC(configure(BC.Config, settings), where.spec).rows(where)
    episodes = np.repeat(np.arange(5), LENGTHS)[rows.numpy()]
    assert sorted(rows.tolist()) == [r for r in range(20) if r in set(rows.tolist())]
    assert all((episodes == e).sum() == LENGTHS[e] for e in set(episodes.tolist()))
    return sorted(set(episodes.tolist()))


def test_everything_is_imitated_unless_told_otherwise():
    where = table()
    assert BC(configure(BC.Config, {}), where.spec).rows(where) is None


@pytest.mark.parametrize(
    ("keep", "episodes"),
    [(0.01, [2]), (0.2, [2]), (0.4, [2, 3]), (0.6, [0, 2, 3]), (0.8, [0, 1, 2, 3])],
)
def test_a_share_of_trajectories_keeps_the_best_returns_and_ties_in_order(
    keep: float, episodes: list[int]
):
    assert kept(keep=keep, keep_unit="trajectories") == episodes


@pytest.mark.parametrize(
    ("keep", "episodes"),
    [
        (0.01, [2]),
        (0.15, [2]),
        (0.16, [2, 3]),
        (0.35, [2, 3]),
        (0.36, [0, 2, 3]),
        (0.4, [0, 2, 3]),
        (0.41, [0, 1, 2, 3]),
        (0.5, [0, 1, 2, 3]),
        (0.51, [0, 1, 2, 3, 4]),
    ],
)
def test_a_share_of_timesteps_keeps_whole_trajectories_until_it_is_reached(
    keep: float, episodes: list[int]
):
    assert kept(keep=keep, keep_unit="timesteps") == episodes


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, math.nan])
def test_a_share_outside_zero_to_one_is_refused(keep: float):
    with pytest.raises(ConfigError, match="'keep' must be a share above 0 and up to 1"):
        configure(BC.Config, {"keep": keep})


def loss_of(trial: Any):
    modules, sampler, now = trial.begin()
    batch = trial.batch(modules, sampler, now)
    network = modules["policy"]
    network.load_state_dict(now.state["params"]["policy"] | now.state["buffers"]["policy"])
    with torch.no_grad():
        loss, metrics = trial.algorithm.policy_loss(Learner(modules, now.state).nets, batch)
        return float(loss), metrics, network(batch.obs), batch


def test_a_gaussian_head_minimises_the_negative_log_density_of_the_logged_actions():
    loss, metrics, pi, batch = loss_of(Trial(BC, discrete=False))
    density = torch.distributions.Normal(pi.mean, pi.std).log_prob(batch.action).sum(-1)
    assert loss == pytest.approx(-float(density.mean()), abs=1e-12)
    assert float(metrics["policy/log_prob"]) == pytest.approx(-loss)


def test_a_categorical_head_minimises_cross_entropy():
    loss, metrics, pi, batch = loss_of(Trial(BC, discrete=True))
    expected = torch.nn.functional.nll_loss(pi.log_probs, batch.action)
    assert loss == pytest.approx(float(expected), abs=1e-12)
    assert float(metrics["policy/entropy"]) <= math.log(3) + 1e-9


def test_a_deterministic_head_minimises_the_squared_error_in_half_ranges():
    loss, _, pi, batch = loss_of(Trial(BC, discrete=False, settings={"head": "deterministic"}))
    assert loss == pytest.approx(float((pi.action - batch.action).square().mean()), abs=1e-12)
    wide = pi._replace(low=torch.tensor([-2.0]), high=torch.tensor([2.0]))
    scaled = ((wide.action - batch.action) / 2).square().mean()
    assert float(scaled) == pytest.approx(loss / 4)


@pytest.mark.parametrize(
    ("settings", "discrete"),
    [({"head": "gaussian"}, False), ({"head": "deterministic"}, False), ({}, True)],
)
def test_each_head_learns_the_usual_action(settings: dict[str, Any], discrete: bool):
    data = toy_dataset(discrete=discrete, episodes=400)
    trial = Trial(BC, discrete=discrete, settings=settings, data=data)
    now = trial.run(n=300)
    network = trial.algorithm.networks()["policy"].double()
    network.load_state_dict(now.state["params"]["policy"] | now.state["buffers"]["policy"])
    mode = network(trial.table.observations).mode().detach()
    if discrete:
        assert float((mode == 2).double().mean()) > 0.95  # taken three quarters of the time
    else:
        assert float(mode.mean()) == pytest.approx(0.25, abs=0.1)  # the mean of .5 and -.5


def test_percent_bc_imitates_the_best_episodes_only():
    trial = Trial(BC, discrete=True, settings={"keep": 0.2})
    _, sampler, _ = trial.begin()
    rows = set(torch.cat([sampler.index(step) for step in range(50)]).tolist())
    best = trial.table.returns.argsort(descending=True, stable=True)[:8]
    allowed = {
        row
        for e in best
        for row in range(int(trial.table.starts[e]), int(trial.table.starts[e + 1]))
    }
    assert rows == allowed

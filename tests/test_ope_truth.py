"""The policies that estimates are held against, and the table of how well they do."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from benchmarks.ope_policies import Blind, Controller, Mixture
from benchmarks.ope_truth import FIELDS, correlation, table
from offrl.collect.controllers import cartpole_balance, pendulum_swing_up
from offrl.data.dataset import Dataset
from offrl.data.spec import Spec
from offrl.distributions import Categorical


def observations(n: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def acting_in(space: spaces.Space[Any]) -> Spec:
    """The spec of a step in it."""
    action = np.zeros(1, np.int64) if isinstance(space, spaces.Discrete) else np.zeros((1, 1))
    end, obs = np.ones(1, bool), np.zeros((2, 3), np.float32)
    return Dataset.from_arrays(obs, action, np.ones(1), end, ~end, action_space=space).spec


PUSHES, TORQUES = spaces.Discrete(2), spaces.Box(-2, 2, (1,), np.float32)


def test_controllers_of_a_batch_are_those_of_one_observation():
    spec = acting_in(PUSHES)
    obs = observations(200, 4)
    pi = Controller(spec)(torch.as_tensor(obs))
    assert isinstance(pi, Categorical)
    assert pi.mode().tolist() == [cartpole_balance(row) for row in obs]
    angle = np.random.default_rng(1).uniform(-np.pi, np.pi, 200)
    turn = np.random.default_rng(2).uniform(-8, 8, 200)
    swing = np.stack([np.cos(angle), np.sin(angle), turn], 1).astype(np.float32)
    mean = Controller(acting_in(TORQUES))(torch.as_tensor(swing)).mode()
    expected = np.stack([pendulum_swing_up(row) for row in swing])
    assert mean.numpy() == pytest.approx(expected, abs=1e-4)


def test_a_mixture_of_densities_is_one_and_its_samples_have_it():
    spec = acting_in(TORQUES)
    low, high = float(spec.action_low[0]), float(spec.action_high[0])
    obs = torch.as_tensor([[0.9, 0.1, 0.4]])
    pi = Mixture(Controller(spec), Blind(spec), 0.3)(obs)
    grid = torch.linspace(low, high, 20_001, dtype=torch.float64)[:, None]
    density = pi.log_prob(grid).exp().numpy()
    assert np.trapezoid(density, grid[:, 0]) == pytest.approx(1, abs=1e-3)
    noise = torch.as_tensor(np.random.default_rng(0).normal(size=(20_000, 1, 1)))
    drawn = pi.sample(noise).numpy().reshape(-1)
    mean = np.trapezoid(density * grid[:, 0].numpy(), grid[:, 0])
    assert drawn.mean() == pytest.approx(mean, abs=0.04)
    assert (drawn >= low).all()
    assert (drawn <= high).all()


def test_the_table_counts_ranks_regret_and_intervals_that_hold_the_truth():
    rows = []
    for k, (truth, value) in enumerate([(1.0, 1.1), (2.0, 2.4), (3.0, 2.0)]):
        row = dict.fromkeys(FIELDS, "")
        row |= {"dataset": "d", "policy": str(k), "estimator": "wis", "truth": str(truth)}
        row |= {"value": str(value), "lo": str(value - 0.5), "hi": str(value + 0.5), "ess": "9"}
        rows.append(row)
    assert table(rows, 5.0)[2] == "| d | wis | 3 | 0.50 | 1 (50%) | -0.167 | 2 of 3 |"
    assert table(rows, 50.0)[2].startswith("| d | wis | 0 |")
    assert correlation(np.arange(3.0), np.ones(3)) != correlation(np.arange(3.0), np.ones(3))

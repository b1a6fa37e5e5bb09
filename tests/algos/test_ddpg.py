"""DDPG's target by hand, its settings, and what it does where it may work: a dense log."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from offrl.algorithm import configure
from offrl.algos import get
from offrl.batch import Batch
from offrl.data.dataset import Dataset
from offrl.distributions import Deterministic
from offrl.testing import Trial, toy_dataset

DDPG: Any = get("ddpg")
ONE = torch.ones(1, dtype=torch.float64)


class Nets:
    """Target critics that say twice the action, of a target policy that says 0.5."""

    def __init__(self, factors: tuple[float, ...] = (2.0,)):
        self.factors = torch.tensor(factors, dtype=torch.float64)[:, None]

    def target_policy(self, obs: Tensor):
        return Deterministic(0.5 * torch.ones(len(obs), 1).double(), -ONE, ONE)

    def target_critic(self, obs: Tensor, action: Tensor, members: None = None):
        return self.factors * action.squeeze(-1)

    def critic(self, obs: Tensor, action: Tensor):
        return torch.zeros(len(self.factors), len(obs), dtype=torch.float64)


def loss(nets: Nets, terminated: float = 0.0):
    algorithm = DDPG(configure(DDPG.Config, {"discount": 0.9}), toy_dataset(discrete=False).spec)
    obs, ones = torch.zeros(4, 1).double(), torch.ones(4).double()
    batch = Batch(obs, obs, ones, obs, terminated * ones, ones, {}, {})
    return float(algorithm.critic_loss(nets, batch)[0])


def test_the_target_is_the_reward_and_the_discounted_value_of_the_target_policys_action():
    assert loss(Nets()) == pytest.approx(1.9**2)
    assert loss(Nets(), terminated=1.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(1 + 0.9 * 0.0, id="the logged action for the policy's"),
        pytest.param(2.0, id="no discount"),
        pytest.param(0.9, id="no reward"),
    ],
)
def test_the_number_tells_a_wrong_target(wrong: float):
    assert loss(Nets()) != pytest.approx(wrong**2)


def test_of_several_critics_the_least_is_believed():
    assert loss(Nets((2.0, -2.0))) == pytest.approx(2 * 0.1**2)


def test_it_has_one_critic_and_moves_everything_in_every_step():
    trial = Trial(DDPG, discrete=False)
    _, _, begin = trial.begin()
    assert begin.state["params"]["critic"]["net.head.weight"].shape[0] == 1
    after = trial.run(n=1).state["params"]
    for network in ("policy", "critic", "target_policy", "target_critic"):
        before = begin.state["params"][network]
        assert any(not torch.equal(before[k], v) for k, v in after[network].items()), network


def test_where_the_log_holds_every_action_it_finds_the_best():
    rng = np.random.default_rng(0)
    action = rng.uniform(-2, 2, (4000, 1)).astype(np.float32)
    data = Dataset.from_arrays(
        np.zeros((4000, 1), np.float32),
        action,
        -np.square(action[:, 0] - 0.7).astype(np.float64),
        np.ones(4000, bool),
        np.zeros(4000, bool),
        next_obs=np.zeros((4000, 1), np.float32),
        action_space=gym.spaces.Box(-2, 2, (1,), np.float32),
    )
    trial = Trial(DDPG, discrete=False, data=data)
    modules, _, _ = trial.begin()
    state = trial.run(n=600).state
    weights = state["params"]["policy"] | state["buffers"]["policy"]
    found = torch.func.functional_call(modules["policy"], weights, torch.zeros(1, 1).double())
    assert float(found.action.detach()) == pytest.approx(0.7, abs=0.1)

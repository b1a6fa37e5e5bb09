"""DQN's targets by hand, its fixed point on an exact log, and when its target moves."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from offrl.algorithm import configure, start
from offrl.algos import get
from offrl.batch import Batch, Table
from offrl.data.dataset import Dataset
from offrl.distributions import Greedy
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.testing import Trial, toy_dataset

DQN: Any = get("dqn")

# Two states, two actions, discount .9: P(s'|s,a) in tenths, rewards, and the fixed point of max.
TENTHS = {(0, 0): (9, 1), (0, 1): (2, 8), (1, 0): (5, 5), (1, 1): (1, 9)}
REWARDS = {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 2.0, (1, 1): -1.0}
Q_STAR = [[14.1732283465, 15.6692913386], [16.4566929134, 13.7401574803]]
Q_OF_MU = [[4.5, 5.5], [6.5, 3.5]]


class Nets:
    """The network says 1, 3, 2 of the next observation, its target 5, 4, 9; of this one, 0."""

    def policy(self, obs: Tensor):
        online = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
        return Greedy(online.expand(len(obs), 3) * obs)

    def target_policy(self, obs: Tensor):
        return Greedy(torch.tensor([5.0, 4.0, 9.0], dtype=torch.float64).expand(len(obs), 3) * obs)


def loss(*, double: bool, terminated: float = 0.0, reward: float = 0.0):
    changes = {"double": double, "discount": 0.9}
    algorithm = DQN(configure(DQN.Config, changes), toy_dataset(discrete=True).spec)
    rows, ones = torch.ones(2, 1).double(), torch.ones(2).double()
    action = torch.tensor([0, 2])
    batch = Batch(
        0 * rows, action, reward * ones, rows, terminated * ones, ones, {}, {}
    )  # fmt: skip
    return float(algorithm.value_loss(Nets(), batch)[0]) ** 0.5


def test_the_double_target_is_what_the_target_says_of_the_networks_choice():
    assert loss(double=True) == pytest.approx(3.6)


def test_the_plain_target_is_the_largest_that_the_target_says():
    assert loss(double=False) == pytest.approx(8.1)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(8.1, id="plain"),
        pytest.param(2.7, id="the network scores its own choice"),
        pytest.param(1.8, id="the target chooses, the network scores"),
    ],
)
def test_the_numbers_tell_a_wrong_double_target(wrong: float):
    assert loss(double=True) != pytest.approx(wrong)


def test_nothing_follows_a_terminated_row():
    assert loss(double=True, terminated=1.0, reward=2.0) == pytest.approx(2.0)


def exact_log():
    """Every transition of the two states, each as often as its probability in tenths."""
    rows = [
        (s, a, then)
        for (s, a), tenths in TENTHS.items()
        for then, n in enumerate(tenths)
        for _ in range(n)
    ]
    state, action, then = np.array(rows).T
    return Dataset.from_arrays(
        np.eye(2, dtype=np.float32)[state],
        action,
        np.array([REWARDS[s, a] for s, a, _ in rows]),
        np.zeros(len(rows), bool),
        np.ones(len(rows), bool),
        next_obs=np.eye(2, dtype=np.float32)[then],
        action_space=gym.spaces.Discrete(2),
    )


def fixed_point(**changes: Any):
    """Q of both states after steps on the whole log at once, from a table that is a network."""
    data = exact_log()
    table_like = {"hidden_layers": 0, "normalize_obs": False, "discount": 0.9, "lr": 0.02}
    algorithm = DQN(configure(DQN.Config, table_like | changes), data.spec)
    table = Table.of(data.transitions, dtype=torch.float64)
    modules, state = start(algorithm, table, 0)
    learner = Learner(modules, state)
    batch = table.gather(torch.arange(len(table)), {}, {})
    for step in range(3000):
        learner, _ = algorithm.update(learner, batch, algorithm.stage(step))
    return learner.nets.policy(torch.eye(2).double()).value


@pytest.mark.parametrize(
    "changes",
    [
        {"target_rate": 0.05},
        {"target_rate": 0.05, "double": False},
        {"target_rate": 1.0, "target_period": 25},
    ],
)
def test_on_the_exact_log_it_reaches_q_star(changes: dict[str, Any]):
    found = fixed_point(**changes)
    assert torch.allclose(found, torch.tensor(Q_STAR).double(), atol=1e-4, rtol=0)
    assert not torch.allclose(found, torch.tensor(Q_OF_MU).double(), atol=1.0)


def test_a_hard_target_is_a_copy_after_every_fourth_step_and_stays_between():
    trial = Trial(DQN, discrete=True, settings={"target_rate": 1.0, "target_period": 4})
    modules, sampler, now = trial.begin()
    learner = Learner(modules, now.state)
    for step in range(9):
        before = learner.state["params"]["target_policy"]
        learner, _ = trial.algorithm.update(learner, sampler[step], trial.algorithm.stage(step))
        params = learner.state["params"]
        expected = params["policy"] if step in (3, 7) else before
        for key, value in params["target_policy"].items():
            assert torch.equal(value, expected[key]), (step, key)
            assert value is not params["policy"][key]


def test_metrics_tell_how_often_the_policy_departs_from_the_log():
    trial: Any = Trial(DQN, discrete=True)
    modules, sampler, now = trial.begin()
    nets, batch = Learner(modules, now.state).nets, sampler[0]
    metrics = trial.algorithm.value_loss(nets, batch)[1]
    value = nets.policy(batch.obs).value
    differs = (value.argmax(-1) != batch.action).double().mean()
    assert float(metrics["policy/action_differs"]) == pytest.approx(float(differs))
    assert float(metrics["policy/q_mean"]) == pytest.approx(float(value.amax(-1).mean()))
    of_logged = value[torch.arange(len(value)), batch.action]
    assert float(metrics["critic/q_abs_max"]) == pytest.approx(float(of_logged.abs().max()))


@pytest.mark.parametrize(("name", "value"), [("target_rate", 0.0), ("target_period", 0)])
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, value: float):
    with pytest.raises(ConfigError, match=f"'{name}' must be"):
        configure(DQN.Config, {name: value})

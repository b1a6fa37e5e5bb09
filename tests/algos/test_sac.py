"""SAC's temperature, units and targets against closed forms, and its fixed point on a whole log."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact_log import Settled, exact_log
from torch import Tensor

from offrl import losses, tabular
from offrl.algorithm import configure
from offrl.algos import get
from offrl.batch import Batch
from offrl.data.dataset import Dataset
from offrl.distributions import Categorical, Squashed
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.tabular import MDP
from offrl.testing import Trial, toy_dataset

SAC: Any = get("sac")


def numbers(*values: float):
    return torch.tensor(values, dtype=torch.float64)


LOG_PROB = numbers(1.0, 2.0)  # 1.5 on average


def slope(loss: Any, log_temperature: float = 0.7) -> float:
    """The derivative of a loss of the log temperature."""
    at = torch.tensor(log_temperature, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(loss(at), at)[0])


def test_the_temperature_rises_where_entropy_lacks():
    found = slope(lambda at: losses.temperature_loss(at, LOG_PROB, -1.0))
    assert found == pytest.approx(-0.5, abs=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda at: at * (LOG_PROB - 1).mean(), id="sign"),
        pytest.param(lambda at: -at.exp() * (LOG_PROB - 1).mean(), id="not on the log"),
        pytest.param(lambda at: losses.temperature_loss(at, LOG_PROB, 1.0), id="sign of the aim"),
        pytest.param(lambda at: losses.temperature_loss(at, LOG_PROB, 0.0), id="no aim"),
    ],
)
def test_the_number_tells_a_wrong_temperature_loss(wrong: Any):
    assert slope(wrong) != pytest.approx(-0.5, abs=1e-3)


@pytest.mark.parametrize("network", ["policy", "log_temperature"])
@pytest.mark.parametrize("discrete", [False, True])
def test_each_of_two_losses_in_one_step_moves_its_own_network(network: str, discrete: bool):
    trial: Any = Trial(SAC, discrete=discrete)
    modules, sampler, now = trial.begin()
    learner, batch = Learner(modules, now.state), sampler[0]
    both, _ = learner.descend(("policy", "log_temperature"), trial.algorithm.policy_loss, batch)

    def alone(nets: Any, batch: Batch):
        loss, metrics = trial.algorithm.policy_loss(nets, batch)
        other = metrics["temperature/loss" if network == "policy" else "policy/loss"]
        return loss - other.detach() if network == "policy" else loss - other, metrics

    one, _ = learner.descend(network, alone, batch)
    for key, value in one.state["params"][network].items():
        assert torch.allclose(value, both.state["params"][network][key], atol=1e-12), key


def algorithm(discrete: bool = False, **changes: Any):
    return SAC(configure(SAC.Config, changes), toy_dataset(discrete=discrete).spec)


def squashed(half: float):
    """Mean 0.3 and deviation 0.7 before the tanh, one row; the draw of NOISE is at 0.5."""
    one = numbers(1.0)
    return Squashed(0.3 * one[None], math.log(0.7) * one[None], -half * one, half * one)


NOISE = numbers((0.5 - 0.3) / 0.7)[None]


@pytest.mark.parametrize("half", [1.0, 2.0])
def test_entropy_is_that_of_an_action_over_minus_one_to_one_whatever_its_bounds(half: float):
    log_prob, q = algorithm().expected(
        squashed(half),
        lambda obs, action: torch.stack([action[:, 0], action[:, 0] + 1]).amin(0),
        NOISE,
        NOISE,
    )
    assert float(log_prob) == pytest.approx(-0.3628509019, abs=1e-9)
    assert float(q) == pytest.approx(half * 0.4621171573, abs=1e-9)


def test_the_number_tells_a_density_in_the_units_of_the_environment():
    _, log_prob = squashed(2.0).scored_sample(NOISE)
    assert float(log_prob) == pytest.approx(-1.0559980824, abs=1e-9)


SHARES = numbers(0.2, 0.5, 0.3)
VALUES = torch.stack([numbers(1.0, 4.0, 2.0), numbers(3.0, 2.0, 5.0)])  # of two critics


def test_discrete_actions_are_summed_over():
    pi = Categorical(SHARES.log()[None])
    log_prob, q = algorithm(discrete=True).expected(
        pi, lambda obs: VALUES[:, None].amin(0), NOISE, None
    )
    assert float(log_prob) == pytest.approx(-1.0296530140645737, abs=1e-12)
    assert float(q) == pytest.approx(0.2 * 1 + 0.5 * 2 + 0.3 * 2, abs=1e-12)  # least, then mean
    wrong = (VALUES @ SHARES).amin()
    assert float(q) != pytest.approx(float(wrong), abs=1e-3)


class Nets:
    """Temperature 2; target critics that say 3 and 4 of everything; critics that say 0."""

    def policy(self, obs: Tensor):
        return squashed(2.0)

    def target_critic(self, obs: Tensor, action: Tensor, members: None = None):
        return numbers(3.0, 4.0)[:, None].expand(-1, len(obs))

    def critic(self, obs: Tensor, action: Tensor):
        return torch.zeros(2, len(obs), dtype=torch.float64)

    def log_temperature(self):
        return torch.tensor(2.0, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("terminated", "target"), [(0.0, 1 + 0.99 * (3 + 2 * 0.3628509019)), (1.0, 1.0)]
)
def test_the_target_holds_the_entropy_of_the_next_action_and_none_after_a_terminal(
    terminated: float, target: float
):
    row, one = torch.zeros(1, 1).double(), numbers(1.0)
    batch = Batch(row, row, one, row, terminated * one, one, {}, {"next": NOISE})
    _, metrics = algorithm().critic_loss(Nets(), batch)
    assert float(metrics["critic/td_error"]) == pytest.approx(target, abs=1e-9)
    for wrong in (1 + 0.99 * 3, 1 + 0.99 * (3 - 2 * 0.3628509019), 1 + 2 * 0.3628509019):
        assert float(metrics["critic/td_error"]) != pytest.approx(wrong, abs=1e-2)


COOLING = [(400, 0.02), (600, 5e-3), (300, 1e-3)]
SOFT = MDP(
    transition=np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.1, 0.9]]]),
    reward=np.array([[0.0, 1.0], [2.0, -1.0]]),
    discount=0.5,
    start=np.array([1.0, 0.0]),
)


def test_on_a_whole_log_it_reaches_soft_optimal_values_and_the_entropy_aimed_at():
    log = exact_log(SOFT, np.full((2, 2), 0.5), parts=20)
    settings: Any = {"discount": 0.5, "target_rate": 0.5, "entropy_share": 0.7, "critics": 1}
    found = Settled("sac", log, COOLING, **settings)
    temperature = float(found.nets.log_temperature().exp())
    q = v = np.zeros((2, 2))
    for _ in range(80):
        v = temperature * np.log(np.exp(q / temperature).sum(1))
        q = SOFT.reward + SOFT.discount * SOFT.transition @ v
    policy = np.exp((q - v[:, None]) / temperature)
    policy /= policy.sum(1, keepdims=True)
    assert np.allclose(found.nets.critic(found.sight).detach(), q, atol=1e-4)
    assert not np.allclose(q, tabular.optimal(SOFT).q, atol=0.1)  # nor is it without entropy
    assert np.allclose(found.policy(), policy, atol=1e-4)
    entropy = -(policy * np.log(policy)).sum(1).mean()
    assert entropy == pytest.approx(0.7 * math.log(2), abs=1e-4)


def likelier(entropy: float) -> float:
    """The larger of two probabilities whose entropy is this."""

    low, high = 0.5, 1 - 1e-12
    for _ in range(60):
        p = (low + high) / 2
        more = -p * math.log(p) - (1 - p) * math.log(1 - p) > entropy
        low, high = (p, high) if more else (low, p)
    return low


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_on_a_bandit_the_temperature_is_the_one_whose_softmax_has_the_entropy_aimed_at(
    share: float,
):
    """Of two arms worth 3 and 1: T = 2 / log(p / (1 - p)), where p log p + (1-p) log (1-p) = -H."""
    bandit = MDP(np.ones((1, 2, 1)), np.array([[3.0, 1.0]]), 0.0, np.array([1.0]))
    log = exact_log(bandit, np.full((1, 2), 0.5), parts=4)
    found = Settled("sac", log, COOLING, discount=0.0, entropy_share=share, critics=1)
    aim = share * math.log(2)
    p = likelier(aim)
    exact = 2 / math.log(p / (1 - p))
    temperature = float(found.nets.log_temperature().exp())
    assert temperature == pytest.approx(exact, rel=2e-3)
    assert found.policy()[0] == pytest.approx([p, 1 - p], abs=1e-3)
    other = likelier(aim / 2)
    assert temperature != pytest.approx(2 / math.log(other / (1 - other)), rel=0.1)


LINE, LINE_DISCOUNT = 10, 0.8  # places in a row; a step past either end ends the episode


def line_log() -> Dataset:
    """Each step of each place once, worth 1; the places are one-hot."""
    place, action = np.divmod(np.arange(2 * LINE), 2)
    then = place + 2 * action - 1
    off = (then < 0) | (then >= LINE)
    sight = np.eye(LINE, dtype=np.float32)
    return Dataset.from_arrays(
        sight[place],
        action,
        np.ones(len(place)),
        off,
        ~off,
        next_obs=sight[then.clip(0, LINE - 1)],
        action_space=gym.spaces.Discrete(2),
    )


def line_entropy(temperature: float) -> float:
    """Of the soft-optimal policy on the line, as a share of log 2: a mean over its places."""
    value, gap = np.zeros(LINE + 2), np.zeros(LINE)
    for _ in range(200):
        left, right = 1 + LINE_DISCOUNT * value[:-2], 1 + LINE_DISCOUNT * value[2:]
        value[1:-1] = temperature * np.logaddexp(left / temperature, right / temperature)
        gap = (left - right) / temperature
    p = 1 / (1 + np.exp(gap))
    return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean() / math.log(2))


def test_where_a_step_can_end_the_episode_the_aim_is_one_that_a_temperature_meets():
    """At any temperature a step off the line costs the entropy of all steps to come."""
    reachable = line_entropy(1e6)
    assert line_entropy(1.0) < SAC.Config().entropy_share < reachable < 0.98
    settings: Any = {"discount": LINE_DISCOUNT, "target_rate": 0.5, "critics": 1}
    found = Settled("sac", line_log(), [(800, 0.02), *COOLING], **settings)
    temperature = float(found.nets.log_temperature().exp())
    assert line_entropy(temperature) == pytest.approx(SAC.Config().entropy_share, abs=2e-3)
    shares = found.policy()
    entropy = -(shares * np.log(shares)).sum(1).mean() / math.log(2)
    assert entropy == pytest.approx(SAC.Config().entropy_share, abs=2e-3)


def test_the_critics_learn_from_the_policy_after_its_step():
    trial: Any = Trial(SAC, discrete=False)
    modules, sampler, now = trial.begin()
    start, batch = Learner(modules, now.state), sampler[0]
    _, metrics = trial.algorithm.update(start, batch, "update")
    both = ("policy", "log_temperature")
    moved, _ = start.descend(both, trial.algorithm.policy_loss, batch)
    for nets, same in ((moved.nets, True), (start.nets, False)):
        loss, _ = trial.algorithm.critic_loss(nets, batch)
        assert math.isclose(loss, metrics["critic/loss"], rel_tol=1e-12) == same


@pytest.mark.parametrize("discrete", [False, True])
def test_the_first_temperature_and_the_aim_are_those_of_the_settings(discrete: bool):
    settings = {"initial_temperature": 0.2, "dimension_entropy": -0.5, "entropy_share": 0.5}
    trial: Any = Trial(SAC, discrete=discrete, settings=settings)
    modules, _, now = trial.begin()
    assert float(Learner(modules, now.state).nets.log_temperature().exp()) == pytest.approx(0.2)
    aim = 0.5 * math.log(3) if discrete else -0.5
    assert trial.algorithm.target_entropy == pytest.approx(aim)


@pytest.mark.parametrize(
    ("name", "value"),
    [("initial_temperature", 0.0), ("dimension_entropy", 0.7), ("entropy_share", 1.0)],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, value: float):
    with pytest.raises(ConfigError, match=f"'{name}' must be"):
        configure(SAC.Config, {name: value})

"""CQL's penalty and fixed points against closed forms, and its named limit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from exact_log import Settled, exact_log
from torch import Tensor

from offrl import losses
from offrl.algorithm import configure
from offrl.algos import get
from offrl.batch import Batch
from offrl.conservative import candidates
from offrl.distributions import Squashed
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.tabular import MDP
from offrl.testing import Trial, toy_dataset

CQL: Any = get("cql")
DQN: Any = get("dqn")


def numbers(*values: float):
    return torch.tensor(values, dtype=torch.float64)


def gap_and_gradient(gap: Any):
    """A penalty on values 1, 2 and 0 of which the first was logged, and its gradient."""
    q = numbers(1.0, 2.0, 0.0).requires_grad_()
    found = gap(q)
    return float(found.detach()), torch.autograd.grad(found, q)[0]


GRADIENT = numbers(-0.7552715289452023, 0.6652409557748219, 0.09003057317038046)


def test_the_gap_of_discrete_values_and_its_gradient():
    found, gradient = gap_and_gradient(lambda q: losses.conservative_gap(q, q[0]))
    assert found == pytest.approx(1.4076059644443801, abs=1e-12)
    assert torch.allclose(gradient, GRADIENT, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda q: losses.conservative_gap(q[1:], q[0]), id="without the logged"),
        pytest.param(lambda q: q.mean() - q[0], id="mean"),
        pytest.param(lambda q: q.max() - q[0], id="maximum"),
        pytest.param(lambda q: losses.conservative_gap(q, q.max()), id="less the best"),
        pytest.param(lambda q: losses.conservative_gap(q, q[0].detach()), id="detached"),
    ],
)
def test_the_numbers_tell_a_wrong_gap(wrong: Any):
    found, gradient = gap_and_gradient(wrong)
    right = abs(found - 1.4076059644443801) < 1e-3 and torch.allclose(gradient, GRADIENT, atol=1e-3)
    assert not right


BANDIT = MDP(
    transition=np.ones((1, 3, 1)),
    reward=np.array([[1.0, 0.0, -1.0]]),
    discount=0.0,
    start=np.array([1.0]),
)
MU = np.array([[0.5, 0.3, 0.2]])
FIXED_POINTS = {
    1.0: [0.8839449571648726, 0.05279658247274415, -0.7890572666212973],
    # Twice the weight is what half of the squared error would make of 1.
    2.0: [0.8224315160611657, 0.07268847448191346, -0.6651115018757834],
}


@pytest.fixture(scope="module")
def settled() -> dict[float, np.ndarray]:
    """Q of the bandit's arms after CQL has converged on every row of its log."""
    log, cooling = exact_log(BANDIT, MU, parts=10), [(300, 0.05), (200, 5e-3), (200, 2e-4)]
    found = {}
    for weight in FIXED_POINTS:
        one = Settled("cql", log, cooling, discount=0.0, conservatism=weight)
        found[weight] = one.nets.policy(one.sight).value.detach().numpy()[0]
    return found


@pytest.mark.parametrize("weight", FIXED_POINTS)
def test_the_fixed_point_on_a_bandit(settled: dict[float, np.ndarray], weight: float):
    assert np.allclose(settled[weight], FIXED_POINTS[weight], atol=1e-6)
    other = FIXED_POINTS[3 - weight]
    assert not np.allclose(settled[weight], other, atol=0.01)
    assert float(MU[0] @ settled[weight]) == pytest.approx(0.3, abs=1e-6)


def test_without_conservatism_it_is_double_dqn_to_the_bit():
    one = Trial(CQL, discrete=True, settings={"conservatism": 0.0}).run(n=25).state["params"]
    other = Trial(DQN, discrete=True).run(n=25).state["params"]
    for network, params in one.items():
        for key, value in params.items():
            assert torch.equal(value, other[network][key]), (network, key)


def squashed(dimensions: int, half: float = 1.0, mean: float = 0.0, rows: int = 1):
    one = torch.ones(dimensions, dtype=torch.float64)
    centre = mean * one.expand(rows, -1)
    return Squashed(centre, 0 * centre, -half * one, half * one)


def drawn(samples: int, dimensions: int = 1, rows: int = 1):
    generator = torch.Generator().manual_seed(0)
    shape = (rows, samples, dimensions)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name in ("uniform", "here", "next")
    }


@pytest.mark.parametrize(
    ("dimensions", "expected"), [(1, 2.995732273553991), (3, 4.382026634673881)]
)
@pytest.mark.parametrize("half", [1.0, 2.5])
def test_ten_uniform_actions_of_equal_value_make_the_known_sum(
    dimensions: int, expected: float, half: float
):
    pi = squashed(dimensions, half)
    actions, log_density = candidates(pi, pi, drawn(10, dimensions))
    assert actions.shape == (30, 1, dimensions)
    assert actions[:10].abs().max() <= half
    found = losses.conservative_gap(-log_density[:10, 0], numbers(0.0))
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_actions_of_both_policies_carry_their_own_density_over_minus_one_to_one():
    here, then, noise = squashed(2, 3.0, 0.2), squashed(2, 3.0, -0.7), drawn(4, 2)
    actions, log_density = candidates(here, then, noise)
    for block, pi in ((slice(4, 8), here), (slice(8, 12), then)):
        plain = pi.log_density(actions[block, 0]) + 2 * math.log(3)
        assert torch.allclose(log_density[block, 0], plain, atol=1e-6)


def test_the_sum_over_samples_is_an_integral_over_actions_and_a_known_constant():
    n, half = 20_000, 2.5
    pi = squashed(1, half, 0.4)
    actions, log_density = candidates(pi, squashed(1, half, -0.6), drawn(n))
    q = 0.8 * actions[:, 0, 0]  # so that the mean of exp(Q) over the range is sinh(2) / 2
    exact = math.log(2 * math.sinh(2) / 2)
    for block in (slice(0, n), slice(n, 2 * n), slice(2 * n, 3 * n), slice(0, 3 * n)):
        known = math.log(len(q[block]))  # of ten from each it is log 30 = 3.4011973817
        found = losses.conservative_gap(q[block] - log_density[block, 0], numbers(0.0)) - known
        assert float(found) == pytest.approx(exact, abs=0.05)
    unweighted = losses.conservative_gap(q, numbers(0.0)) - math.log(3 * n)
    assert abs(float(unweighted) - exact) > 0.3


class Nets:
    """Keeps what is asked of the critic; says the reward of a state, its first number."""

    def __init__(self):
        self.asked: list[tuple[Tensor, Tensor]] = []

    def policy(self, obs: Tensor):
        return squashed(1, 1.0, 0.3, len(obs))

    def critic(self, obs: Tensor, action: Tensor):
        self.asked.append((obs, action))
        return obs[:, 0].expand(2, -1)

    def target_critic(self, obs: Tensor, action: Tensor, members: None = None):
        return torch.stack([obs[:, 0], obs[:, 0] + 1])

    def scalar(self, name: str):
        assert name == "conservatism"
        return numbers(2.0)[0]


def test_every_candidate_is_valued_in_the_state_itself_and_the_target_has_no_entropy():
    algorithm: Any = CQL(configure(CQL.Config, {"samples": 3}), toy_dataset(discrete=False).spec)
    obs, next_obs = numbers(5.0, 7.0)[:, None], numbers(50.0, 70.0)[:, None]
    noise = drawn(3, rows=2) | {"target": torch.zeros(2, 1).double()}
    reward = numbers(1.0, 1.0)
    batch = Batch(obs, obs * 0, reward, next_obs, numbers(0, 1), reward, {}, noise)
    nets = Nets()
    loss, metrics = algorithm.critic_loss(nets, batch)
    states, _ = nets.asked[0]
    assert states.reshape(9, 2).unique(dim=0).tolist() == [[5.0, 7.0]]
    errors = numbers(5 - (1 + 0.99 * 50), 7 - 1)
    assert float(metrics["critic/squared_error"]) == pytest.approx(
        float(2 * errors.square().mean())
    )
    assert float(loss) == pytest.approx(
        float(metrics["critic/squared_error"] + 2.0 * 2 * metrics["critic/gap"])
    )


def test_all_losses_are_taken_before_the_step():
    trial: Any = Trial(CQL, discrete=False)
    modules, sampler, now = trial.begin()
    batch, start = sampler[0], Learner(modules, now.state)
    _, metrics = trial.algorithm.update(start, batch, "update")
    policy, _ = trial.algorithm.policy_loss(start.nets, batch)
    critic, _ = trial.algorithm.critic_loss(start.nets, batch)
    both = metrics["policy/loss"] + metrics["temperature/loss"]
    assert math.isclose(policy, both, rel_tol=1e-12)
    assert math.isclose(critic, metrics["critic/loss"], rel_tol=1e-12)


@pytest.mark.parametrize("discrete", [False, True])
def test_more_conservatism_makes_unlogged_actions_worth_less(discrete: bool):
    def margin(weight: float) -> float:
        trial: Any = Trial(CQL, discrete=discrete, settings={"conservatism": weight})
        modules, _, _ = trial.begin()
        nets = Learner(modules, trial.run(n=150).state).nets
        obs = trial.table.observations[:50]
        if discrete:
            value = nets.policy(obs).value  # action 1 is never logged
            return float((value[:, 2] - value[:, 1]).mean())
        logged, unlogged = (torch.full((50, 1), a).double() for a in (0.5, -1.0))
        return float((nets.critic(obs, logged) - nets.critic(obs, unlogged)).mean())

    assert margin(10.0) > margin(0.0) + 0.1


def test_policy_and_temperature_have_a_rate_of_their_own_and_the_critics_lr():
    trial: Any = Trial(CQL, discrete=False, settings={"policy_lr": 2e-4})
    _, _, now = trial.begin()
    rates = {name: float(adam["lr"]) for name, adam in now.state["adam"].items()}
    assert rates == pytest.approx({"policy": 2e-4, "log_temperature": 2e-4, "critic": 3e-3})


@pytest.mark.parametrize(
    ("name", "value"),
    [("conservatism", -1.0), ("samples", 0), ("policy_lr", 0.0), ("dimension_entropy", 1.0)],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, value: float):
    with pytest.raises(ConfigError, match=f"'{name}' must be"):
        configure(CQL.Config, {name: value})


@pytest.mark.parametrize("peer", ["cql_alpha", "min_q_weight", "alpha"])
def test_the_name_that_others_use_is_answered_with_ours(peer: str):
    with pytest.raises(ConfigError, match="'conservatism'"):
        configure(CQL.Config, {peer: 5.0})

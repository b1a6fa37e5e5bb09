"""IQL's value, weights and schedule against closed forms, and its named limits."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from exact_log import Settled, exact_log
from torch import Tensor

from offrl import losses, tabular
from offrl.algorithm import configure
from offrl.algos import get
from offrl.batch import Batch
from offrl.errors import ConfigError
from offrl.learner import Learner
from offrl.tabular import MDP
from offrl.testing import Trial, toy_dataset

IQL: Any = get("iql")
BC: Any = get("bc")
COOLING = [(400, 0.05), (300, 5e-3), (200, 5e-4)]


def numbers(*values: float):
    return torch.tensor(values, dtype=torch.float64)


class Bandit:
    """One state whose V is a free number; two target critics, the least of which is `values`."""

    def __init__(self, values: Tensor, expectile: float):
        self.values, self.expectile = values, expectile
        self.v = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def target_critic(self, obs: Tensor):
        return torch.stack([self.values, self.values + 1])[:, :, None]  # [M, B, one action]

    def value(self, obs: Tensor):
        return self.v.expand(len(obs))

    def scalar(self, name: str):
        return torch.tensor(self.expectile, dtype=torch.float64)


def fitted(values: Tensor, expectile: float) -> float:
    """V after Newton steps on IQL's own value loss, which is quadratic between the arms."""
    algorithm: Any = IQL(configure(IQL.Config, {}), toy_dataset(discrete=True).spec)
    nets, rows = Bandit(values, expectile), torch.zeros(len(values), 1).double()
    empty = torch.zeros(len(values)).double()
    batch = Batch(rows, torch.zeros(len(values)).long(), empty, rows, empty, empty, {}, {})
    for _ in range(50):
        loss, _ = algorithm.value_loss(nets, batch)
        (slope,) = torch.autograd.grad(loss, nets.v, create_graph=True)
        (bend,) = torch.autograd.grad(slope, nets.v)
        nets.v = (nets.v - slope / bend).detach().requires_grad_()
    return float(nets.v.detach())


ARMS = numbers(0.0, 1.0, 3.0)
EXPECTILES = {
    0.5: 1.3333333333333333,
    0.7: 1.8461538461538458,
    0.9: 2.545454545454546,
    0.99: 2.9504950495049505,
    0.999: 2.9950049950049946,
}


@pytest.mark.parametrize(("expectile", "expected"), EXPECTILES.items())
def test_v_is_the_expectile_of_the_arms(expectile: float, expected: float):
    assert fitted(ARMS, expectile) == pytest.approx(expected, abs=1e-9)


def test_rare_arms_weigh_by_how_often_they_are_logged():
    assert fitted(numbers(0, 0, 0, 0, 1), 0.9) == pytest.approx(0.6923076923076923, abs=1e-9)
    assert fitted(numbers(0, 1), 0.7) == pytest.approx(0.7, abs=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda v: losses.expectile_loss(v - ARMS, 0.9), id="u is turned"),
        pytest.param(
            lambda v: ((0.9 - (v > ARMS).double()).abs() * (ARMS - v).abs()).mean(), id="quantile"
        ),
        pytest.param(lambda v: losses.expectile_loss(ARMS + 1 - v, 0.9), id="the larger critic"),
    ],
)
def test_the_number_tells_a_wrong_loss(wrong: Any):
    v = torch.tensor(2.545454545454546, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(wrong(v), v)
    assert abs(float(slope)) > 0.01
    (zero,) = torch.autograd.grad(losses.expectile_loss(ARMS - v, 0.9), v)
    assert abs(float(zero)) < 1e-12


# An action says where it leads, so a transition's target is that of its state and action.
CERTAIN = MDP(
    transition=np.array([[[1.0, 0], [0, 1]], [[1, 0], [0, 1]]]),
    reward=np.array([[0.0, 1.0], [2.0, -1.0]]),
    discount=0.5,
    start=np.array([1.0, 0.0]),
)
MU = np.array([[0.2, 0.8], [0.7, 0.3]])


def expectile_of(values: np.ndarray, weights: np.ndarray, expectile: float) -> float:
    """Of a distribution, by its own definition: where the weighted residuals balance."""
    low, high = v, _ = values.min(), values.max()
    for _ in range(80):
        v = (low + high) / 2
        share = np.where(values > v, expectile, 1 - expectile)
        low, high = (v, high) if (weights * share * (values - v)).sum() > 0 else (low, v)
    return float(v)


def implicit(expectile: float) -> tuple[np.ndarray, np.ndarray]:
    """Q [S, A] and V [S] that IQL's two equations have as their fixed point on CERTAIN."""
    q, v = CERTAIN.reward, np.zeros(2)
    for _ in range(60):
        q = CERTAIN.reward + CERTAIN.discount * CERTAIN.transition @ v
        v = np.array([expectile_of(q[s], MU[s], expectile) for s in range(2)])
    return q, v


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_on_a_whole_log_it_reaches_its_fixed_point_and_the_policy_of_its_advantages(
    expectile: float,
):
    log = exact_log(CERTAIN, MU, parts=10)
    settings: Any = {"expectile": expectile, "inverse_temperature": 0.5, "weight_cap": 1e9}
    found = Settled("iql", log, COOLING, discount=0.5, target_rate=0.5, **settings)
    q, v = implicit(expectile)
    assert np.allclose(found.nets.value(found.sight).detach(), v, atol=1e-4)
    assert np.allclose(found.nets.critic(found.sight).detach(), q, atol=1e-4)
    weight = MU * np.exp(0.5 * (q - v[:, None]))
    policy = weight / weight.sum(1, keepdims=True)
    assert np.allclose(found.policy(), policy, atol=1e-5)
    divides = MU * np.exp((q - v[:, None]) / 0.5)
    assert not np.allclose(policy, divides / divides.sum(1, keepdims=True), atol=0.02)


def test_expectile_one_half_is_the_value_of_mu_and_near_one_the_best_in_the_log():
    q, v = implicit(0.5)
    exact = tabular.values(CERTAIN, MU)
    assert np.allclose(q, exact.q, atol=1e-9)
    assert np.allclose(v, exact.v, atol=1e-9)
    assert np.allclose(implicit(0.99999)[0], tabular.optimal(CERTAIN).q, atol=1e-2)


@pytest.mark.parametrize("discrete", [False, True])
def test_without_inverse_temperature_the_policy_is_bc_to_the_bit(discrete: bool):
    one = Trial(IQL, discrete=discrete, settings={"inverse_temperature": 0.0}).run(n=25).state
    other = Trial(BC, discrete=discrete).run(n=25).state
    for key, value in one["params"]["policy"].items():
        assert torch.equal(value, other["params"]["policy"][key]), key
    weighted = Trial(IQL, discrete=discrete).run(n=25).state["params"]["policy"]
    assert any(not torch.equal(v, other["params"]["policy"][k]) for k, v in weighted.items())


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 1.0), (25, 0.8535533905932737), (50, 0.5), (100, 0.0), (170, 0.0)]
)
def test_the_rate_falls_as_a_cosine_and_stays_at_zero(count: int, expected: float):
    found = losses.cosine_decay(torch.tensor(float(count), dtype=torch.float64), 100)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_only_the_policy_stops_where_its_rate_has_decayed():
    trial: Any = Trial(IQL, discrete=False, settings={"lr_decay_steps": 10})
    modules, sampler, begin = trial.begin()
    ten = trial.go_on(modules, sampler, begin, 10)
    more = trial.go_on(modules, sampler, ten, 15)
    for name, stops in {"policy": True, "critic": False, "value": False}.items():
        now, then = more.state["params"][name], ten.state["params"][name]
        assert all(torch.equal(now[k], then[k]) for k in now) == stops, name


def test_the_policy_weighs_by_the_new_v_and_the_critics_learn_from_it():
    trial: Any = Trial(IQL, discrete=False)
    modules, sampler, begin = trial.begin()
    algorithm, batch = trial.algorithm, sampler[0]
    start = Learner(modules, begin.state)
    after, metrics = algorithm.update(start, batch, "update")
    moved, _ = start.descend("value", algorithm.value_loss, batch)
    for nets, same in ((moved.nets, True), (start.nets, False)):
        loss, _ = algorithm.policy_loss(nets, batch)
        assert math.isclose(loss, metrics["policy/loss"], rel_tol=1e-12) == same
        loss, _ = algorithm.critic_loss(nets, batch)
        assert math.isclose(loss, metrics["critic/loss"], rel_tol=1e-12) == same
    online, target = after.state["params"]["critic"], start.state["params"]["critic"]
    for key, value in after.state["params"]["target_critic"].items():
        assert torch.allclose(value, target[key].lerp(online[key], 0.005), atol=1e-15), key


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("expectile", 0.0),
        ("expectile", 1.0),
        ("inverse_temperature", -1.0),
        ("weight_cap", 0.0),
        ("lr_decay_steps", -1),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, value: float):
    with pytest.raises(ConfigError, match=f"'{name}' must be"):
        configure(IQL.Config, {name: value})


def test_the_name_that_others_use_is_answered_with_ours():
    with pytest.raises(ConfigError, match=r"inverse_temperature.*ours multiplies"):
        configure(IQL.Config, {"beta": 3.0})

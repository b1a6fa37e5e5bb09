"""Advantages of the behavior, by returns and by a fitted Q, against exact answers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from exact_log import Settled, at_rate, exact_log
from small_mdp import M2, MU, Q_MU

from offrl import tabular
from offrl.advantages import Advantages
from offrl.algos import get
from offrl.batch import Table
from offrl.data.dataset import Dataset
from offrl.learner import Learner
from offrl.testing import Trial

AWR: Any = get("awr")
Q_FIRST: dict[str, Any] = {
    "advantage": "q",
    "value_steps": 1,
    "value_refits": 1,
    "q_steps": 1400,
    "policy_steps": 10_000,
    "weight_cap": 1e9,
}
COOLING = [(800, 0.05), (300, 5e-3), (301, 5e-4)]  # to the first step of the policy


@pytest.fixture(scope="module")
def log() -> Dataset:
    return exact_log(M2, MU, parts=20)


@pytest.fixture(scope="module")
def fitted(log: Dataset) -> Settled:
    """AWR on a fitted Q, all the way: Q and V, the behavior, and the policy."""
    stages = [*COOLING, (400, 0.05), (200, 5e-3), (100, 5e-4)]
    return Settled("awr", log, stages, adv_norm="none", **Q_FIRST)


def near(found: Any, expected: Any, tolerance: float) -> bool:
    return bool(np.allclose(np.asarray(found), expected, atol=tolerance, rtol=0))


def test_q_and_v_are_those_of_the_behavior_though_no_next_action_is_asked_for(fitted: Settled):
    exact = tabular.values(M2, MU)
    assert near(fitted.nets.critic(fitted.sight)[0].detach(), exact.q, 1e-3)
    assert near(fitted.nets.critic(fitted.sight)[0].detach(), Q_MU, 1e-3)
    assert near(fitted.nets.value(fitted.sight).detach(), exact.v, 1e-3)


def test_the_advantage_is_the_mean_of_what_follows_and_not_one_sample(fitted: Settled):
    exact = tabular.values(M2, MU)
    algorithm, table = fitted.algorithm, fitted.table
    found = algorithm.columns(Learner(fitted.modules, fitted.state), table, 5000)
    state = table.observations[table.obs_row].argmax(-1)
    assert near(found["advantage"], exact.advantage[state, table.action], 2e-3)
    assert near(found["advantages"], exact.advantage[state], 2e-3)


def closed_form(fitted: Settled, policy: Any = None, **scalars: float) -> float:
    """KL of a policy, by default the trained one, from the closed form."""
    algorithm: Any = fitted.algorithm
    state = fitted.state
    learner = Learner(fitted.modules, state)
    if policy is not None:
        learner = learner.copy(policy, into="policy")
    learner = learner.note(**{k: torch.tensor(v).double() for k, v in scalars.items()})
    columns = algorithm.columns(learner, fitted.table, 5000)
    batch = fitted.table.gather(torch.arange(len(fitted.table)), columns, {})
    return float(algorithm.policy_loss(learner.nets, batch)[1]["policy/kl_closed_form"].detach())


def test_the_regression_reaches_the_closed_form_on_a_fitted_mu(fitted: Settled):
    assert closed_form(fitted) < 1e-6
    assert float(fitted.metrics["policy/kl_closed_form"]) < 1e-6
    exact = tabular.values(M2, MU)
    assert near(fitted.policy(), tabular.reverse_kl_optimum(MU, exact.advantage, 1.0)[0], 1e-3)


@pytest.mark.parametrize(
    ("policy", "scalars"),
    [("behavior", {}), (None, {"temperature": 2.0}), (None, {"temperature": 0.5})],
)
def test_another_policy_and_another_temperature_are_far_from_the_closed_form(
    fitted: Settled, policy: Any, scalars: dict[str, float]
):
    assert closed_form(fitted, policy, **scalars) > 0.01


def test_a_cap_on_the_weight_is_part_of_the_closed_form(fitted: Settled):
    algorithm: Any = fitted.algorithm
    whole, advantage = algorithm.config, tabular.values(M2, MU).advantage
    tilted = MU * np.minimum(np.exp(advantage), 1.2)
    tilted /= tilted.sum(-1, keepdims=True)
    share = np.bincount(fitted.table.observations[fitted.table.obs_row].argmax(-1)) / len(
        fitted.table
    )
    expected = share @ (tilted * np.log(tilted / fitted.policy())).sum(-1)
    algorithm.config = replace(whole, weight_cap=1.2)
    try:
        assert closed_form(fitted) == pytest.approx(float(expected), abs=1e-3)
    finally:
        algorithm.config = whole
    assert expected > 0.01


@pytest.mark.parametrize("discrete", [True, False])
def test_a_terminal_row_has_no_future_in_q_and_a_truncated_one_has(discrete: bool):
    trial = Trial(AWR, discrete=discrete, settings={"advantage": "q", "discount": 0.9})
    algorithm: Any = trial.algorithm
    modules, _, now = trial.begin()
    nets = Learner(modules, now.state).nets
    ends = torch.nonzero(trial.table.last)[:, 0]
    batch = trial.table.gather(ends, {}, {})
    loss, metrics = algorithm.advantages.q_loss(nets, batch)
    future = 0.9 * nets.value(batch.next_obs) * (1 - batch.terminated)
    q = nets.critic(batch.obs, *(() if discrete else (batch.action,)))[0]
    q = q.gather(-1, batch.action[:, None])[:, 0] if discrete else q
    error = q - batch.reward - future
    scale = float(now.state["buffers"]["value"]["return_std"])
    assert float(loss.detach()) == pytest.approx(float(error.square().mean().detach()) / scale**2)
    assert float(metrics["critic/td_error"].detach()) == pytest.approx(
        float(error.abs().mean().detach())
    )
    assert 0 < int(batch.terminated.sum()) < len(ends)


@pytest.mark.parametrize("norm", ["none", "std", "scale"])
def test_advantages_are_centred_and_scaled_as_asked(norm: str):
    plain = Trial(AWR, discrete=True, settings={"adv_norm": "none"})
    modules, _, now = plain.begin()
    raw = plain.algorithm.columns(Learner(modules, now.state), plain.table, 0)["advantage"]
    trial = Trial(AWR, discrete=True, settings={"adv_norm": norm})
    found = trial.algorithm.columns(Learner(modules, now.state), trial.table, 0)["advantage"]
    mean, spread = float(raw.mean()), float(raw.std(correction=0)) + 1e-5
    centre, scale = {"none": (0, 1), "std": (mean, spread), "scale": (0, spread)}[norm]
    assert torch.allclose(found, (raw - centre) / scale, atol=1e-12)


def test_columns_are_computed_once_until_a_network_that_they_depend_on_moves():
    trial = Trial(AWR, discrete=True)
    modules, sampler, now = trial.begin()
    advantages: Any = Advantages(trial.algorithm.config, trial.data.spec)
    learner = Learner(modules, now.state)
    first = advantages.columns(learner, trial.table, first=True)
    assert advantages.columns(learner, trial.table, first=True) is first
    assert advantages.columns(learner, trial.table, first=False) is not first
    batch = trial.batch(modules, sampler, now)
    moved, _ = learner.descend("policy", trial.algorithm.policy_loss, batch)  # pyright: ignore[reportAttributeAccessIssue] (AWR's own)
    again = advantages.columns(learner, trial.table, first=True)
    assert advantages.columns(moved, trial.table, first=True) is again
    moved, _ = learner.descend("value", advantages.value_loss, batch)
    assert advantages.columns(moved, trial.table, first=True) is not again
    changed = Learner(modules, at_rate(now.state, 0.1, ()))  # a new state of the same numbers
    assert torch.equal(
        advantages.columns(changed, trial.table, first=True)["advantage"], first["advantage"]
    )


def test_the_table_is_the_one_that_is_asked_about():
    trial = Trial(AWR, discrete=True)
    modules, _, now = trial.begin()
    learner = Learner(modules, now.state)
    other = Trial(AWR, discrete=True).table
    found = trial.algorithm.columns(learner, trial.table, 0)["advantage"]
    rewarded = Table(**{**vars(other), "reward": other.reward + 1})
    assert not torch.equal(trial.algorithm.columns(learner, rewarded, 0)["advantage"], found)

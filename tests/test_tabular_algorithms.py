"""The real algorithms, fed every transition of a small MDP, reach the answers of offrl.tabular.

Nothing here is a re-implementation: the configuration, networks, losses, update and refreshes are
those of `offrl train`; only the batch is the whole log and the network has no hidden layer.
"""

from typing import Any

import numpy as np
import pytest
import torch
from exact_log import Settled, exact_log, per_row
from small_mdp import M2, MU, PI, Q_MU, Q_PI, Q_STAR

from offrl import tabular
from offrl.batch import Table
from offrl.data.dataset import Dataset
from offrl.tabular import MDP

COOLING = [(900, 0.05), (300, 5e-3), (300, 5e-4)]

# The same rewards, and an action says where it leads: a transition's advantage is then exact.
CERTAIN = MDP(
    transition=np.array([[[1.0, 0], [0, 1]], [[1, 0], [0, 1]]]),
    reward=M2.reward,
    discount=0.9,
    start=M2.start,
)


def near(found: Any, expected: Any, tolerance: float) -> bool:
    return bool(np.allclose(np.asarray(found), expected, atol=tolerance, rtol=0))


@pytest.fixture(scope="module")
def log() -> Dataset:
    """Every transition of M2 under its uniform mu: forty rows."""
    return exact_log(M2, MU, parts=20)


class TestTheLogItself:
    def test_it_holds_every_transition_as_often_as_it_happens(self, log: Dataset):
        table = Table.of(log.transitions, dtype=torch.float64)
        state = table.observations[table.obs_row].argmax(-1)
        then = table.observations[table.obs_row + 1].argmax(-1)
        counts = np.zeros((2, 2, 2))
        np.add.at(counts, (state, table.action, then), 1)
        assert near(counts / counts.sum(-1, keepdims=True), M2.transition, 1e-12)
        assert near(table.reward, M2.reward[state, table.action], 1e-12)
        assert near(table.behavior_log_prob, np.log(0.5), 1e-12)
        assert not table.terminated.any()


class TestAWR:
    """Option 1: states and advantages of mu."""

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
    def test_with_exact_advantages_it_is_the_closed_form(self, log: Dataset, temperature: float):
        exact = tabular.values(M2, MU).advantage
        table = Table.of(log.transitions, dtype=torch.float64)
        found = Settled(
            "awr",
            log,
            COOLING,
            given={"advantage": per_row(table, exact)},
            temperature=temperature,
            adv_norm="none",
            weight_cap=1e9,
            value_steps=1,
            value_refits=1,
            policy_steps=10_000,
        )
        expected, _ = tabular.reverse_kl_optimum(MU, exact, temperature)
        assert near(found.policy(), expected, 1e-6)
        swapped, _ = tabular.reverse_kl_optimum(MU, exact, 1 / temperature)
        assert temperature == 1 or not near(found.policy(), swapped, 0.05)

    def test_from_the_log_alone_it_is_the_closed_form_where_outcomes_are_certain(self):
        found = Settled(
            "awr",
            exact_log(CERTAIN, PI, parts=10),
            [(1600, 0.05), (400, 2e-3), *COOLING],
            adv_norm="none",
            td_lambda=0.0,
            weight_cap=1e9,
            value_steps=2000,
            value_refits=250,
            policy_steps=10_000,
        )
        exact = tabular.values(CERTAIN, PI)
        assert near(found.nets.value(found.sight).detach(), exact.v, 1e-4)
        assert near(found.policy(), tabular.reverse_kl_optimum(PI, exact.advantage, 1.0)[0], 1e-4)


class TestDQN:
    """Option 2 with the greedy policy: Q of the best policy."""

    @pytest.mark.parametrize("settings", [{"double": True}, {"double": False}])
    def test_its_fixed_point_is_the_optimal_q(self, log: Dataset, settings: dict[str, Any]):
        found = Settled("dqn", log, COOLING, target_rate=0.2, **settings)
        value = found.nets.policy(found.sight).value.detach()
        assert near(value, tabular.optimal(M2).q, 1e-4)
        assert near(value, Q_STAR, 1e-4)
        for wrong in (Q_MU, Q_PI):
            assert not near(value, wrong, 1.0)


# Actions -1, 0 and 1 of which the reward is a linear function, so that a linear critic is exact,
# and a policy is worth as much as its mean.
LEVELS = (-1.0, 0.0, 1.0)
SLOPE = 0.5
LINEAR = MDP(
    transition=np.array([[[0.0, 1]] * 3, [[1, 0]] * 3]),
    reward=np.array([[SLOPE * a for a in LEVELS], [1 + SLOPE * a for a in LEVELS]]),
    discount=0.9,
    start=np.array([1.0, 0]),
)
SPREAD = np.array([[0.4, 0.2, 0.4], [0.5, 0.3, 0.2]])  # mu


@pytest.fixture(scope="module")
def linear_log() -> Dataset:
    """Every transition of LINEAR: twenty rows."""
    return exact_log(LINEAR, SPREAD, parts=10, levels=LEVELS)


class TestDeterministicPolicies:
    """Option 2 with one action a state: Q of that action, and the gradient of Q by it."""

    def critic(self, found: Settled) -> np.ndarray:
        """Q of both states and the three actions, on which all critics agree."""
        state, action = found.sight.repeat_interleave(3, 0), torch.tensor(LEVELS).double()
        q = found.nets.critic(state, action.repeat(2)[:, None]).detach().numpy()
        assert near(q, q[:1], 1e-3)
        return q[0].reshape(2, 3)

    @pytest.mark.parametrize("algo", ["ddpg", "td3"])
    def test_unbound_they_go_to_the_best_action_and_its_value(self, linear_log: Dataset, algo: str):
        settings: dict[str, Any] = {"smoothing": 0.0} if algo == "td3" else {}
        found = Settled(algo, linear_log, COOLING, target_rate=0.2, **settings)
        best = tabular.optimal(LINEAR)
        assert near(found.nets.policy(found.sight).action.detach(), 1, 2e-3)
        assert near(self.critic(found), best.q, 2e-2)
        assert not near(self.critic(found), tabular.values(LINEAR, SPREAD).q, 1.0)

    @pytest.mark.parametrize("q_weight", [0.0, 1.0, 4.0])
    def test_td3_bc_goes_as_far_from_the_log_as_its_weight_says(
        self, linear_log: Dataset, q_weight: float
    ):
        found = Settled(
            "td3-bc", linear_log, COOLING, target_rate=0.2, smoothing=0.0, q_weight=q_weight
        )
        action = found.nets.policy(found.sight).action.detach().numpy()[:, 0]
        policy = np.stack([1 - action, np.zeros(2), 1 + action], axis=1) / 2  # of the same mean
        exact = tabular.values(LINEAR, policy)
        assert near(self.critic(found), exact.q, 1e-3)
        mean = SPREAD @ np.array(LEVELS)
        assert near(action, mean + SLOPE * q_weight / (2 * np.abs(exact.v).mean()), 1e-4)

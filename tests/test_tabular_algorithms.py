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
from offrl.learner import Nets
from offrl.tabular import MDP

COOLING = [(700, 0.05), (250, 5e-3), (150, 5e-4)]
slow = pytest.mark.slow

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

    @pytest.mark.parametrize(
        "temperature", [0.5, pytest.param(1.0, marks=slow), pytest.param(3.0, marks=slow)]
    )
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

    @slow
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

    def test_from_rewards_alone_it_is_the_closed_form_with_a_fitted_q(self, log: Dataset):
        found = Settled(
            "awr",
            log,
            [(1600, 0.05), (400, 2e-3), *COOLING],
            advantage="q",
            adv_norm="none",
            weight_cap=1e9,
            value_steps=1,
            value_refits=1,
            q_steps=1999,
            policy_steps=10_000,
        )
        exact = tabular.values(M2, MU)
        assert near(found.nets.critic(found.sight)[0].detach(), exact.q, 1e-3)
        assert near(found.policy(), tabular.reverse_kl_optimum(MU, exact.advantage, 1.0)[0], 1e-4)


# The lecture's bandit: mu = (.5, .3, .2), advantages 1, 0, -1.
THREE = np.array([[0.5, 0.3, 0.2]])
WORTH = np.array([[1.0, 0.0, -1.0]])
BANDIT = MDP(np.ones((1, 3, 1)), WORTH, 0.9, np.ones(1))
# One step each of fitting mu, which is logged, and of V, since A is given; nothing freezes pi.
GIVEN: dict[str, Any] = {
    "behavior_steps": 1,
    "value_steps": 1,
    "value_refits": 1,
    "check_steps": 100_000,
    "stop_kl": 0.0,
    "stop_ess": 0.0,
    "stop_patience": 0,
}


class TestIWPG:
    """Option 1 by importance weights: the ratio, the two divergences, the clips."""

    @staticmethod
    def settled(
        data: Dataset, exact: np.ndarray, stages: list[tuple[int, float]], **settings: Any
    ) -> Settled:
        given = {"advantage": per_row(Table.of(data.transitions, dtype=torch.float64), exact)}
        return Settled("iwpg", data, stages, given, **(GIVEN | settings))

    def ascent(self, pi: list[float], **settings: Any) -> np.ndarray:
        """The gradient of the objective by the logits of a policy on the bandit."""
        begun = self.settled(exact_log(BANDIT, THREE, parts=10), WORTH, [], **settings)
        columns = {
            "advantage": per_row(begun.table, WORTH),
            "log_mu": per_row(begun.table, np.log(THREE)),  # on disk it is a float32
        }
        batch = begun.table.gather(torch.arange(10), columns, {})
        params = {k: torch.zeros_like(p) for k, p in begun.state["params"]["policy"].items()}
        logits = params["net.head.bias"] = (
            torch.tensor(pi, dtype=torch.float64).log().requires_grad_()
        )
        nets = Nets(begun.modules, begun.state, {**begun.state["params"], "policy": params})
        algorithm: Any = begun.algorithm
        loss, _ = algorithm.policy_loss(nets, batch)
        return -torch.autograd.grad(loss, logits)[0].numpy()

    def test_at_mu_its_gradient_is_the_ordinary_policy_gradient(self):
        assert near(self.ascent([0.5, 0.3, 0.2], objective="ratio"), [0.35, -0.09, -0.26], 1e-9)

    def test_elsewhere_each_action_counts_by_its_ratio(self):
        found = self.ascent([0.6, 0.3, 0.1], objective="ratio")
        assert near(found, [0.30, -0.15, -0.15], 1e-9)
        assert not near(found, [0.32, -0.09, -0.23], 1e-3)  # without the ratio
        assert not near(found, 0, 1e-3)  # without the score

    @pytest.mark.parametrize("objective", ["naive-clip", "clip", "kl-forward", "kl-reverse"])
    def test_at_mu_every_objective_has_the_same_gradient(self, objective: str):
        assert near(self.ascent([0.5, 0.3, 0.2], objective=objective), [0.35, -0.09, -0.26], 1e-9)

    @pytest.mark.parametrize("coefficient", [1.0, pytest.param(3.0, marks=slow)])
    def test_each_divergence_leads_to_its_own_optimum(self, log: Dataset, coefficient: float):
        exact = tabular.values(M2, MU).advantage
        reverse, _ = tabular.reverse_kl_optimum(MU, exact, coefficient)
        forward, _ = tabular.forward_kl_optimum(MU, exact, coefficient)
        assert not near(reverse, forward, 0.01)
        for objective, optimum in (("kl-reverse", reverse), ("kl-forward", forward)):
            found = self.settled(
                log, exact, COOLING, objective=objective, kl_coefficient=coefficient
            )
            assert near(found.policy(), optimum, 1e-5)

    def test_the_clip_stops_at_its_ends_and_the_policy_is_better_by_then(self, log: Dataset):
        exact = tabular.values(M2, MU).advantage
        stages = [(301, 0.05), (400, 1e-3)]  # pi starts at mu, and then leaves it slowly
        found = self.settled(log, exact, stages, behavior_steps=300)
        assert near(found.policy(), [[0.4, 0.6], [0.6, 0.4]], 0.01)
        assert tabular.performance(M2, found.policy()) > tabular.performance(M2, MU) + 1

    def test_the_plain_ratio_has_no_end(self, log: Dataset):
        exact = tabular.values(M2, MU).advantage
        found = self.settled(log, exact, COOLING, objective="ratio")
        assert near(found.policy(), [[0, 1], [1, 0]], 1e-2)


class TestDQN:
    """Option 2 with the greedy policy: Q of the best policy."""

    @pytest.mark.parametrize(
        "settings", [{"double": True}, pytest.param({"double": False}, marks=slow)]
    )
    def test_its_fixed_point_is_the_optimal_q(self, log: Dataset, settings: dict[str, Any]):
        found = Settled("dqn", log, COOLING, target_rate=0.5, **settings)
        value = found.nets.policy(found.sight).value.detach()
        assert near(value, tabular.optimal(M2).q, 1e-4)
        assert near(value, Q_STAR, 1e-4)
        for wrong in (Q_MU, Q_PI):
            assert not near(value, wrong, 1.0)


class TestIQL:
    """Never asks for an action that the log lacks: V is an expectile of Q over mu's actions."""

    def test_at_the_mean_it_learns_v_and_q_of_mu_and_awrs_policy(self, log: Dataset):
        found = Settled(
            "iql", log, COOLING, target_rate=0.5, expectile=0.5, inverse_temperature=1.0
        )
        exact = tabular.values(M2, MU)
        assert near(found.nets.critic(found.sight).detach(), exact.q, 1e-3)
        assert near(found.nets.value(found.sight).detach(), exact.v, 1e-3)
        tilted, _ = tabular.reverse_kl_optimum(MU, exact.advantage, 1.0)
        assert near(found.policy(), tilted, 1e-3)

    def test_beyond_the_mean_it_lies_between_mu_and_the_best_policy(self, log: Dataset):
        found = Settled("iql", log, COOLING, target_rate=0.5, expectile=0.9)
        q, v = (net(found.sight).detach().numpy() for net in (found.nets.critic, found.nets.value))
        assert near(q, tabular.backup(M2, v), 1e-3)
        above = q[0] - v[:, None]
        assert near((MU * np.where(above < 0, 0.1, 0.9) * above).sum(1), 0, 1e-3)
        assert (v > tabular.values(M2, MU).v + 1).all()
        assert (v < tabular.optimal(M2).v).all()


class TestCQL:
    """Q-learning whose values are pressed down off the log: by how much is known."""

    @pytest.mark.parametrize(
        ("conservatism", "expected"),
        [
            (1.0, [0.8839449572, 0.0527965825, -0.7890572666]),
            (2.0, [0.8224315161, 0.0726884745, -0.6651115018]),  # as with half the squared error
        ],
    )
    def test_on_the_bandit_it_has_the_values_worked_out(
        self, conservatism: float, expected: list[float]
    ):
        data = exact_log(BANDIT, THREE, parts=10)
        found = Settled("cql", data, COOLING, discount=0.0, conservatism=conservatism)
        value = found.nets.policy(found.sight).value.detach().numpy()
        assert near(value, expected, 1e-5)
        assert near((THREE * value).sum(), 0.3, 1e-5)

    @pytest.mark.parametrize("conservatism", [0.0, 1.0])
    def test_its_fixed_point_is_what_its_equation_says(self, log: Dataset, conservatism: float):
        found = Settled("cql", log, COOLING, target_rate=0.5, conservatism=conservatism)
        q = found.nets.policy(found.sight).value.detach().numpy()
        target = tabular.backup(M2, q.max(1))
        share = np.exp(q - q.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        assert near(q, target - conservatism / 2 * (share / MU - 1), 1e-3)
        assert near(q, tabular.optimal(M2).q, 1e-3) == (conservatism == 0)


class TestSAC:
    """Option 2 with a policy that is paid for its entropy."""

    @pytest.mark.parametrize("temperature", [0.5, pytest.param(2.0, marks=slow)])
    def test_its_fixed_point_is_soft_q_at_its_temperature(self, log: Dataset, temperature: float):
        found = Settled(
            "sac",
            log,
            COOLING,
            held=["log_temperature"],
            target_rate=0.5,
            initial_temperature=temperature,
        )
        soft = tabular.soft_optimal(M2, temperature)
        assert near(found.nets.critic(found.sight).detach(), soft.q, 5e-3)
        assert near(found.policy(), np.exp(soft.advantage / temperature), 1e-3)
        assert not near(soft.q, tabular.optimal(M2).q, 0.05)


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

    @pytest.mark.parametrize(
        "q_weight", [pytest.param(0.0, marks=slow), 1.0, pytest.param(4.0, marks=slow)]
    )
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

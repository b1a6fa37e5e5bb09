"""Exact answers: the lecture's numbers, and identities that hold on any finite MDP."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_mdp import M2, MU, PI, Q_MU, Q_PI, Q_STAR

from offrl import tabular
from offrl.errors import ConfigError
from offrl.tabular import MDP

# The lecture's bandit: one state, three actions.
THREE = np.array([0.5, 0.3, 0.2])
WORTH = np.array([1.0, 0.0, -1.0])


def near(found: Any, expected: Any, tolerance: float = 1e-9) -> bool:
    return bool(np.allclose(found, expected, atol=tolerance, rtol=0))


class TestTheLemmaOnTheSmallMDP:
    def test_values_of_mu_and_pi(self):
        of_mu, of_pi = tabular.values(M2, MU), tabular.values(M2, PI)
        assert near(of_mu.v, [5, 5])
        assert near(of_mu.q, Q_MU)
        assert near(of_mu.advantage, [[-0.5, 0.5], [1.5, -1.5]])
        assert near(of_pi.v, [12.8249097473, 13.6371841155])
        assert near(of_pi.q, Q_PI)
        assert near(tabular.performance(M2, PI), 12.8249097473)
        assert near(tabular.performance(M2, MU), 5)

    def test_occupancies(self):
        assert near(tabular.occupancy(M2, MU), [0.4774193548, 0.5225806452])
        assert near(tabular.occupancy(M2, PI), [0.4638989170, 0.5361010830])

    def test_optimal_values(self):
        found = tabular.optimal(M2)
        assert near(found.q, Q_STAR)
        assert near(found.v, Q_STAR.max(1))

    def test_both_forms_of_the_lemma_give_the_difference(self):
        assert near(tabular.performance_difference(M2, PI, MU), 7.8249097473)
        assert near(tabular.mirrored_difference(M2, PI, MU), 7.8249097473)

    def test_with_the_advantage_of_pi_inside_the_lemma_says_zero(self):
        of_pi = tabular.values(M2, PI).advantage
        assert near(tabular.expected(M2, PI, PI, of_pi), 0)

    def test_states_of_mu_give_the_surrogate_instead(self):
        assert near(tabular.surrogate(M2, PI, MU), 7.7032258065)

    def test_trpos_bound_is_far_below_for_policies_this_far_apart(self):
        # 7.7032258065 - 4 x 1.5 x .9 / .01 x .4^2
        assert near(tabular.lower_bound(M2, PI, MU), 7.7032258065 - 86.4)

    def test_without_the_horizon_it_is_a_tenth(self):
        short = tabular.occupancy(M2, PI) @ (PI * tabular.values(M2, MU).advantage).sum(1)
        assert near(short, 0.78249097473)


class TestAChain:
    chain = MDP(
        transition=np.array([[[0.0, 1, 0]], [[0, 0, 1]], [[0, 0, 0]]]),
        reward=np.array([[1.0], [2], [100]]),
        discount=0.9,
        start=np.array([1.0, 0, 0]),
        terminal=[2],
    )
    only = np.ones((3, 1))

    def test_nothing_is_earned_after_a_terminal_state(self):
        assert near(tabular.values(self.chain, self.only).v, [2.8, 2, 0])
        assert near(tabular.optimal(self.chain).v, [2.8, 2, 0])
        assert near(tabular.soft_optimal(self.chain, 0.5).v, [2.8, 2, 0])

    def test_a_chance_of_ending_shortens_what_can_be_earned(self):
        one = np.ones((1, 1, 1))
        mdp = MDP(one, one[0], 0.9, np.ones(1), termination=0.25 * one)
        assert near(tabular.values(mdp, np.ones((1, 1))).v, 1 / (1 - 0.9 * 0.75))
        assert near(tabular.occupancy(mdp, np.ones((1, 1))), 0.1 / (1 - 0.9 * 0.75))

    def test_the_missing_occupancy_is_that_of_having_ended(self):
        found = tabular.occupancy(self.chain, self.only)
        assert near(found, [0.1, 0.09, 0])
        assert near(1 - found.sum(), 0.9**2)


class TestTheTwoKLOptima:
    def test_reverse_kl_tilts_by_the_exponential(self):
        policy, value = tabular.reverse_kl_optimum(THREE, WORTH, 0.5)
        assert near(policy, [0.9186723059, 0.0745972660, 0.0067304281])
        assert near(value, 0.6958393082)
        kl = (policy * np.log(policy / THREE)).sum()
        assert near((policy * WORTH).sum() - 0.5 * kl, value)

    def test_the_optima_of_the_two_directions_differ(self):
        reverse, _ = tabular.reverse_kl_optimum(THREE, WORTH, 1.0)
        forward, nu = tabular.forward_kl_optimum(THREE, WORTH, 1.0)
        assert near(reverse, [0.7843987617, 0.1731385069, 0.0424627314])
        assert near(forward, [0.7455415087, 0.1795704527, 0.0748880385])
        assert near(nu, 1.6706534702)

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param(tabular.reverse_kl_optimum(THREE, WORTH, 2.0)[0], id="times alpha"),
            pytest.param(tabular.reverse_kl_optimum(THREE, WORTH, 1.0)[0], id="alpha left out"),
            pytest.param(tabular.forward_kl_optimum(THREE, WORTH, 0.5)[0], id="the other side"),
            pytest.param(
                tabular.reverse_kl_optimum(THREE**2 / (THREE**2).sum(), WORTH, 0.5)[0],
                id="weighted by mu twice",
            ),
        ],
    )
    def test_no_usual_mistake_gives_the_reverse_optimum(self, wrong: np.ndarray):
        assert not near(wrong, [0.9186723059, 0.0745972660, 0.0067304281], 1e-2)

    def test_an_action_that_mu_never_takes_stays_out_however_good(self):
        mu, worth = np.array([0.0, 0.6, 0.4]), np.array([1000.0, 1, 0])
        for optimum in (tabular.reverse_kl_optimum, tabular.forward_kl_optimum):
            policy, other = optimum(mu, worth, 1.0)
            assert policy[0] == 0
            assert near(policy.sum(), 1)
            assert np.isfinite(other)

    def test_advantages_of_any_size_stay_finite(self):
        for optimum in (tabular.reverse_kl_optimum, tabular.forward_kl_optimum):
            policy, _ = optimum(THREE, 1e6 * WORTH, 0.1)
            assert near(policy, [1, 0, 0], 1e-6)


class World(NamedTuple):
    mdp: MDP
    pi: np.ndarray
    mu: np.ndarray


def distributions(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Distributions along the last axis, some with zeros in them."""
    weight = rng.exponential(size=shape) * (rng.random(shape) < 0.8) + 1e-3 * rng.random(shape)
    weight[weight < 1e-3 * (rng.random() < 0.5)] = 0
    weight[..., 0] += 1e-6
    return weight / weight.sum(-1, keepdims=True)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A random MDP with or without ends, and two policies."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    states, actions = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    ends = draw(st.sampled_from(["never", "by chance", "in a state"]))
    terminal = [states - 1] if ends == "in a state" and states > 1 else []
    start = distributions(rng, states)
    start[terminal] = 0
    shape = (states, actions, states)
    mdp = MDP(
        transition=distributions(rng, *shape),
        reward=rng.normal(0, draw(st.sampled_from([0.1, 1.0, 30.0])), (states, actions)),
        discount=draw(st.sampled_from([0.0, 0.5, 0.9, 0.99])),
        start=start / start.sum(),
        terminal=terminal,
        termination=rng.random(shape) * (rng.random(shape) < 0.3) if ends == "by chance" else None,
    )
    return World(mdp, distributions(rng, states, actions), distributions(rng, states, actions))


def size(mdp: MDP) -> float:
    """What a value of this MDP may be at most, as a measure for differences."""
    return (1 + np.abs(mdp.reward).max()) / (1 - mdp.discount)


class TestOnAnyFiniteMDP:
    @given(worlds())
    def test_both_forms_of_the_lemma_are_the_difference_of_performance(self, world: World):
        mdp, pi, mu = world
        difference = tabular.performance(mdp, pi) - tabular.performance(mdp, mu)
        tolerance = 1e-10 * size(mdp) / (1 - mdp.discount)
        assert near(tabular.performance_difference(mdp, pi, mu), difference, tolerance)
        assert near(tabular.mirrored_difference(mdp, pi, mu), difference, tolerance)

    @given(worlds())
    def test_a_policy_has_no_advantage_over_itself(self, world: World):
        of_pi = tabular.values(world.mdp, world.pi).advantage
        assert near((world.pi * of_pi).sum(1), 0, 1e-10 * size(world.mdp))

    @given(worlds())
    def test_values_solve_their_bellman_equations(self, world: World):
        mdp, pi, _ = world
        v, q, advantage = tabular.values(mdp, pi)
        assert near(q, tabular.backup(mdp, v), 1e-10 * size(mdp))
        assert near((pi * q).sum(1), v, 1e-10 * size(mdp))
        assert near(advantage, q - v[:, None], 1e-10 * size(mdp))
        best = tabular.optimal(mdp)
        assert near(best.q, tabular.backup(mdp, best.q.max(1)), 1e-9 * size(mdp))
        assert (best.v >= v - 1e-9 * size(mdp)).all()

    @given(worlds())
    def test_occupancies_sum_to_one_with_the_share_of_having_ended(self, world: World):
        mdp, pi, _ = world
        found, with_end = tabular.occupancy(mdp, pi), tabular.occupancy(*explicit_end(mdp, pi))
        assert (found >= -1e-12).all()
        assert near(with_end.sum(), 1)
        assert near(found.sum(), 1 - with_end[-1])
        assert near(found, with_end[:-1])
        if mdp.termination is None and not len(mdp.terminal):
            assert near(found.sum(), 1)

    @given(worlds())
    def test_ending_is_the_same_as_a_state_that_pays_nothing_for_ever(self, world: World):
        mdp, pi, _ = world
        other, policy = explicit_end(mdp, pi)
        assert near(tabular.values(other, policy).v[:-1], tabular.values(mdp, pi).v, 1e-9)
        assert near(tabular.optimal(other).v[:-1], tabular.optimal(mdp).v, 1e-8 * size(mdp))

    @given(worlds())
    def test_performance_is_reward_under_the_occupancy(self, world: World):
        mdp, pi, _ = world
        earned = tabular.expected(mdp, pi, pi, mdp.reward)
        assert near(earned, tabular.performance(mdp, pi), 1e-10 * size(mdp) / (1 - mdp.discount))

    @given(worlds())
    def test_the_lower_bound_is_one_and_is_tight_at_mu(self, world: World):
        mdp, pi, mu = world
        difference = tabular.performance(mdp, pi) - tabular.performance(mdp, mu)
        slack = 1e-10 * size(mdp) / (1 - mdp.discount)
        assert tabular.lower_bound(mdp, pi, mu) <= difference + slack
        assert near(tabular.lower_bound(mdp, mu, mu), 0, slack)

    @given(worlds(), st.floats(0.01, 1))
    def test_the_surrogate_is_off_by_the_square_of_the_step(self, world: World, step: float):
        mdp, pi, mu = world
        mixed = mu + step * (pi - mu)
        difference = tabular.performance(mdp, mixed) - tabular.performance(mdp, mu)
        off = abs(tabular.surrogate(mdp, mixed, mu) - difference)
        distance = np.abs(mixed - mu).sum(1).max()
        largest = np.abs(tabular.values(mdp, mu).advantage).max()
        bound = 2 * largest * mdp.discount / (1 - mdp.discount) ** 2 * distance**2
        assert off <= bound + 1e-9 * size(mdp) / (1 - mdp.discount)

    @given(worlds(), st.sampled_from([0.1, 1.0, 10.0]))
    def test_the_soft_policy_earns_its_soft_value(self, world: World, temperature: float):
        mdp, _, _ = world
        soft = tabular.soft_optimal(mdp, temperature)
        policy = np.exp(np.minimum(soft.advantage, 0) / temperature)
        ended = np.isin(np.arange(mdp.states), list(mdp.terminal))
        policy[ended] = 1 / mdp.actions
        entropy = -(policy * np.log(np.maximum(policy, 1e-300))).sum(1)
        paid = MDP(
            mdp.transition,
            mdp.reward + temperature * entropy[:, None],
            mdp.discount,
            mdp.start,
            mdp.terminal,
            mdp.termination,
        )
        policy /= policy.sum(1, keepdims=True)
        assert near(tabular.values(paid, policy).v, soft.v, 1e-9 * (size(mdp) + size(paid)))

    @given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 1.0, 20.0]))
    def test_no_policy_near_a_kl_optimum_is_better(self, seed: int, temperature: float):
        rng = np.random.default_rng(seed)
        mu, worth = distributions(rng, 3, 4) + 1e-3, rng.normal(size=(3, 4))
        mu /= mu.sum(-1, keepdims=True)
        reverse, value = tabular.reverse_kl_optimum(mu, worth, temperature)
        forward, _ = tabular.forward_kl_optimum(mu, worth, temperature)
        shift = rng.normal(size=(3, 4))

        def moved(policy: np.ndarray, size: float) -> np.ndarray:
            new = policy * np.exp(size * shift)
            return new / new.sum(-1, keepdims=True)

        def reverse_goal(pi: np.ndarray) -> np.ndarray:
            logs = np.log(np.maximum(pi, 1e-300) / mu)
            return (pi * worth).sum(-1) - temperature * (pi * logs).sum(-1)

        def forward_goal(pi: np.ndarray) -> np.ndarray:
            return (pi * worth).sum(-1) - temperature * (mu * np.log(mu / pi)).sum(-1)

        assert near(reverse.sum(-1), 1)
        assert near(forward.sum(-1), 1)
        assert near(reverse_goal(reverse), value, 1e-8)
        for size_ in (1e-3, 0.3, 2.0):
            assert (reverse_goal(moved(reverse, size_)) <= reverse_goal(reverse) + 1e-9).all()
            assert (forward_goal(moved(forward, size_)) <= forward_goal(forward) + 1e-9).all()

    @given(st.integers(0, 2**32 - 1), st.floats(-50, 50))
    def test_a_constant_of_the_state_changes_no_kl_optimum(self, seed: int, constant: float):
        rng = np.random.default_rng(seed)
        mu, worth = distributions(rng, 4), rng.normal(size=4)
        for optimum in (tabular.reverse_kl_optimum, tabular.forward_kl_optimum):
            plain, value = optimum(mu, worth, 1.0)
            shifted, moved = optimum(mu, worth + constant, 1.0)
            assert near(plain, shifted, 1e-8)
            assert near(value + constant, moved, 1e-8)


def explicit_end(mdp: MDP, policy: np.ndarray) -> tuple[MDP, np.ndarray]:
    """The same MDP with one more state, where what has ended stays and earns nothing."""
    s, a = mdp.states, mdp.actions
    transition = np.zeros((s + 1, a, s + 1))
    transition[:s, :, :s] = mdp.continuing
    transition[:, :, s] = 1 - transition.sum(-1)
    reward = np.concatenate([mdp.earned, np.zeros((1, a))])
    start = np.concatenate([mdp.start, [0]])
    only = np.concatenate([policy, np.full((1, a), 1 / a)])
    return MDP(transition, reward, mdp.discount, start), only


WHOLE: dict[str, Any] = {
    "transition": M2.transition,
    "reward": M2.reward,
    "discount": 0.9,
    "start": M2.start,
}


class TestWhatCannotBe:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"transition": M2.transition[0]}, r"must be \[S, A, S\], not \[2, 2\]"),
            ({"transition": np.full((2, 2, 2), 0.4)}, r"state 0, action 0 is no distribution: 0.4"),
            ({"reward": np.zeros(2)}, r"reward of the MDP must be \[2, 2\], not \[2\]"),
            ({"reward": np.full((2, 2), np.nan)}, "reward of the MDP holds numbers .* not finite"),
            ({"discount": 1.0}, "discount must be from 0 to below 1, not 1.0"),
            ({"start": np.array([0.5, 0.6])}, "start is no distribution: 0.5, 0.6"),
            ({"start": np.array([1.5, -0.5])}, "start is no distribution"),
            ({"terminal": [2]}, "no state 2 to be terminal"),
            ({"terminal": [0]}, "cannot start in a terminal state"),
            ({"termination": np.full((2, 2, 2), 1.5)}, "must be probabilities"),
            ({"termination": np.zeros((2, 2))}, r"termination of the MDP must be \[2, 2, 2\]"),
        ],
    )
    def test_an_mdp_that_is_none_is_refused_by_name(self, changes: dict[str, Any], said: str):
        with pytest.raises(ConfigError, match=said):
            MDP(**{**WHOLE, **changes})

    @pytest.mark.parametrize(
        ("policy", "said"),
        [
            (np.ones((2, 3)) / 3, r"must be \[2, 2\], not \[2, 3\]"),
            (np.array([[1, 0], [0.5, 0.6]]), "policy of state 1 is no distribution: 0.5, 0.6"),
            (np.array([[1, 0], [np.nan, 1]]), "policy of state 1 is no distribution"),
        ],
    )
    def test_a_policy_that_is_none_is_refused_by_name(self, policy: np.ndarray, said: str):
        with pytest.raises(ConfigError, match=said):
            tabular.values(M2, policy)
        with pytest.raises(ConfigError, match=said):
            tabular.performance_difference(M2, MU, policy)

    def test_a_temperature_must_be_above_zero(self):
        for refused in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(ConfigError, match="temperature must be above 0"):
                tabular.reverse_kl_optimum(THREE, WORTH, refused)
            with pytest.raises(ConfigError, match="temperature must be above 0"):
                tabular.forward_kl_optimum(THREE, WORTH, refused)
            with pytest.raises(ConfigError, match="temperature must be above 0"):
                tabular.soft_optimal(M2, refused)

    def test_mu_and_the_advantage_must_fit(self):
        with pytest.raises(ConfigError, match="of one shape"):
            tabular.reverse_kl_optimum(THREE, WORTH[:2], 1.0)
        with pytest.raises(ConfigError, match="mu is no distribution"):
            tabular.forward_kl_optimum(THREE * 2, WORTH, 1.0)

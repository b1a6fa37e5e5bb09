"""The estimators against T17, with the mistakes that others made, and what must hold of all."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from two_steps import DISCOUNT, EXACT_Q, FOUR, J_MU, J_PI, PI, WRONG_Q, episodes, once

from offrl.ope import estimators, magic
from offrl.ope.rules import SEQUENTIAL
from offrl.ope.trajectories import Floats, Trajectories, padded
from offrl.ope.weights import effective_sample_size

EXACT = 1e-9
WEIGHTED = ("ois", "pdis", "wis", "wpdis")
Terms = Callable[[Trajectories], Floats]


def of(name: str, data: Trajectories) -> float:
    return float(SEQUENTIAL[name].estimator(data)(once(data.n))[0])


def close(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, rtol=0, atol=EXACT))


def two_lengths() -> Trajectories:
    """Episodes of one and of two steps: ratios (2), (.5, 1), rewards (1), (0, 4), no discount."""
    return padded(
        discount=1.0,
        starts=np.array([0, 1, 3]),
        reward=np.array([1.0, 0.0, 4.0]),
        log_ratio=np.log([2.0, 0.5, 1.0]),
        terminated=np.ones(2, bool),
    )


def no_product(data: Trajectories) -> Floats:
    """PDIS with the ratio of the step alone."""
    return (np.exp(data.log_ratio) * data.reward) @ data.discounts


def whole_weight(data: Trajectories) -> Floats:
    """PDIS with the weight of the whole episode at each step: OIS, whose variance is larger."""
    return (np.exp(data.log_weight[:, -1:]) * data.reward) @ data.discounts


def no_discount(data: Trajectories) -> Floats:
    """PDIS that forgets the discount."""
    return (np.exp(data.log_weight) * data.reward).sum(1)


def inverted(data: Trajectories) -> Floats:
    """PDIS with mu / pi."""
    return (np.exp(-data.log_weight) * data.reward) @ data.discounts


class TestFourEquallyLikelyEpisodes:
    """T17: each of H2's four episodes once, so that a mean over them is an expectation."""

    def test_ois_and_pdis_of_each_and_their_means(self):
        data = episodes(FOUR)
        assert close(estimators.ois_terms(data), [0, 1.152, 0.64, 7.168])
        assert close(estimators.pdis_terms(data), [0, 1.152, 1.6, 6.208])
        assert close([of("ois", data), of("pdis", data)], J_PI)

    def test_pdis_varies_less_than_ois(self):
        data = episodes(FOUR)
        assert close(estimators.ois_terms(data).var(), 8.261632)
        assert close(estimators.pdis_terms(data).var(), 5.588992)

    @pytest.mark.parametrize("wrong", [no_product, whole_weight, no_discount, inverted])
    def test_the_usual_mistakes_in_pdis_would_be_seen(self, wrong: Terms):
        found = wrong(episodes(FOUR))
        assert not (close(found.mean(), J_PI) and close(found.var(), 5.588992))

    def test_wis_of_one_episode_is_the_return_of_mu(self):
        found = [of("wis", episodes(FOUR[[i]])) for i in range(4)]
        assert close(np.mean(found), J_MU)

    def test_the_weighted_estimators_of_two_episodes(self):
        pairs = [episodes(FOUR[list(pair)]) for pair in itertools.product(range(4), repeat=2)]
        assert close(np.mean([of("wis", pair) for pair in pairs]), 1.7644117647058828)
        assert close(np.mean([of("wpdis", pair) for pair in pairs]), 1.7842647058823533)

    def test_dr_with_the_exact_q_is_exact_on_every_episode_whatever_the_ratios(self):
        for right in (True, False):
            data = episodes(FOUR, EXACT_Q, right=right)
            assert close(estimators.dr_terms(data), J_PI)
        assert close(of("wdr", episodes(FOUR, EXACT_Q)), J_PI)

    def test_dr_with_right_ratios_is_right_on_average_whatever_the_q(self):
        assert close(of("dr", episodes(FOUR, WRONG_Q)), J_PI)
        assert close(of("dm", episodes(FOUR, WRONG_Q)), 1.0)

    def test_dr_without_a_model_is_pdis(self):
        data = episodes(FOUR, np.zeros((2, 2)))
        assert close(estimators.dr_terms(data), estimators.pdis_terms(data))
        assert close(of("wdr", data), of("wpdis", data))

    def test_dr_with_both_wrong_is_wrong(self):
        assert close(of("dr", episodes(FOUR, WRONG_Q, right=False)), -0.49)


class TestEpisodesOfDifferentLengths:
    def test_a_finished_episode_stays_in_the_normaliser(self):
        data = two_lengths()
        assert close(of("pdis", data), 2.0)
        assert close(of("wpdis", data), 1.6)

    def test_leaving_it_out_would_triple_the_value(self):
        data = two_lengths()
        weight = np.exp(data.log_weight)
        there = np.arange(2) < data.lengths[:, None]
        per_step = (weight * data.reward).sum(0) / (weight * there).sum(0)
        assert close(per_step.sum(), 4.8)

    def test_effective_sample_sizes(self):
        assert close(effective_sample_size(np.ones(4)), 4)
        assert close(effective_sample_size(np.array([1.0, 2.0, 3.0])), 18 / 7)
        assert close(effective_sample_size(np.array([4.0, 0.0, 0.0, 0.0])), 1)


class TestEpisodesThatWereCut:
    """What would have followed is worth discount^T w_{0:T-1} V(s_T), by each estimator's rule."""

    def cut(self) -> Trajectories:
        return padded(
            discount=0.5,
            starts=np.array([0, 2, 3]),
            reward=np.array([1.0, 2.0, 8.0]),
            log_ratio=np.log([2.0, 0.5, 3.0]),
            terminated=np.array([False, True]),
            q=np.array([3.0, 1.0, 2.0]),
            v=np.array([4.0, 2.0, 1.0]),
            final_v=np.array([12.0, np.nan]),
        )

    def test_the_future_is_added_and_discounted(self):
        assert close(self.cut().returns, [1 + 0.5 * 2 + 0.25 * 12, 8])

    def test_by_each_estimator(self):
        data = self.cut()
        assert close(estimators.ois_terms(data), [5, 24])
        assert close(estimators.pdis_terms(data), [2 + 0.5 * 2 + 0.25 * 12, 24])
        assert close(of("wis", data), (5 + 24) / 4)
        assert close(of("wpdis", data), (2 + 24) / 5 + 0.5 * 2 / 4 + 0.25 * 12 / 4)
        second = 2 + 0.5 * (2 + 0.5 * 12 - 1)
        assert close(estimators.dr_terms(data), [4 + 2 * (1 + 0.5 * second - 3), 1 + 3 * (8 - 2)])

    def test_neither_dropping_nor_ending_it_gives_the_same(self):
        data = self.cut()
        assert not close(of("pdis", data), 24)
        assert not close(of("pdis", data), (3 + 24) / 2)


class TestMagic:
    def test_omega_is_n_times_the_covariance_of_the_contributions(self):
        parts = np.array([[0.1, 0.2], [0.2, 0.2], [0.3, 0.1], [0.2, 0.1]])
        found = magic.omega(parts, np.ones(4))
        twice = magic.omega(parts[[0, 1, 2, 3, 3]], np.ones(5))
        assert close(magic.omega(parts, np.array([1.0, 1, 1, 2])), twice)
        assert close(found, [[2 / 75, -1 / 75], [-1 / 75, 1 / 75]])
        assert not close(np.cov(parts, rowvar=False), found)  # without the n

    def test_the_weights_minimise_on_the_simplex(self):
        rng = np.random.default_rng(0)
        for size in (1, 2, 7):
            root = rng.normal(size=(size, size))
            matrix = root @ root.T
            x = magic.weights_of(matrix)
            assert x.min() >= 0
            assert np.isclose(x.sum(), 1)
            for _ in range(200):
                y = rng.dirichlet(np.ones(size))
                assert x @ matrix @ x <= y @ matrix @ y + 1e-9

    def test_the_cuts_run_from_the_direct_method_to_wdr(self):
        data = episodes(FOUR, WRONG_Q)
        cuts = magic.cuts_of(2)
        assert cuts == [-1, 0, 1]
        parts = magic.contributions(data, cuts)(np.ones(4))
        assert close(parts.sum(0)[0], of("dm", data))
        assert close(parts.sum(0)[-1], of("wdr", data))
        # the middle one: one step of WDR, then V of the state it leads to
        v = WRONG_Q @ PI
        w = PI[FOUR[:, 0]] / 0.5
        one = (w * (FOUR[:, 0] - 1 + DISCOUNT * v[1])).sum() / w.sum() + v[0]
        assert close(parts.sum(0)[1], one)

    def test_it_lies_within_what_it_mixes(self):
        rng = np.random.default_rng(1)
        for _ in range(20):
            data = episodes(rng.integers(2, size=(30, 2)), rng.normal(size=(2, 2)))
            parts = magic.contributions(data, magic.cuts_of(2))(np.ones(30)).sum(0)
            assert parts.min() - EXACT <= of("magic", data) <= parts.max() + EXACT

    def test_long_episodes_have_few_cuts_and_both_ends(self):
        cuts = magic.cuts_of(1000)
        assert (cuts[0], cuts[-1], len(cuts)) == (-1, 999, magic.MOST)

    def test_an_exact_model_is_found_to_be_exact(self):
        rng = np.random.default_rng(2)
        assert close(of("magic", episodes(rng.integers(2, size=(50, 2)), EXACT_Q)), J_PI)


@st.composite
def logs(draw: st.DrawFn) -> dict[str, Any]:
    """Columns of a few episodes of different lengths, some of them cut."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=2, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, terminated = sum(lengths), rng.random(len(lengths)) < 0.6
    v = rng.normal(size=n)
    return {
        "discount": draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        "starts": np.concatenate([[0], np.cumsum(lengths)]),
        "reward": rng.normal(size=n),
        "log_ratio": rng.normal(size=n),
        "terminated": terminated,
        "q": v + rng.normal(size=n),
        "v": v,
        "final_v": rng.normal(size=len(lengths)),
    }


def changed(
    data: Trajectories, change: Callable[[Floats], Floats], lengths: np.ndarray
) -> Trajectories:
    """The episodes with every column changed alike."""
    q, v = data.values()
    return Trajectories(
        data.discount, change(data.reward), change(data.log_ratio), lengths, change(q), change(v)
    )


class TestWhatHoldsOfAll:
    @given(logs())
    def test_judging_the_behaviour_itself_gives_its_mean_return(self, log: dict[str, Any]):
        data = padded(**{**log, "log_ratio": 0 * log["log_ratio"], "q": log["v"]})
        for name in (*WEIGHTED, "dr", "wdr"):
            assert np.isclose(of(name, data), data.returns.mean(), atol=1e-8), name

    @given(logs())
    def test_steps_after_the_end_change_nothing(self, log: dict[str, Any]):
        data = padded(**log)
        extra = np.zeros((data.n, 3))
        wider = changed(data, lambda x: np.hstack([x, extra]), data.lengths)
        for name in (*WEIGHTED, "dm", "dr", "wdr"):
            assert np.isclose(of(name, wider), of(name, data), atol=1e-8), name

    @given(logs())
    def test_dr_backwards_is_dr_as_a_sum(self, log: dict[str, Any]):
        data = padded(**log)
        q, v = data.values()
        now, before = np.exp(data.log_weight), np.exp(data.log_weight_before)
        assert np.allclose(
            estimators.dr_terms(data),
            (now * (data.reward - q) + before * v) @ data.discounts,
            atol=1e-8,
        )

    @given(logs(), st.floats(0.01, 100))
    def test_rewards_in_another_unit_give_the_value_in_that_unit(
        self, log: dict[str, Any], unit: float
    ):
        scaled = {k: unit * log[k] if k in ("reward", "q", "v", "final_v") else log[k] for k in log}
        for name, rule in SEQUENTIAL.items():
            one = float(rule.estimator(padded(**log))(once(len(log["starts"]) - 1))[0])
            other = float(rule.estimator(padded(**scaled))(once(len(log["starts"]) - 1))[0])
            tolerance = 1e-3 if name == "magic" else 1e-7
            assert np.isclose(other, unit * one, rtol=tolerance, atol=tolerance * unit), name

    @given(logs(), st.permutations(range(6)))
    def test_the_order_of_the_episodes_does_not_matter(self, log: dict[str, Any], order: list[int]):
        data = padded(**log)
        order = [i for i in order if i < data.n]
        moved = changed(data, lambda x: x[order], data.lengths[order])
        for name in (*WEIGHTED, "dm", "dr", "wdr"):
            assert np.isclose(of(name, moved), of(name, data), atol=1e-8), name

    @given(logs(), st.integers(0, 2**32 - 1))
    def test_counting_an_episode_twice_is_having_it_twice(self, log: dict[str, Any], seed: int):
        data = padded(**log)
        counts = np.random.default_rng(seed).integers(1, 4, size=data.n)
        rows = np.repeat(np.arange(data.n), counts)
        twice = changed(data, lambda x: x[rows], data.lengths[rows])
        for name, rule in SEQUENTIAL.items():
            by_counts = float(rule.estimator(data)(counts[None].astype(float))[0])
            tolerance = 1e-5 if name == "magic" else 1e-8
            assert np.isclose(by_counts, of(name, twice), atol=tolerance, rtol=tolerance), name

    def test_weights_far_beyond_a_float64_are_weighed_all_the_same(self):
        log_ratio = np.array([900.0, 900.0, -900.0, -900.0, 899.0, 900.0])
        data = padded(
            discount=1.0,
            starts=np.array([0, 2, 4, 6]),
            reward=np.ones(6) * [1, 1, 2, 2, 3, 3],
            log_ratio=log_ratio,
            terminated=np.ones(3, bool),
        )
        share = 1 / (1 + np.exp(-1))
        assert np.isclose(of("wis", data), 2 * share + 6 * (1 - share))

    def test_an_action_that_the_candidate_never_takes_has_no_weight(self):
        data = padded(
            discount=1.0,
            starts=np.array([0, 1, 2]),
            reward=np.array([5.0, 1.0]),
            log_ratio=np.array([-np.inf, np.log(2)]),
            terminated=np.ones(2, bool),
        )
        assert close([of("ois", data), of("wis", data)], 1.0)

"""Intervals against hand-worked numbers (T18), and how often they hold what they should."""

import math

import numpy as np
import pytest
from two_steps import J_PI, drawn

from offrl.errors import ConfigError
from offrl.evaluation.statistics import interval
from offrl.ope import estimators, intervals
from offrl.ope.intervals import Bounds
from offrl.ope.rules import SEQUENTIAL
from offrl.ope.trajectories import Floats, Trajectories

HALVES = np.repeat([0.0, 1.0], 50)
RETURNS = (0.0, 2.8)  # what two steps of H2 can earn, discounted


class TestHandWorked:
    def test_student_t(self):
        bounds = interval(np.arange(1.0, 6.0))
        assert bounds == pytest.approx((1.0367568385, 4.9632431615), abs=1e-9)

    def test_empirical_bernstein_one_sided_and_two_sided(self):
        assert math.isclose(intervals.bernstein(HALVES, 1, 0.05), 0.2234376248, abs_tol=1e-9)
        assert math.isclose(intervals.bernstein(HALVES, 1, 0.025), 0.2520465088, abs_tol=1e-9)

    def test_hoeffding_two_sided(self):
        assert math.isclose(intervals.hoeffding(100, 1, 0.025), 0.1358101516, abs_tol=1e-9)

    def test_one_episode_has_no_bernstein_bound(self):
        assert intervals.bernstein(np.ones(1), 1, 0.05) == math.inf


class TestRangeOfReturns:
    def test_an_episode_may_end_at_once_or_never(self):
        assert intervals.return_range((1.0, 2.0), 0.9, None) == pytest.approx((1.0, 20.0))
        assert intervals.return_range((-1.0, 0.5), 0.9, None) == pytest.approx((-10.0, 5.0))

    def test_a_horizon_makes_it_narrower(self):
        assert intervals.return_range((0.0, 2.0), 0.9, 2) == pytest.approx((0.0, 3.8))
        assert intervals.return_range((0.0, 2.0), 1.0, 5) == pytest.approx((0.0, 10.0))

    def test_without_discount_and_horizon_there_is_none(self):
        with pytest.raises(ConfigError, match="bounds no return"):
            intervals.return_range((0.0, 1.0), 1.0, None)


class TestClippedBounds:
    def test_hold_for_negative_returns_too(self):
        rng = np.random.default_rng(0)
        data = drawn(400, rng)
        for shift in (0.0, -5.0):
            span = (RETURNS[0] + shift, RETURNS[1] + shift)
            found = intervals.clipped_bounds(
                data.returns + shift, data.last_log_weight, span, 3.0, 0.95
            )
            for low, high in found.values():
                assert low < J_PI + shift < high

    def test_stay_within_what_is_possible(self):
        data = drawn(3, np.random.default_rng(0))
        for bounds in intervals.clipped_bounds(
            data.returns, data.last_log_weight, RETURNS, 20.0, 0.95
        ).values():
            assert bounds == RETURNS


class TestBootstrap:
    def test_is_of_whole_episodes_the_same_for_the_same_seed(self):
        counts = intervals.resampled(7, 50, np.random.default_rng(0))
        assert (counts.sum(1) == 7).all()
        data = drawn(20, np.random.default_rng(1))
        rules = {name: SEQUENTIAL[name].estimator for name in ("wis", "pdis")}
        one, again, other = (intervals.replicates_of(data, rules, 200, seed) for seed in (3, 3, 4))
        assert (one["wis"] == again["wis"]).all()
        assert not (one["wis"] == other["wis"]).all()

    def test_draws_the_same_samples_in_blocks_as_all_at_once(self, monkeypatch: pytest.MonkeyPatch):
        data = drawn(20, np.random.default_rng(1))
        rules = {"wis": SEQUENTIAL["wis"].estimator}
        whole = intervals.replicates_of(data, rules, 200, 0)["wis"]
        monkeypatch.setattr(intervals, "BLOCK", 20 * 7)
        assert np.allclose(intervals.replicates_of(data, rules, 200, 0)["wis"], whole)

    def test_is_about_as_wide_as_student_t_for_a_plain_mean(self):
        data = drawn(500, np.random.default_rng(2))
        rules = {"pdis": SEQUENTIAL["pdis"].estimator}
        found = intervals.percentile(intervals.replicates_of(data, rules, 2000, 0)["pdis"], 0.95)
        assert found is not None
        assert found == pytest.approx(interval(estimators.pdis_terms(data)), abs=0.05)

    def test_too_many_samples_without_weight_give_no_interval(self):
        replicates = np.ones(100)
        replicates[:6] = np.nan
        assert intervals.percentile(replicates, 0.95) is None
        replicates[5] = 1
        assert intervals.percentile(replicates, 0.95) == (1.0, 1.0)


def held(bounds: Bounds | None) -> bool:
    return bounds is not None and bounds[0] <= J_PI <= bounds[1]


def coverage(simulations: int, n: int = 200) -> dict[str, float]:
    """How often each interval of n episodes of H2 holds J(pi)."""
    hits: dict[str, int] = {}
    for seed in range(simulations):
        data = drawn(n, np.random.default_rng([seed, 1]))  # apart from the draws of resampling
        found: dict[str, Bounds | None] = {}
        names = ("ois", "pdis", "wis", "wpdis")
        rules = {name: SEQUENTIAL[name].estimator for name in names}
        for name, sample in intervals.replicates_of(data, rules, 2000, seed).items():
            found[f"bootstrap {name}"] = intervals.percentile(sample, 0.95)
        for name in ("ois", "pdis"):
            found[f"student-t {name}"] = interval(_terms(name, data))
        bounds = intervals.clipped_bounds(
            data.returns, data.last_log_weight, RETURNS, math.sqrt(n), 0.95
        )
        for name, one in (found | bounds).items():
            hits[name] = hits.get(name, 0) + held(one)
    return {name: count / simulations for name, count in hits.items()}


def _terms(name: str, data: Trajectories) -> Floats:
    terms = SEQUENTIAL[name].terms
    assert terms is not None
    return terms(data)


def check(shares: dict[str, float], low: float, high: float) -> None:
    for name, share in shares.items():
        if name in ("bernstein", "hoeffding"):
            assert share >= 0.95, shares
        else:
            assert low <= share <= high, shares


class TestCoverage:
    """J(pi) of H2 is known, so how often an interval holds it can be counted."""

    def test_of_two_hundred_episodes(self):
        check(coverage(300), 0.92, 0.97)

    @pytest.mark.slow
    def test_of_two_hundred_episodes_two_thousand_times(self):
        check(coverage(2000), 0.92, 0.97)

    def test_a_one_sided_quantile_would_be_seen(self):
        samples = [
            estimators.pdis_terms(drawn(200, np.random.default_rng(seed))) for seed in range(2000)
        ]
        share = np.mean([held(interval(sample, 0.90)) for sample in samples])
        assert not 0.92 <= share <= 0.97
        assert 0.92 <= np.mean([held(interval(sample)) for sample in samples]) <= 0.97

    def test_taking_steps_for_episodes_would_be_seen(self):
        hits = []
        for seed in range(600):
            data = drawn(200, np.random.default_rng(seed))
            parts = np.exp(data.log_weight) * data.reward * data.discounts
            bounds = interval(parts.reshape(-1) * 2)
            hits.append(held(bounds))
        assert not 0.92 <= np.mean(hits) <= 0.97

"""Log-probabilities of agents: with the masses at the bounds they sum to one, and draws agree."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from offrl.collect.distributions import Bounds, Choices, Clipped, Distribution, Point, Squashed
from offrl.distributions import Gaussian
from offrl.errors import ConfigError
from offrl.nn import Squashed as TorchSquashed

LOW, HIGH = -1.0, 3.0
BOX = spaces.Box(LOW, HIGH, (1,), np.float32)
BOUNDS = Bounds(BOX)
KINDS = {
    "clipped": lambda mean, std: Clipped([mean], [std], BOUNDS),
    "squashed": lambda mean, std: Squashed([mean], [std], BOUNDS.stretched()),
}
means, stds = st.floats(-4.0, 6.0), st.floats(0.05, 8.0)


def density(distribution: Distribution, x: float) -> float:
    return math.exp(distribution.log_prob(np.array([x])))


def mass_between(distribution: Distribution, a: float, b: float) -> float:
    """The mass of an open interval, by the trapezoid rule in log((x - low) / (high - x))."""
    stretch = BOUNDS.stretched()
    edges = {LOW: -36.0, HIGH: 36.0}
    if isinstance(distribution, Squashed):  # beyond these an action is rounded to the bound
        edges = {LOW: 2.0 * stretch.first[0], HIGH: 2.0 * stretch.last[0]}
    first, last = (edges[x] if x in edges else math.log((x - LOW) / (HIGH - x)) for x in (a, b))
    at = np.linspace(first, last, max(200, int((last - first) * 50)))
    x = LOW + (HIGH - LOW) * special.expit(at)
    slope = (x - LOW) * (HIGH - x) / (HIGH - LOW)
    heights = [density(distribution, v) if LOW < v < HIGH else 0.0 for v in x]
    return float(integrate.trapezoid(np.array(heights) * slope, at))


def masses_at_bounds(distribution: Distribution) -> tuple[float, float]:
    return density(distribution, LOW), density(distribution, HIGH)


@pytest.mark.parametrize("kind", KINDS)
class TestADensityWithMassesAtItsBounds:
    @given(mean=means, std=stds)
    @settings(max_examples=25)
    def test_sums_to_one(self, kind: str, mean: float, std: float) -> None:
        distribution = KINDS[kind](mean, std)
        found = mass_between(distribution, LOW, HIGH) + sum(masses_at_bounds(distribution))
        assert found == pytest.approx(1.0, abs=1e-5)

    @pytest.mark.parametrize(("mean", "std"), [(0.5, 0.8), (2.5, 2.0), (-3.0, 1.5), (12.0, 3.0)])
    def test_is_how_often_actions_are_drawn(self, kind: str, mean: float, std: float) -> None:
        distribution = KINDS[kind](mean, std)
        rng = np.random.default_rng(0)
        actions = np.array([distribution.sample(rng) for _ in range(6000)])
        assert actions.dtype == np.float32
        assert all(BOX.contains(a) for a in actions[:200])
        drawn = actions[:, 0].astype(float)
        low, high = masses_at_bounds(distribution)
        inside = (drawn > LOW) & (drawn < HIGH)
        cells = [LOW, HIGH]
        if inside.sum() > 200:  # from one representable action up to the next, halfway between
            at = np.quantile(actions[inside, 0], np.linspace(0, 1, 9)[1:-1], method="nearest")
            before = np.nextafter(at, np.float32(LOW))
            cells = [LOW, *((at.astype(float) + before.astype(float)) / 2), HIGH]
        shares, seen = [low, high], [int((drawn <= LOW).sum()), int((drawn >= HIGH).sum())]
        for a, b in pairwise(cells):
            shares.append(mass_between(distribution, a, b))
            seen.append(int((inside & (drawn >= a) & (drawn < b)).sum()))
        kept = np.array(shares) * len(drawn) > 1.0
        expected = np.array(shares)[kept]
        counts = np.array(seen)[kept]
        assert counts.sum() > 0.999 * len(drawn)
        assert stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-4

    def test_has_its_mode_inside_the_bounds(self, kind: str) -> None:
        for mean in (-50.0, 0.0, 50.0):
            mode = KINDS[kind](mean, 1.0).mode()
            assert mode.dtype == np.float32
            assert BOX.contains(mode)

    def test_is_finite_at_every_action_that_it_draws(self, kind: str) -> None:
        rng = np.random.default_rng(1)
        for mean in (-30.0, -8.0, 0.0, 8.5, 30.0):
            distribution = KINDS[kind](mean, 2.0)
            for _ in range(100):
                assert math.isfinite(distribution.log_prob(distribution.sample(rng)))


class TestClipped:
    def test_without_the_tails_would_not_sum_to_one(self) -> None:
        distribution = KINDS["clipped"](2.5, 1.0)
        assert mass_between(distribution, LOW, HIGH) == pytest.approx(
            stats.norm.cdf(0.5) - stats.norm.cdf(-3.5), abs=1e-6
        )
        assert masses_at_bounds(distribution)[1] == pytest.approx(stats.norm.sf(0.5))

    def test_is_what_a_trained_policy_is_scored_by(self) -> None:
        rng = np.random.default_rng(0)
        mean, std = rng.normal(size=4), rng.uniform(0.2, 2.0, 4)
        box = spaces.Box(-1.0, 1.0, (4,), np.float32)
        ours = Clipped(mean, std, Bounds(box))
        theirs = Gaussian(*(torch.tensor(v) for v in (mean, std, -np.ones(4), np.ones(4))))
        for _ in range(50):
            action = ours.sample(rng)
            expected = float(theirs.log_prob(torch.tensor(action, dtype=torch.float64)))
            assert ours.log_prob(action) == pytest.approx(expected, abs=1e-9)

    def test_of_actions_without_bounds_is_the_normal(self) -> None:
        free = Clipped([0.5], [2.0], Bounds(spaces.Box(-np.inf, np.inf, (1,), np.float32)))
        assert free.log_prob([3.0]) == pytest.approx(stats.norm.logpdf(3.0, 0.5, 2.0))


class TestSquashed:
    @given(mean=st.floats(-2, 2), std=st.floats(0.1, 1.0), noise=st.floats(-2, 2))
    def test_agrees_with_the_change_of_variables(
        self, mean: float, std: float, noise: float
    ) -> None:
        u = mean + std * noise
        x = LOW + (HIGH - LOW) * (math.tanh(u) + 1) / 2
        slope = (HIGH - LOW) / 2 * (1 - math.tanh(u) ** 2)
        expected = stats.norm.logpdf(u, mean, std) - math.log(slope)
        assert KINDS["squashed"](mean, std).log_prob([x]) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("box", [spaces.Box(0.0, 1.0, (1,), np.float32),
                                     spaces.Box(-1.0, 1.0, (1,), np.float64)])  # fmt: skip
    def test_knows_the_mass_that_rounding_puts_on_a_bound(self, box: spaces.Box) -> None:
        distribution = Squashed([60.0], [3.0], Bounds(box).stretched())
        drawn = distribution.sample(np.random.default_rng(0))
        assert drawn == box.high
        assert distribution.log_prob(drawn) == pytest.approx(0.0, abs=1e-6)

    @pytest.mark.parametrize("center", [0.0, -8.0, 9.0, 40.0])
    def test_is_what_a_trained_policy_is_scored_by(self, center: float) -> None:
        rng = np.random.default_rng(0)
        mean, std = center + rng.normal(size=3), rng.uniform(0.2, 2.0, 3)
        low = np.array([-1, 0, -5], np.float32)
        high = np.array([1, 2, 5], np.float32)
        ours = Squashed(mean, std, Bounds(spaces.Box(low, high)).stretched())
        theirs = TorchSquashed(
            *(torch.tensor(v, dtype=torch.float64) for v in (mean, np.log(std), low, high))
        )
        for _ in range(50):
            action = ours.sample(rng)
            assert ours.log_prob(action) == pytest.approx(
                float(theirs.log_prob(torch.tensor(action))), rel=1e-6, abs=1e-6
            )

    def test_needs_bounds(self) -> None:
        with pytest.raises(ConfigError, match="no bounds"):
            Bounds(spaces.Box(-np.inf, np.inf, (1,))).stretched()


class TestChoices:
    def test_are_a_softmax_and_drawn_as_often(self) -> None:
        choices = Choices([1.0, 2.0, -700.0, 0.0], start=5)
        rng = np.random.default_rng(0)
        drawn = np.bincount([choices.sample(rng) - 5 for _ in range(5000)], minlength=4)
        shares = np.exp([choices.log_prob(5 + i) for i in range(4)])
        assert shares.sum() == pytest.approx(1.0)
        assert (choices.mode(), drawn[2]) == (6, 0)
        kept = [0, 1, 3]
        assert stats.chisquare(drawn[kept], shares[kept] * 5000).pvalue > 1e-4
        assert choices.log_prob(7) == pytest.approx(-702.0, abs=1.0)

    def test_have_no_bounds(self) -> None:
        assert not Choices([0.0, 0.0], 0).at_bound(0)


def test_a_point_has_no_density() -> None:
    point = Point(np.array([1.0]))
    assert math.isnan(point.log_prob(point.mode()))
    assert point.sample(np.random.default_rng(0)) is point.mode()

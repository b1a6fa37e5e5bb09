"""The log-densities are densities: they integrate to one, in the middle and in the tails."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from offrl.collect.densities import (
    FewCoordinates,
    UniformActions,
    log_normal_mass,
    truncated_normal_log_density,
    truncated_normal_sample,
)
from offrl.errors import ConfigError

floats = st.floats(-3.0, 3.0)
stds = st.floats(0.05, 20.0)


def mass(log_density: Callable[[float], Any], low: float, high: float, peak: float) -> float:
    points = [p for p in (peak,) if low < p < high]
    return integrate.quad(
        lambda x: float(np.exp(log_density(x))), low, high, points=points, limit=200
    )[0]


class TestTheTruncatedNormal:
    @given(mean=floats, std=stds)
    def test_integrates_to_one_between_its_bounds(self, mean: float, std: float) -> None:
        total = mass(
            lambda x: truncated_normal_log_density(x, mean, std, -1.0, 2.0), -1.0, 2.0, mean
        )
        assert total == pytest.approx(1.0, abs=1e-6)

    def test_a_density_that_is_not_renormalised_would_be_seen(self) -> None:
        total = mass(lambda x: stats.norm.logpdf(x, 1.8, 0.5), -1.0, 2.0, 1.8)
        assert abs(total - 1.0) > 0.1

    @given(mean=floats, std=st.floats(0.2, 5.0), x=st.floats(-1.0, 2.0))
    def test_agrees_with_scipy_where_scipy_is_sound(
        self, mean: float, std: float, x: float
    ) -> None:
        a, b = (-1.0 - mean) / std, (2.0 - mean) / std
        expected = stats.truncnorm.logpdf(x, a, b, loc=mean, scale=std)
        ours = truncated_normal_log_density(x, mean, std, -1.0, 2.0)
        assert float(ours) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)

    def test_is_minus_infinity_outside_its_bounds(self) -> None:
        density = truncated_normal_log_density([-1.01, 2.01], 0.0, 1.0, -1.0, 2.0)
        assert density.tolist() == [-np.inf, -np.inf]

    @pytest.mark.parametrize("a", [5.0, 50.0, 500.0, -500.0, -5.0, 0.0])
    def test_the_mass_of_an_open_tail_is_exact(self, a: float) -> None:
        assert float(log_normal_mass(a, np.inf)) == pytest.approx(
            float(special.log_ndtr(-a)), rel=1e-12, abs=1e-15
        )

    @pytest.mark.parametrize("a", [-40.0, -1.0, 0.0, 0.3, 8.0, 300.0])
    @pytest.mark.parametrize("width", [1e-12, 1e-9, 1e-6])
    def test_the_mass_of_a_narrow_interval_is_its_width_times_the_density(
        self, a: float, width: float
    ) -> None:
        b = a + width
        middle, exact = 0.5 * (a + b), b - a
        expected = np.log(exact) + stats.norm.logpdf(middle)
        assert float(log_normal_mass(a, b)) == pytest.approx(float(expected), rel=1e-9)

    @pytest.mark.parametrize("a", [-20.0, -2.0, 0.5, 3.0, 30.0])
    def test_the_two_ways_of_taking_the_mass_meet(self, a: float) -> None:
        width = 1e-3 / (1.0 + abs(a))
        narrow = log_normal_mass(a, a + 0.999 * width)
        wide = log_normal_mass(a, a + 1.01 * width)
        slope = stats.norm.logpdf(a)
        steps = np.log(1.01 / 0.999) - 0.5 * a * (1.01 - 0.999) * width
        assert np.isfinite(slope)
        assert float(wide - narrow) == pytest.approx(float(steps), abs=1e-7)

    def test_samples_follow_the_density(self) -> None:
        rng = np.random.default_rng(0)
        draws = truncated_normal_sample(np.full(20_000, 1.8), 0.5, -1.0, 2.0, rng)
        a, b = (-1.0 - 1.8) / 0.5, (2.0 - 1.8) / 0.5
        assert stats.kstest(draws, stats.truncnorm(a, b, loc=1.8, scale=0.5).cdf).pvalue > 1e-3
        assert stats.kstest(draws, stats.norm(1.8, 0.5).cdf).pvalue < 1e-6

    @pytest.mark.parametrize("mean", [-60.0, 60.0])
    def test_samples_of_a_mean_far_outside_stay_inside(self, mean: float) -> None:
        draws = truncated_normal_sample(
            np.full(100, mean), 0.5, -1.0, 1.0, np.random.default_rng(0)
        )
        assert ((draws >= -1.0) & (draws <= 1.0)).all()
        assert np.abs(draws - np.sign(mean)).max() < 0.1


class TestFewCoordinates:
    low, high = np.array([-1.0, -2.0, 0.0]), np.array([2.0, 2.0, 0.5])

    @given(mean=st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3), std=stds)
    def test_are_drawn_and_scored_to_the_last_bit_as_arrays_are(
        self, mean: list[float], std: float
    ) -> None:
        few = FewCoordinates(std, self.low, self.high)
        masses = few.masses(mean)
        if masses is None:
            return
        drawn = few.draw(mean, masses, np.random.default_rng(0))
        rng = np.random.default_rng(0)
        expected = truncated_normal_sample(mean, std, self.low, self.high, rng)
        assert drawn == expected.tolist()
        density = truncated_normal_log_density(drawn, mean, std, self.low, self.high)
        assert few.log_density(drawn, mean, masses) == float(density.sum())

    def test_leave_what_needs_care_to_arrays(self) -> None:
        assert FewCoordinates(1.0, self.low, self.high).masses([0.0, 0.0, 0.0]) is not None
        assert FewCoordinates(0.01, self.low, self.high).masses([0.0, 0.0, 0.0]) is None
        assert FewCoordinates(1e5, self.low, self.high).masses([0.0, 0.0, 0.0]) is None


class TestUniformActions:
    def test_the_density_of_a_box_is_one_over_its_volume(self) -> None:
        box = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 3.0], np.float32))
        assert UniformActions(box).log_density == pytest.approx(-np.log(6.0))

    def test_the_probability_of_a_choice_is_one_over_n(self) -> None:
        uniform = UniformActions(spaces.Discrete(5, start=2))
        draws = uniform.block(2000, np.random.default_rng(0))
        assert uniform.log_density == pytest.approx(-np.log(5.0))
        assert stats.chisquare(np.bincount(draws)[2:]).pvalue > 1e-3
        assert min(draws) == 2

    def test_whole_number_boxes_count_their_values(self) -> None:
        uniform = UniformActions(spaces.Box(-1, 2, (1,), np.int32))
        draws = np.array(uniform.block(4000, np.random.default_rng(0)))
        assert uniform.log_density == pytest.approx(-np.log(4.0))
        assert draws.dtype == np.int32
        assert stats.chisquare(np.bincount(draws[:, 0] + 1)).pvalue > 1e-3

    def test_actions_without_bounds_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="need bounds"):
            UniformActions(spaces.Box(-np.inf, np.inf, (1,)))

    def test_a_space_of_another_kind_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="MultiDiscrete"):
            UniformActions(spaces.MultiDiscrete([2, 2]))

"""Intervals: hand-worked numbers, and the cases that have none."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from offrl.errors import ConfigError
from offrl.evaluation.statistics import deviation, interval, mean

ONE_TO_FIVE = (1.0367568385224393, 4.9632431614775605)
floats = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


def test_the_interval_of_one_to_five_is_the_two_sided_student_t() -> None:
    assert interval([1, 2, 3, 4, 5]) == pytest.approx(ONE_TO_FIVE, abs=1e-9)


def test_the_one_sided_quantile_would_not_pass() -> None:
    half = stats.t.ppf(0.95, 4) * math.sqrt(2.5) / math.sqrt(5)
    wrong = (3 - half, 3 + half)
    assert wrong == pytest.approx((1.492556680935308, 4.507443319064692), abs=1e-9)
    assert interval([1, 2, 3, 4, 5]) != pytest.approx(wrong, abs=0.1)


def test_the_standard_deviation_has_one_less_below_the_line() -> None:
    assert deviation([1, 2, 3, 4, 5]) == pytest.approx(math.sqrt(2.5), abs=1e-15)


def test_one_value_has_no_interval_and_no_deviation() -> None:
    assert interval([3.0]) is None
    assert deviation([3.0]) is None
    assert interval([]) is None


@given(value=floats, n=st.integers(2, 40))
def test_equal_values_have_an_interval_of_zero_width(value: float, n: int) -> None:
    assert interval([value] * n) == (value, value)
    assert mean([value] * n) == value
    assert deviation([value] * n) == 0.0


@given(values=st.lists(floats, min_size=2, max_size=30), level=st.sampled_from([0.5, 0.9, 0.99]))
def test_the_interval_holds_the_mean_and_agrees_with_scipy(
    values: list[float], level: float
) -> None:
    found = interval(values, level)
    assert found is not None
    assert found[0] <= mean(values) <= found[1]
    if min(values) < max(values):
        scale = stats.sem(values)
        slow = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=scale)
        assert found == pytest.approx(slow, rel=1e-9, abs=1e-9 * max(1.0, np.abs(values).max()))


def test_values_that_are_not_finite_have_no_interval() -> None:
    with pytest.raises(ConfigError, match="not finite"):
        interval([1.0, math.nan])


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -0.1])
def test_a_level_outside_zero_and_one_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        interval([1.0, 2.0], level)


def test_scipy_is_not_imported_until_an_interval_is_asked_for() -> None:
    code = (
        "import sys, offrl.evaluation.statistics as s; assert 'scipy' not in sys.modules;"
        " s.interval([1.0, 2.0]); assert 'scipy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

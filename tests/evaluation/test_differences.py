"""Differences of two sides: classic tests as special cases, power by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from offrl.errors import ConfigError
from offrl.evaluation.differences import paired, seeds_needed, unpaired

numbers = st.lists(st.floats(-100, 100).map(lambda v: round(v, 3)), min_size=2, max_size=9)


def by_seed(values: object) -> dict[str, dict[int, float]]:
    return {"t": dict(enumerate(np.asarray(values, float).tolist()))}


def test_one_task_paired_is_students_paired_t() -> None:
    a, b = np.array([3.0, 5, 4, 9, 7]), np.array([2.0, 3, 1, 5, 2])
    found = paired(by_seed(a), by_seed(b))
    assert found.estimate == 3.0
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    # Differences 1 ... 5: the worked interval of one to five.
    assert sorted((a - b).tolist()) == [1, 2, 3, 4, 5]
    assert found.interval == pytest.approx((1.0367568385224393, 4.9632431614775605))
    assert found.apart


@given(a=numbers, b=numbers)
def test_one_task_unpaired_is_welchs_t(a: list[float], b: list[float]) -> None:
    found = unpaired({"t": a}, {"t": b})
    assert found.estimate == pytest.approx(np.mean(a) - np.mean(b))
    if np.ptp(a) > 1e-3 and np.ptp(b) > 1e-3:
        expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


def test_what_both_sides_owe_to_their_seed_cancels_when_they_are_paired() -> None:
    rng = np.random.default_rng(0)
    seed = rng.normal(0, 10, 8)
    a, b = seed + 2 + rng.normal(0, 0.5, 8), seed + rng.normal(0, 0.5, 8)
    apart = paired(by_seed(a), by_seed(b))
    unknown = unpaired({"t": a.tolist()}, {"t": b.tolist()})
    assert apart.apart
    assert not unknown.apart
    assert apart.estimate == pytest.approx(unknown.estimate)


def test_only_seeds_that_both_have_are_paired() -> None:
    a = {"t": {0: 1.0, 1: 2.0, 7: 100.0}}
    b = {"t": {1: 1.0, 0: 0.5, 9: -100.0}}
    found = paired(a, b)
    assert found.estimate == 0.75
    assert found.n == (2,)
    with pytest.raises(ConfigError, match="share no seed"):
        paired({"t": {0: 1.0}}, {"t": {1: 1.0}})


def test_tasks_count_alike_whatever_their_seeds() -> None:
    a = {"x": {0: 2.0, 1: 4.0}, "y": {s: 10.0 + s for s in range(8)}}
    b = {"x": {0: 1.0, 1: 1.0}, "y": dict.fromkeys(range(8), 10.0)}
    assert paired(a, b).estimate == (2.0 + 3.5) / 2


def test_a_single_seed_has_a_difference_and_no_interval() -> None:
    found = paired({"t": {0: 3.0}}, {"t": {0: 1.0}})
    assert (found.estimate, found.interval, found.apart) == (2.0, None, False)
    assert found.needed() is None


def test_sides_without_any_spread_have_an_interval_of_no_width() -> None:
    found = paired(by_seed([5.0, 5.0]), by_seed([4.0, 4.0]))
    assert found.interval == (1.0, 1.0)
    assert found.apart
    assert found.needed() == 2
    same = paired(by_seed([5.0, 5.0]), by_seed([5.0, 5.0]))
    assert not same.apart
    assert same.needed() is None


@pytest.mark.parametrize("tasks", [1, 3])
def test_intervals_hold_the_truth_as_often_as_they_say(tasks: int) -> None:
    rng, hits, trials = np.random.default_rng(1), 0, 1500
    for _ in range(trials):
        a = {str(t): dict(enumerate(rng.normal(1.0, 1.0 + t, 5))) for t in range(tasks)}
        b = {str(t): dict(enumerate(rng.normal(0.0, 1.0, 5))) for t in range(tasks)}
        bounds = paired(a, b).interval
        assert bounds is not None
        hits += bounds[0] <= 1.0 <= bounds[1]
    assert 0.93 < hits / trials < 0.98


def test_the_seeds_needed_are_those_of_the_tables() -> None:
    # Cohen 1988, table 2.4.1: d = 0.5 at 5 % two-sided and power 0.80 takes 64 in each group;
    # d = 0.8 takes 26. Paired with d_z = 0.5: 34.
    assert seeds_needed(0.5, (1.0, 1.0)) == 64
    assert seeds_needed(0.8, (1.0, 1.0)) == 26
    assert seeds_needed(0.5, (1.0,)) == 34


@pytest.mark.parametrize(
    ("size", "variances", "tasks"), [(1.0, (1.0,), 1), (1.0, (1.0, 2.0), 1), (0.7, (1.0, 3.0), 2)]
)
def test_that_many_seeds_see_the_difference_as_often_as_asked_and_one_fewer_do_not(
    size: float, variances: tuple[float, ...], tasks: int
) -> None:
    n = seeds_needed(size, variances, tasks)
    assert n is not None
    rng, trials = np.random.default_rng(0), 1500

    def seen(count: int) -> float:
        hits = 0
        for _ in range(trials):
            parts = [rng.normal(0.0, math.sqrt(v), count) for v in variances]
            if tasks == len(variances):  # a pair's difference a task
                a = {str(t): dict(enumerate(size + part)) for t, part in enumerate(parts)}
                b = {str(t): dict.fromkeys(range(count), 0.0) for t in range(tasks)}
                hits += paired(a, b).apart
            else:
                hits += unpaired({"t": (size + parts[0]).tolist()}, {"t": parts[1].tolist()}).apart
        return hits / trials

    assert seen(n) == pytest.approx(0.82, abs=0.05)
    assert seen(max(2, n // 2)) < 0.75


@given(size=st.floats(0.05, 5), variance=st.floats(0.1, 10), more=st.floats(1.1, 3))
def test_a_smaller_difference_or_more_power_takes_more_seeds(
    size: float, variance: float, more: float
) -> None:
    n = seeds_needed(size, (variance,))
    fewer = seeds_needed(size * more, (variance,))
    stronger = seeds_needed(size, (variance,), power=0.95)
    assert n is not None
    assert fewer is not None
    assert stronger is not None
    assert fewer <= n <= stronger


def test_a_difference_that_no_number_of_seeds_sees_has_none() -> None:
    assert seeds_needed(1e-6, (1.0,)) is None
    with pytest.raises(ConfigError, match="needs no number"):
        seeds_needed(0.0, (1.0,))
    with pytest.raises(ConfigError, match="needs no number"):
        seeds_needed(1.0, (1.0,), power=1.0)


def test_sides_of_other_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="not of the same tasks: y"):
        paired({"x": {0: 1.0}, "y": {0: 1.0}}, {"x": {0: 1.0}})
    with pytest.raises(ConfigError, match="no scores"):
        unpaired({"x": []}, {"x": [1.0]})

"""Aggregates over runs and tasks: worked numbers, wrong variants that they tell apart, coverage."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from offrl.errors import ConfigError
from offrl.evaluation import aggregates
from offrl.evaluation.aggregates import (
    bootstrap,
    improvement,
    iqm,
    mean,
    median,
    optimality_gap,
    profile,
    strata,
)

SCORES = np.array([[10.0, 50, 90, 130], [20, 60, 80, 200]])  # [runs, tasks]
matrices = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 5)),
    elements=st.floats(-1e3, 1e3).map(lambda value: round(value, 3)),
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_two_runs_of_four_tasks_come_to_the_worked_numbers() -> None:
    tasks = strata(SCORES)
    assert float(iqm(tasks)) == 70.0
    assert float(mean(tasks)) == 80.0
    assert float(median(tasks)) == 70.0
    assert float(optimality_gap(tasks)) == 36.25
    assert profile(tasks, [60.0, 100.0]).tolist() == [0.5, 0.25]


def test_ties_are_half_a_win() -> None:
    x, y = strata({"t": [3.0, 1.0]}), strata({"t": [2.0, 1.0]})
    assert float(improvement(x, y)) == 0.625
    assert float(improvement(y, x)) == 0.375


def fractional(tasks: Any) -> float:
    """The quarters dropped by weight: of 6 runs one and a half at either end."""
    pooled = np.sort(np.concatenate(tasks))
    n, cut = len(pooled), len(pooled) / 4
    weights = np.clip(np.minimum(np.arange(n) + 1 - cut, n - np.arange(n) - cut), 0, 1)
    return float((weights * pooled).sum() / weights.sum())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param(iqm, fractional, id="runs dropped by a fraction"),
        pytest.param(iqm, lambda t: np.median(np.concatenate(t)), id="the median of all"),
        pytest.param(iqm, lambda t: np.mean([iqm((r,)) for r in t]), id="a mean of tasks' IQMs"),
        pytest.param(median, lambda t: np.median(np.concatenate(t)), id="median of runs"),
        pytest.param(
            median,
            lambda t: np.mean([np.median(runs) for runs in t]),
            id="a mean of tasks' medians",
        ),
        pytest.param(
            optimality_gap, lambda t: 100 - np.concatenate(t).mean(), id="gap not cut at zero"
        ),
        pytest.param(
            lambda t: profile(t, [60.0]),
            lambda t: [(np.concatenate(t) >= 60.0).mean()],
            id="profile not strict",
        ),
        pytest.param(
            lambda t: improvement(t, t[::-1]),
            lambda t: np.mean([(a[:, None] > b).mean() for a, b in zip(t, t[::-1], strict=True)]),
            id="ties as losses",
        ),
    ],
)
def test_a_wrong_variant_gives_another_number(
    right: Callable[[Any], Any], wrong: Callable[[Any], Any]
) -> None:
    tasks = strata({"a": [1.0, 20, 60, 60], "b": [60.0, 90, 300, 310], "c": [5.0, 7.0]})
    assert np.asarray(right(tasks)) != pytest.approx(np.asarray(wrong(tasks)), abs=1e-6)


@given(scores=matrices)
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores: np.ndarray) -> None:
    expected = stats.trim_mean(scores.ravel(), 0.25)
    assert float(iqm(strata(scores))) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(x=matrices, seed=st.integers(0, 5))
def test_who_wins_is_mann_whitneys_u_and_the_two_sides_add_up_to_one(
    x: np.ndarray, seed: int
) -> None:
    y = np.round(x + rng(seed).normal(size=x.shape), 0)
    both = strata(x), strata(y)
    u = [stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(*both, strict=True)]
    assert float(improvement(*both)) == pytest.approx(np.mean(u), abs=1e-12)
    assert float(improvement(*both) + improvement(*both[::-1])) == pytest.approx(1.0, abs=1e-12)
    assert float(improvement(both[0], both[0])) == pytest.approx(0.5, abs=1e-12)


@given(scores=matrices, shift=st.floats(-100, 100), scale=st.floats(0.1, 10))
def test_location_and_scale_pass_through(scores: np.ndarray, shift: float, scale: float) -> None:
    for statistic in (mean, median, iqm):
        plain = float(statistic(strata(scores)))
        moved = float(statistic(strata(scale * scores + shift)))
        assert moved == pytest.approx(scale * plain + shift, rel=1e-9, abs=1e-6)


def test_our_numbers_are_those_of_rliable() -> None:
    metrics = pytest.importorskip(
        "rliable.metrics", reason="rliable's whole does not run beside pandas 3; its metrics do"
    )
    scores, other = rng().normal(50, 30, (7, 6)), rng(1).normal(60, 30, (4, 6))
    tasks = strata(scores)
    assert float(iqm(tasks)) == pytest.approx(metrics.aggregate_iqm(scores))
    assert float(mean(tasks)) == pytest.approx(metrics.aggregate_mean(scores))
    assert float(median(tasks)) == pytest.approx(metrics.aggregate_median(scores))
    gap = metrics.aggregate_optimality_gap(scores, 100.0)
    assert float(optimality_gap(tasks)) == pytest.approx(gap)
    wins = metrics.probability_of_improvement(scores, other)
    assert float(improvement(tasks, strata(other))) == pytest.approx(wins)


def pooled(tasks: Any, generator: np.random.Generator, reps: int) -> np.ndarray:
    """The wrong resampling: all runs of all tasks in one urn."""
    everything = np.concatenate(tasks)
    drawn = everything[generator.integers(len(everything), size=(reps, len(everything)))]
    return np.quantile(drawn.mean(-1), [0.025, 0.975])


def test_runs_are_drawn_again_within_their_task_and_not_from_one_urn() -> None:
    # Two tasks far apart, no spread within: nothing is uncertain, unless the urn is one.
    tasks = strata({"easy": [100.0] * 5, "hard": [0.0] * 5})
    low, high = bootstrap(mean, tasks, rng=rng(), reps=500)
    assert (float(low), float(high)) == (50.0, 50.0)
    wrong = pooled(tasks, rng(), 500)
    assert wrong[0] < 30
    assert wrong[1] > 70


def test_a_bootstrap_of_the_mean_has_the_width_that_theory_gives() -> None:
    tasks = strata({"a": rng(1).normal(size=40), "b": rng(2).normal(3.0, 2.0, size=60)})
    low, high = bootstrap(mean, tasks, rng=rng(), reps=20_000)
    # Drawing again from n values has their variance with n below the line, not n - 1.
    error = math.sqrt(sum(runs.var(ddof=0) / len(runs) for runs in tasks)) / 2
    assert float(high - low) == pytest.approx(2 * 1.96 * error, rel=0.02)
    assert float(low + high) / 2 == pytest.approx(float(mean(tasks)), abs=0.05 * error)


def test_the_same_generator_gives_the_same_bounds_and_numpys_global_one_is_not_touched() -> None:
    tasks, other = strata(SCORES), strata(SCORES + 5)
    before = np.random.get_state(legacy=False)["state"]["key"].tolist()
    first = bootstrap(improvement, tasks, other, rng=rng(3), reps=300)
    again = bootstrap(improvement, tasks, other, rng=rng(3), reps=300)
    assert first == again
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before


def test_both_sides_are_drawn_independently() -> None:
    # The same runs on both sides: drawn together every resample would be a tie of a half.
    tasks = strata({"t": [1.0, 2.0, 3.0, 4.0]})
    low, high = bootstrap(improvement, tasks, tasks, rng=rng(), reps=2000)
    assert low < 0.3
    assert high > 0.7


def test_chunks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = strata({"a": rng(1).normal(size=6), "b": rng(2).normal(size=3)})
    whole = bootstrap(iqm, tasks, rng=rng(), reps=20_000)
    monkeypatch.setattr(aggregates, "_AT_ONCE", 900)  # a hundred rows of nine runs at a time
    parts = bootstrap(iqm, tasks, rng=rng(1), reps=20_000)
    assert [float(v) for v in parts] == pytest.approx([float(v) for v in whole], abs=0.05)


def test_a_profile_falls_from_one_to_nothing_and_lies_within_its_band() -> None:
    tasks = strata(rng().normal(50, 20, (8, 3)))
    thresholds = np.linspace(-100, 200, 31)
    curve = profile(tasks, thresholds)
    low, high = bootstrap(lambda t: profile(t, thresholds), tasks, rng=rng(), reps=500)
    assert curve[0] == 1.0
    assert curve[-1] == 0.0
    assert (np.diff(curve) <= 0).all()
    assert (low <= curve).all()
    assert (curve <= high).all()


def test_tasks_may_have_different_numbers_of_runs_and_count_alike_in_the_mean() -> None:
    tasks = strata({"a": [0.0] * 9, "b": [10.0]})
    assert float(mean(tasks)) == 5.0
    assert float(profile(tasks, [5.0])[0]) == 0.5
    assert float(iqm(tasks)) == 0.0  # pooled: eight of ten runs are 0


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({}, "no scores"),
        ({"t": []}, "has no runs"),
        ({"t": [1.0, math.nan]}, "not finite"),
        (np.zeros(3), "no matrix"),
    ],
)
def test_scores_that_say_nothing_are_refused(scores: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        strata(scores)


def test_sides_of_other_tasks_and_senseless_bootstraps_are_refused() -> None:
    tasks = strata(SCORES)
    with pytest.raises(ConfigError, match="held against"):
        improvement(tasks, tasks[:2])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        bootstrap(mean, tasks, rng=rng(), level=95)
    with pytest.raises(ConfigError, match="no interval"):
        bootstrap(mean, tasks, rng=rng(), reps=0)


@pytest.mark.slow
def test_percentile_intervals_of_few_runs_cover_less_than_they_say() -> None:
    covered = dict.fromkeys((3, 5, 10, 30), 0)
    for n in covered:
        for trial in range(1000):
            tasks = strata({"t": rng(trial).normal(size=n)})
            low, high = bootstrap(mean, tasks, rng=rng(trial), reps=1000)
            covered[n] += bool(low <= 0 <= high)
    shares = {n: count / 1000 for n, count in covered.items()}
    assert shares[3] < 0.82
    assert shares[5] < 0.90
    assert 0.92 < shares[30] < 0.97

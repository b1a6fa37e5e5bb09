"""Curves over seeds, by hand."""

from pathlib import Path

import judged_runs
import numpy as np
import pytest

from offrl.evaluation.results import TRIED
from offrl.evaluation.statistics import interval
from offrl.report.arms import gather
from offrl.report.charts import curves_chart
from offrl.report.curves import Curve, curves_by_arm, curves_of


def test_mean_and_band_are_those_of_the_seeds_at_each_step(tmp_path: Path):
    for seed, curve in enumerate(({10: 1.0, 20: 4.0}, {10: 3.0, 20: 8.0})):
        judged_runs.judged(tmp_path / str(seed), None, seeds=[seed], curve=curve)
    (arm,) = gather(tmp_path).arms
    found = curves_of(arm)[TRIED]
    assert found.steps == (10, 20)
    np.testing.assert_allclose(found.mean, [2.0, 6.0])
    low, high = found.band()
    for k, values in enumerate(([1.0, 3.0], [4.0, 8.0])):
        assert (low[k], high[k]) == pytest.approx(interval(values))


def test_a_seed_that_stopped_early_leaves_means_of_fewer_and_is_counted(tmp_path: Path):
    judged_runs.judged(tmp_path / "a", None, seeds=[0], curve={10: 1.0, 20: 5.0})
    judged_runs.judged(tmp_path / "b", None, seeds=[1], curve={10: 3.0})
    (arm,) = gather(tmp_path).arms
    found = curves_of(arm)[TRIED]
    assert found.n.tolist() == [2, 1]
    np.testing.assert_allclose(found.mean, [2.0, 5.0])
    assert np.isnan(found.band()[0]).tolist() == [False, True]


def test_a_long_curve_keeps_evenly_spaced_points_and_its_last(tmp_path: Path):
    judged_runs.judged(tmp_path / "a", None, curve={k: float(k) for k in range(2, 1003)})
    (arm,) = gather(tmp_path).arms
    found = curves_of(arm, most=11)[TRIED]
    assert found.steps == (2, 102, 202, 302, 402, 502, 602, 702, 802, 902, 1002)
    np.testing.assert_array_equal(found.mean, found.steps)


def test_without_returns_a_chart_opens_with_the_loss_that_most_arms_have(tmp_path: Path):
    for place, algo in enumerate(("bc", "iql")):
        run = judged_runs.judged(tmp_path / algo, None, algo=algo)
        extra = ",value/advantage" if place else ""
        (run / "seed_0" / "metrics.csv").write_text(f"step,policy/loss{extra}\n1,2.0,3.0\n")
    found = gather(tmp_path)
    chart = curves_chart(
        "x", found.arms[0].task, found.arms, curves_by_arm(found.arms), step="gradient steps"
    )
    assert chart is not None
    assert list(chart.metrics) == ["policy/loss", "value/advantage"]


def test_what_is_not_finite_is_left_out_of_what_a_chart_draws():
    curve = Curve("x", (1, 2), np.array([[1.0, 2.0], [np.nan, 4.0]]), (0, 1))
    told = curve.to_dict(each=True)
    assert told["each"][1] == [None, 4.0]
    assert told["low"][0] is None
    assert told["n"] == [1, 2]

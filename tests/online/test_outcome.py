"""Before, dip, recovery, after and regret, worked out by hand."""

import pytest

from offrl.evaluation.references import lookup
from offrl.online.outcome import Curve, outcome

STEPS = (0, 100, 200, 500, 1000)


def test_a_dip_and_the_way_back_are_found():
    found = outcome(Curve(STEPS, (50.0, 20.0, 40.0, 55.0, 90.0)), None)
    assert found["before"] == 50
    assert found["after"] == 90
    assert found["dip"] == -30
    assert found["early_dip"] == -30
    assert found["recovered_at"] == 500
    assert found["regret_evaluations"] is None


def test_a_policy_that_never_falls_has_no_dip():
    found = outcome(Curve(STEPS, (50.0, 60.0, 70.0, 80.0, 90.0)), None)
    assert found["dip"] == 0
    assert found["recovered_at"] == 0


def test_a_policy_that_never_comes_back_says_so():
    found = outcome(Curve(STEPS, (50.0, 60.0, 40.0, 20.0, 30.0)), None)
    assert found["dip"] == -30
    assert found["early_dip"] == 0
    assert found["recovered_at"] is None


def test_regret_is_the_shortfall_from_the_expert_by_both_definitions():
    reference = lookup(env_id="CartPole-v1")
    assert reference is not None
    expert, random = reference.expert, reference.random
    half = (expert + random) / 2
    curve = Curve((0, 10), (random, expert), lived=(random, half), episodes=(3, 1))
    found = outcome(curve, reference)
    assert found["regret_evaluations"] == pytest.approx(0.5)
    assert found["regret_episodes"] == pytest.approx((3 * 1 + 0.5) / 4)

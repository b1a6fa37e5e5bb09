"""`offrl.ope.estimate` on arrays: what is found, what is refused and why, what is decided."""

import json
import math
from typing import Any

import numpy as np
import pytest
from two_steps import EXACT_Q, J_MU, J_PI, MU, PI

from offrl.errors import ConfigError
from offrl.ope import Findings, estimate

MODELLED = ("dm", "dr", "wdr", "magic")


def two_step_log(n: int = 400, seed: int = 0, candidate: np.ndarray = PI) -> dict[str, Any]:
    """Columns of n episodes of H2, with the exact Q."""
    actions = np.random.default_rng(seed).integers(2, size=(n, 2))
    with np.errstate(divide="ignore"):
        log_prob = np.log(candidate[actions])
    return {
        "reward": (actions * [1.0, 2.0]).reshape(-1),
        "log_prob": log_prob.reshape(-1),
        "behavior_log_prob": np.full(2 * n, math.log(MU)),
        "terminated": np.tile([False, True], n),
        "q": EXACT_Q[np.arange(2), actions].reshape(-1),
        "v": np.tile(EXACT_Q @ PI, n),
        "discount": 0.9,
    }


def bandit_log(n: int = 3000, seed: int = 0) -> dict[str, Any]:
    """Three arms worth 1, 0 and 2, logged with (.5, .3, .2); the candidate takes (.1, .2, .7)."""
    rng = np.random.default_rng(seed)
    mu, pi, worth = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7]), np.array([1.0, 0.0, 2.0])
    arm = rng.choice(3, size=n, p=mu)
    return {
        "reward": worth[arm] + rng.normal(0, 0.3, n),
        "log_prob": np.log(pi[arm]),
        "behavior_log_prob": np.log(mu[arm]),
        "q": worth[arm] + 0.5,
        "v": np.full(n, worth @ pi + 0.5),
    }


def holds(findings: Findings, name: str, value: float) -> bool:
    low, high = findings.estimates[name].bounds or (np.nan, np.nan)
    return bool(low - 1e-9 <= value <= high + 1e-9)


class TestEpisodesOfSeveralSteps:
    def test_every_estimator_holds_the_true_value(self):
        found = estimate(**two_step_log())
        assert set(found.estimates) == {"ois", "pdis", "wis", "wpdis", *MODELLED}
        for name in found.estimates:
            assert holds(found, name, J_PI), name
        low, high = found.behavior.bounds or (np.nan, np.nan)
        assert low <= J_MU <= high
        assert found.discount == 0.9

    def test_uplifts_are_paired(self):
        found = estimate(**two_step_log())
        for name, uplift in found.uplifts.items():
            value, base = found.estimates[name].value, found.behavior.value
            assert value is not None
            assert base is not None
            assert uplift.value == pytest.approx(value - base)
        dr, value = found.uplifts["pdis"].bounds, found.estimates["pdis"].bounds
        assert dr is not None
        assert value is not None
        assert dr[1] - dr[0] < value[1] - value[0]  # both rise with the good actions

    def test_judging_the_behaviour_itself_finds_no_uplift_at_all(self):
        log = two_step_log()
        log["log_prob"] = log["behavior_log_prob"]
        found = estimate(**{k: log[k] for k in log if k not in ("q", "v")})
        for name in ("ois", "pdis", "wis", "wpdis"):
            uplift = found.uplifts[name]
            assert uplift.value == pytest.approx(0, abs=1e-12)
            assert uplift.bounds == pytest.approx((0, 0), abs=1e-12)
        assert found.weights is not None
        assert found.weights.ess == pytest.approx(400)

    def test_the_rounding_of_a_network_is_no_lost_support(self):
        log = two_step_log()
        log["log_prob"] = log["behavior_log_prob"] - 1e-7
        found = estimate(**{k: log[k] for k in log if k not in ("q", "v")}, min_uplift=1.0)
        assert found.weights is not None
        assert found.weights.lost_from is None
        assert found.decision is not None
        assert found.decision.verdict == "hold"

    def test_what_the_weights_say(self):
        found = estimate(**two_step_log(2000))
        weights = found.weights
        assert weights is not None
        second = float(np.mean((PI / MU) ** 2))  # E[rho^2], and ESS/n is 1 over its power
        assert weights.ess / 2000 == pytest.approx(1 / second**2, rel=0.1)
        assert weights.ess_per_step == pytest.approx((2000 / second, 2000 / second**2), rel=0.1)
        assert weights.mean_per_step == pytest.approx((1, 1), rel=0.1)
        assert weights.largest_share == pytest.approx(2.56 / 2000, rel=0.1)
        assert weights.lost_from is None

    def test_actions_that_the_log_never_holds_are_told(self):
        log = two_step_log()
        log["log_prob"] = np.where(np.arange(800) % 2, log["log_prob"] - 1, log["log_prob"])
        found = estimate(**log, min_uplift=0.0)
        assert found.weights is not None
        assert found.weights.lost_from == 1
        assert any("Support is lost from step 1" in note for note in found.notes)
        assert found.decision is not None
        assert found.decision.verdict == "cannot-tell"

    def test_rare_episodes_are_told_apart_from_actions_that_the_log_never_holds(self):
        rng = np.random.default_rng(0)
        n, steps = 400, 60
        taken = rng.random(n * steps) < 0.5  # a fair coin's, the candidate's nine times in ten
        log: dict[str, Any] = {
            "reward": np.ones(n * steps),
            "log_prob": np.log(np.where(taken, 0.9, 0.1)),
            "behavior_log_prob": np.full(n * steps, np.log(0.5)),
            "terminated": np.tile(np.arange(steps) == steps - 1, n),
        }
        found = estimate(**log, min_uplift=-100.0, min_ess=0.0)
        assert found.weights is not None
        assert found.weights.lost_from is None
        thin = found.weights.thin_from
        assert thin is not None
        assert found.weights.mean_per_step[thin] < 0.9
        assert found.weights.mean_ratio == pytest.approx(1, abs=0.05)
        assert any("too few episodes act as the candidate does" in note for note in found.notes)
        assert found.decision is not None
        assert found.decision.verdict == "cannot-tell"
        assert "too few episodes" in found.decision.reason
        assert "Many times as many episodes" in found.decision.would_settle
        page = found.to_dict()
        assert (page["thin_from_step"], page["lost_support_from_step"]) == (thin, None)

    def test_the_behaviour_in_float32_is_still_the_behaviour(self):
        chance = np.full(400, 1 / 3)
        found = estimate(
            np.ones(400), np.log(chance).astype(np.float32) - 3e-8, np.log(chance), min_uplift=-1.0
        )
        assert found.weights is not None
        assert (found.weights.lost_from, found.weights.thin_from) == (None, None)
        assert found.decision is not None
        assert found.decision.verdict == "ship"

    def test_one_episode_has_no_interval_and_no_verdict(self):
        found = estimate([1.0], [0.0], [0.0], min_ess=0.0, min_uplift=0.0)
        assert found.estimates["ips"].bounds is None
        assert found.decision is not None
        assert found.decision.verdict == "cannot-tell"

    def test_without_a_model_its_estimators_are_refused_and_the_others_are_not(self):
        log = {k: v for k, v in two_step_log().items() if k not in ("q", "v")}
        found = estimate(**log)
        assert {n for n, e in found.estimates.items() if e.refused} == set(MODELLED)

    def test_below_five_effective_episodes_importance_estimates_are_refused(self):
        rng = np.random.default_rng(0)
        n, steps = 60, 30
        log: dict[str, Any] = {
            "reward": np.ones(n * steps),
            "log_prob": rng.normal(-1, 1, n * steps),
            "behavior_log_prob": np.full(n * steps, -1.0),
            "terminated": np.tile(np.arange(steps) == steps - 1, n),
            "q": np.zeros(n * steps),
            "v": np.zeros(n * steps),
        }
        found = estimate(**log, min_uplift=0.0)
        assert found.ess is not None
        assert found.ess < 5
        for name, one in found.estimates.items():
            assert (one.refused is None) == (name == "dm"), name
            assert (one.value is None) == (name != "dm"), name
        assert "effective of 60 episodes" in (found.estimates["wis"].refused or "")
        kept = estimate(**log, min_ess=0.0).estimates["wis"]
        assert kept.value is not None

    def test_bounds_need_a_range_that_was_known_before(self):
        log = two_step_log()
        assert set(estimate(**log).estimates["ois"].intervals) == {"bootstrap", "student-t"}
        found = estimate(**log, reward_range=(0, 2), horizon=2).estimates["ois"]
        assert set(found.intervals) == {"bootstrap", "student-t", "bernstein", "hoeffding"}
        widths = {name: high - low for name, (low, high) in found.intervals.items()}
        assert widths["student-t"] < widths["bernstein"]
        assert found.by == "bootstrap"

    def test_a_ratio_of_sums_gets_no_student_t(self):
        for name in ("wis", "wpdis", "wdr", "magic"):
            assert set(estimate(**two_step_log()).estimates[name].intervals) == {"bootstrap"}

    def test_all_of_it_is_json(self):
        found = json.loads(json.dumps(estimate(**two_step_log(), min_uplift=0.1).to_dict()))
        assert {"value", "lo", "hi"} <= set(found["estimates"]["wis"])
        assert {"ess", "discount", "behavior_value", "decision"} <= set(found)


class TestEpisodesThatWereCut:
    def cut(self) -> dict[str, Any]:
        log = two_step_log(200)
        flags = np.tile([False, True], 200)
        odd = np.repeat(np.arange(200) % 2 == 1, 2)
        return {**log, "terminated": flags & ~odd, "truncated": flags & odd}

    def test_are_never_dropped_or_taken_for_ended(self):
        with pytest.raises(ConfigError, match="100 of 200 episodes were cut off"):
            estimate(**self.cut())

    def test_are_worth_what_would_have_followed(self):
        future = np.where(np.arange(200) % 2 == 1, 10.0, np.nan)
        found = estimate(**self.cut(), final_v=future, behavior_final_v=future)
        plain = estimate(**two_step_log(200))
        assert found.truncated == 100
        assert found.behavior.value == pytest.approx((plain.behavior.value or 0) + 0.81 * 5)
        more = (found.estimates["pdis"].value or 0) - (plain.estimates["pdis"].value or 0)
        assert more == pytest.approx(0.81 * 5, rel=0.2)  # times weights whose mean is 1

    def test_the_behaviours_own_futures_are_asked_for(self):
        found = estimate(**self.cut(), final_v=np.ones(200))
        assert any("behavior_final_v" in note for note in found.notes)


class TestDecisionsOfOneStep:
    def test_have_their_own_estimators_and_hold_the_truth(self):
        found = estimate(**bandit_log(), clip=10.0)
        assert set(found.estimates) == {"ips", "snips", "clipped-ips", "dm", "dr", "switch-dr"}
        for name in ("ips", "snips", "clipped-ips", "dr", "switch-dr"):
            assert holds(found, name, 1.5), name
        assert found.estimates["dm"].value == pytest.approx(2.0)  # its Q is half too high
        assert found.disagreements  # and said to be

    def test_by_hand(self):
        found = estimate(
            reward=[1.0, 2.0, 4.0, 8.0],
            log_prob=np.log([0.2, 0.4, 0.8, 0.1]),
            behavior_log_prob=np.log([0.2, 0.8, 0.2, 0.1]),
            q=[1.0, 1.0, 1.0, 1.0],
            v=[2.0, 2.0, 2.0, 2.0],
            clip=3.0,
            min_ess=0.0,
        )
        weight, reward = np.array([1, 0.5, 4, 1]), np.array([1.0, 2, 4, 8])
        expected = {
            "ips": (weight * reward).mean(),
            "snips": (weight * reward).sum() / weight.sum(),
            "clipped-ips": (np.minimum(weight, 3) * reward).mean(),
            "dm": 2.0,
            "dr": (2 + weight * (reward - 1)).mean(),
            "switch-dr": (2 + np.where(weight <= 3, weight, 0) * (reward - 1)).mean(),
        }
        for name, value in expected.items():
            assert found.estimates[name].value == pytest.approx(value, abs=1e-12), name

    def test_the_names_of_longer_episodes_mean_the_same_here(self):
        log = bandit_log(100)
        found = estimate(**log, estimators=["wis", "ois"])
        assert list(found.estimates) == ["snips", "ips"]

    def test_an_unknown_estimator_is_named_with_what_there_is(self):
        with pytest.raises(ConfigError, match=r"no estimator 'wiss'.*snips"):
            estimate(**bandit_log(50), estimators=["wiss"])


class TestDecision:
    def test_ship_where_the_whole_interval_is_above(self):
        found = estimate(**bandit_log(), estimators=["dr", "snips"], min_uplift=0.2).decision
        assert found is not None
        assert (found.verdict, found.estimator) == ("ship", "dr")
        assert found.bounds is not None
        assert found.bounds[0] >= 0.2

    def test_hold_where_it_is_below(self):
        found = estimate(**bandit_log(), estimators=["dr", "snips"], min_uplift=3.0).decision
        assert found is not None
        assert found.verdict == "hold"

    def test_a_trial_has_two_episodes_at_least(self):
        found = estimate(**bandit_log(), estimators=["snips"], min_uplift=100.0).decision
        assert found is not None
        assert "2 episodes with the candidate and 2 without" in found.would_settle

    def test_cannot_tell_between_and_how_many_episodes_would(self):
        log = bandit_log(200)
        uplift = estimate(**log, estimators=["snips"]).uplifts["snips"]
        assert uplift.bounds is not None
        asked = uplift.bounds[0] + 0.3 * (uplift.bounds[1] - uplift.bounds[0])
        found = estimate(**log, estimators=["snips"], min_uplift=asked).decision
        assert found is not None
        assert found.verdict == "cannot-tell"
        assert found.would_settle.startswith("About ")
        needed = int(found.would_settle.split()[1])
        assert needed > 200
        more = estimate(**bandit_log(3 * needed), estimators=["snips"], min_uplift=asked).decision
        assert more is not None
        assert more.verdict == "ship"

    def test_a_model_alone_never_ships(self):
        found = estimate(**bandit_log(), estimators=["dm"], min_uplift=0.2).decision
        assert found is not None
        assert found.verdict == "cannot-tell"
        assert "fitted Q alone" in found.reason

    def test_a_disagreement_that_matters_stops_it(self):
        log = bandit_log()
        log["v"], log["q"] = log["v"] - 3, log["q"] - 3  # Q is far too low, and DR corrects it
        found = estimate(**log, estimators=["dr", "dm"], min_uplift=0.2)
        assert found.disagreements
        assert found.decision is not None
        assert found.decision.verdict == "cannot-tell"
        assert "dm disagrees" in found.decision.reason

    def test_says_what_it_assumes(self):
        found = estimate(**bandit_log(), min_uplift=0.2).decision
        assert found is not None
        assert any("takes now and then" in text for text in found.assumptions)


class TestArraysThatDoNotFit:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"log_prob": np.zeros(3)}, "log_prob has the shape"),
            ({"behavior_log_prob": np.full(100, -np.inf)}, "behavior_log_prob is -inf in row 0"),
            ({"log_prob": np.full(100, np.nan)}, "log_prob is nan in row 0"),
            ({"reward": np.full(100, np.inf)}, "reward is inf in row 0"),
            ({"q": None}, "Give both"),
            ({"discount": 1.5}, "from 0 to 1"),
            ({"level": 2.0}, "'level' must be"),
            ({"reward": []}, "no steps"),
            ({"reward": ["a"] * 100}, "not an array of numbers"),
        ],
    )
    def test_are_named(self, change: dict[str, Any], says: str):
        with pytest.raises(ConfigError, match=says):
            estimate(**{**bandit_log(100), **change})

"""What a critic says is held against what any policy could earn, in words, once, for every seed."""

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_runs import saved_dataset, settings_of

from offrl import workers
from offrl.algos import get
from offrl.data.dataset import Dataset
from offrl.events import Event, Trained, Warned
from offrl.learner import Learner
from offrl.testing import Trial
from offrl.training import fit
from offrl.watch import Earnings, Span, Watch

# On the toy data, which earned 4.9 at most and allows 100, seed 0 climbs to 900 and falls again,
# and seed 1 climbs to 17.
WILD: dict[str, Any] = {"lr": 0.3, "target_rate": 0.9, "seeds": (0, 1)}


def log(*episodes: tuple[list[float], bool]):
    """Transitions of episodes of rewards that terminate or are cut off."""
    reward = np.concatenate([r for r, _ in episodes])
    last = np.concatenate([np.arange(len(r)) == len(r) - 1 for r, _ in episodes])
    ends = np.concatenate([np.full(len(r), end) for r, end in episodes])
    return Dataset.from_arrays(
        np.zeros((len(reward) + len(episodes), 1), np.float32),
        np.zeros(len(reward), np.int64),
        reward,
        last & ends,
        last & ~ends,
        action_space=gym.spaces.Discrete(2),
    ).transitions


def spans(found: Earnings):
    return [pytest.approx(v, abs=1e-9) for v in (*found.possible, *found.logged)]


def test_steps_that_go_on_earn_their_reward_for_ever_and_terminal_ones_once():
    found = Earnings.of(log(([-1.0, 2.0, 50.0], True), ([1.0, -3.0], True)), 0.9)
    assert spans(found) == [-10.0, 50.0, -3.0, 50.0]  # of going on, -1 or 2 / (1 - 0.9)


def test_a_log_of_costs_has_nothing_as_the_best_and_one_of_gains_as_the_worst():
    assert Earnings.of(log(([-1.0, -2.0], False)), 0.5).possible == Span(-4.0, 0.0)
    assert Earnings.of(log(([1.0, 2.0], False)), 0.5).possible == Span(0.0, 4.0)


def test_without_a_discount_there_is_no_end_to_what_can_be_earned():
    found = Earnings.of(log(([-1.0, 2.0], False)), 1.0)
    assert found.possible == Span(-math.inf, math.inf)
    assert Earnings.of(log(([0.0, 1.0], True)), 1.0).possible == Span(0.0, 1.0)
    watch = Watch(lambda: found)
    assert watch.see(0, 1, {"critic/q_mean": 1e9}) is None
    assert json.loads(json.dumps(watch.page()))["values"]["possible"] == [None, None]


EPISODES = st.lists(
    st.tuples(st.lists(st.floats(-10, 10), min_size=1, max_size=8), st.booleans()),
    min_size=1,
    max_size=5,
)


@given(EPISODES, st.floats(0, 0.99))
def test_every_logged_return_is_possible(episodes: Any, discount: float):
    found = Earnings.of(log(*episodes), discount)
    assert found.possible.low <= found.logged.low + 1e-9
    assert found.possible.high >= found.logged.high - 1e-9


def watching(low: float = 0.0, high: float = 100.0):
    return Watch(lambda: Earnings(Span(low, high), Span(low / 2, high / 2), 0.99))


def test_a_mean_beyond_what_can_be_earned_is_told_once_and_kept():
    watch = watching()
    assert watch.see(3, 10, {"policy/q_mean": 100.0, "policy/action_distance": 0.1}) is None
    said = watch.see(3, 20, {"policy/q_mean": 150.0, "policy/action_distance": 0.8})
    assert said is not None
    assert "Seed 3 at step 20 over-estimates: the mean value of the policy's actions is 150" in said
    assert "no policy can earn more than 100" in said
    assert "0.8 half ranges from the logged ones" in said
    assert watch.see(3, 30, {"policy/q_mean": 160.0}) is None
    (kept,) = watch.warnings()
    assert "Seed 3 at step 30 (first at step 20)" in kept


def test_one_that_comes_back_is_told_so():
    watch = watching()
    watch.see(0, 10, {"critic/q_mean": 500.0})
    watch.see(0, 20, {"critic/q_mean": 50.0})
    assert "over-estimated at step 10, and is within" in watch.warnings()[0]


def test_a_little_too_much_is_an_error_and_no_divergence():
    assert watching().see(0, 1, {"critic/q_mean": 104.0}) is None
    assert watching().see(0, 1, {"critic/q_mean": 106.0}) is not None


def test_more_than_the_log_ever_earned_is_doubted_of_a_policy_that_acts_unlike_it():
    for name in ("policy/action_distance", "policy/action_differs"):
        near = {"policy/q_mean": 60.0, name: 0.4}
        assert watching().see(0, 1, near) is None  # the log's best is 50
        said = watching().see(0, 1, near | {name: 0.6})
        assert said is not None
        assert "seems to over-estimate" in said
        assert "the log never earned more than 50" in said
        assert watching().see(0, 1, {"policy/q_mean": 54.0, name: 0.6}) is None
        assert watching().see(0, 1, near | {name: 0.6, "critic/bonus": 0.1}) is None


def test_of_costs_nothing_is_the_most_and_a_pessimist_is_left_alone():
    watch = watching(-100.0, 0.0)
    assert watch.see(0, 1, {"policy/q_mean": -150.0, "critic/q_abs_max": 190.0}) is None
    assert watch.see(1, 1, {"policy/q_mean": 15.0, "critic/q_abs_max": 20.0}) is not None


def test_single_values_that_run_away_are_told_in_either_direction():
    said = watching(-100.0, 50.0).see(0, 1, {"critic/q_mean": -90.0, "critic/q_abs_max": 250.0})
    assert said is not None
    assert "has run away: values reach 250 in size" in said


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_is_beyond_all(value: float):
    assert watching().see(0, 1, {"critic/q_mean": value}) is not None


def test_a_bonus_on_every_reward_widens_what_is_possible():
    metrics = {"policy/q_mean": 150.0, "critic/bonus": 0.5}  # 0.5 / (1 - 0.99) = 50
    assert watching().see(0, 1, metrics) is None
    assert watching().see(0, 1, metrics | {"critic/bonus": -0.5}) is not None


@pytest.mark.parametrize("discrete", [False, True])
def test_sac_tells_the_bonus_of_its_entropy(discrete: bool):
    trial: Any = Trial(get("sac"), discrete=discrete)
    modules, sampler, now = trial.begin()
    nets = Learner(modules, now.state).nets
    metrics = trial.algorithm.critic_loss(nets, sampler[0])[1]
    swapped = sampler[0]._replace(obs=sampler[0].next_obs)  # scored where the bonus is
    if not discrete:
        swapped = swapped._replace(noise={"here": swapped.noise["next"]})
    policy = trial.algorithm.policy_loss(nets, swapped)[1]
    worth = float(policy["temperature/value"] * policy["policy/entropy"])
    assert float(metrics["critic/bonus"].detach()) == pytest.approx(worth)


def test_a_policy_of_choices_is_told_by_the_share_of_other_actions():
    said = watching().see(0, 1, {"policy/q_mean": 900.0, "policy/action_differs": 0.42})
    assert said is not None
    assert "not the logged ones in 42% of the rows" in said


def test_without_a_critic_nothing_is_worked_out():
    def never() -> Earnings:
        raise AssertionError("worked out for nothing")

    watch = Watch(never)
    assert watch.see(0, 1, {"policy/loss": 1e9}) is None
    assert (watch.warnings(), watch.page()) == ([], {})


def test_without_rewards_nothing_can_be_said():
    assert watching(0.0, 0.0).see(0, 1, {"critic/q_mean": 1.0}) is None


def told(events: list[Event]):
    return [(e.seed, e.step) for e in events if isinstance(e, Warned)]


def result(run: Path):
    page = json.loads((run / "result.json").read_text())
    return page["warnings"], page["values"]


def test_a_run_that_over_estimates_says_so_as_it_happens_and_in_its_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    data, events = saved_dataset(), list[Event]()
    given = settings_of("ddpg", **WILD, holdout=0.0, steps=40)
    run = fit("ddpg", data, out=tmp_path / "run", on_event=events.append, **given)
    first = dict(told(events))
    assert len(told(events)) == len(first) == 2
    warnings, values = result(run.dir)
    assert f"Seed 0 at step 40 (first at step {first[0]}) over-estimates" in warnings[0]
    assert f"Seed 1 at step 40 (first at step {first[1]}) seems to over-estimate" in warnings[1]
    assert len([r for r in caplog.records if "over-estimate" in r.message]) == 2
    assert values["possible"] == pytest.approx([0.0, 100.0])
    last = [e for e in events if isinstance(e, Trained) and e.seed == 0][-1]
    assert values["seeds"]["0"]["policy/q_mean"] == last.metrics["policy/q_mean"] > 110
    assert values["seeds"]["1"]["policy/q_mean"] < 20


def test_stopped_and_resumed_it_is_told_once_and_the_result_is_the_same(tmp_path: Path):
    data = saved_dataset()
    given = settings_of("ddpg", **WILD, holdout=0.0, steps=60)
    whole = fit("ddpg", data, out=tmp_path / "whole", **given)

    def stop(event: Event) -> None:
        events.append(event)
        if isinstance(event, Trained) and event.seed == 0 and event.step == 45:
            raise RuntimeError

    events = list[Event]()
    with pytest.raises(RuntimeError):
        fit("ddpg", data, out=tmp_path / "run", on_event=stop, **given)
    fit("ddpg", data, out=tmp_path / "run", resume=True, on_event=events.append)
    assert [seed for seed, _ in told(events)] == [0, 1]
    assert result(tmp_path / "run") == result(whole.dir)


def test_seeds_in_processes_of_their_own_are_watched_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = saved_dataset()
    given = settings_of("ddpg", **WILD, holdout=0.0, steps=40)
    alone, apart = list[Event](), list[Event]()
    one = fit("ddpg", data, out=tmp_path / "one", on_event=alone.append, **given)
    monkeypatch.setattr(workers, "SPREAD_FROM", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    two = fit("ddpg", "toy/box-v0", out=tmp_path / "two", on_event=apart.append, **given)
    assert sorted(told(apart)) == told(alone) != []
    assert result(two.dir) == result(one.dir)

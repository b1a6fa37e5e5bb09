"""The built-in controllers solve their environments from raw observations."""

from itertools import islice

import numpy as np
import pytest

from offrl.collect.behaviors import build
from offrl.collect.controllers import CONTROLLERS
from offrl.collect.episodes import Actor, play
from offrl.data.recipe import BehaviorSpec
from offrl.environments import make_env


def returns(name: str, episodes: int) -> np.ndarray:
    env = make_env(CONTROLLERS[name].env_id)
    behavior = build(BehaviorSpec(name), env.observation_space, env.action_space)
    played = play(env, [Actor(name, behavior)], seed=7)
    result = np.array([episode.episode_return for episode in islice(played, episodes)])
    env.close()
    return result


def test_the_pendulum_is_swung_up_and_held() -> None:
    found = returns("pendulum-swing-up", 60)
    assert found.mean() > -180.0  # -150 over many; the start decides most of it
    assert found.min() > -400.0  # a pendulum that is never held gets below -800


def test_the_pole_stays_up_for_the_whole_episode() -> None:
    assert (returns("cartpole-balance", 5) == 500.0).all()


def test_the_car_reaches_the_top_with_little_fuel() -> None:
    assert returns("mountain-car-pump", 20).min() > 90.0


def test_the_car_of_three_choices_and_the_acrobot_reach_their_height_before_time_is_up() -> None:
    assert returns("mountain-car-swing", 20).min() > -150.0  # 200 steps is never
    found = returns("acrobot-swing", 20)
    assert found.mean() > -110.0
    assert found.min() > -500.0


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_controller_knows_the_spaces_of_its_environment(name: str) -> None:
    env = make_env(CONTROLLERS[name].env_id)
    CONTROLLERS[name].check(name, env.observation_space, env.action_space)
    env.close()

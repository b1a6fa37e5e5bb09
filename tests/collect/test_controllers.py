"""The built-in controllers solve their environments from raw observations."""

import importlib.util
from itertools import islice
from typing import Any

import numpy as np
import pytest

from offrl.collect.behaviors import build
from offrl.collect.controllers import CONTROLLERS, umaze_waypoints
from offrl.collect.episodes import Actor, play
from offrl.collect.recorder import record
from offrl.data.recipe import BehaviorSpec
from offrl.environments import make_env
from offrl.errors import ConfigError, WorkError

MAZES = importlib.util.find_spec("gymnasium_robotics") is not None
with_mazes = pytest.mark.skipif(not MAZES, reason="gymnasium-robotics is not installed")


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


class TestTheMaze:
    def at(self, x: float, y: float, goal: tuple[float, float]) -> tuple[float, ...]:
        obs = {"observation": np.array([x, y, 0.0, 0.0]), "desired_goal": np.array(goal)}
        return tuple(umaze_waypoints(obs).tolist())

    def test_the_way_leads_through_the_u_and_never_across_its_wall(self) -> None:
        goal = (-1.0, -1.0)
        assert self.at(-1.0, 1.0, goal) == (1.0, 0.0)  # right, not down through the wall
        assert self.at(0.0, 1.0, goal) == (1.0, 0.0)
        assert self.at(1.0, 1.0, goal) == (0.0, -1.0)
        assert self.at(1.0, 0.0, goal) == (0.0, -1.0)
        assert self.at(1.0, -1.0, goal) == (-1.0, 0.0)
        assert self.at(-1.0, -1.0, (-1.0, 1.0)) == (1.0, 0.0)  # and back

    def test_at_the_goal_it_holds_the_ball(self) -> None:
        assert self.at(0.1, 1.1, (0.1, 1.1)) == (0.0, 0.0)
        obs = {"observation": np.array([1.0, 1.0, 0.5, -0.2]), "desired_goal": np.array([1.0, 1.0])}
        np.testing.assert_allclose(umaze_waypoints(obs), [-0.5, 0.2])

    @with_mazes
    def test_every_goal_is_reached_and_held(self) -> None:
        env = make_env("PointMaze_UMaze-v3")
        behavior = build(BehaviorSpec("umaze-waypoints"), env.observation_space, env.action_space)
        for episode in islice(play(env, [Actor("waypoints", behavior)], seed=7), 8):
            reached = int(np.argmax(episode.rewards > 0))
            assert episode.rewards.max() == 1.0
            assert episode.rewards[reached + 20 :].all()
        env.close()

    @with_mazes
    def test_noise_has_the_density_of_a_truncated_normal_around_the_way(self) -> None:
        data = record("offrl/pointmaze/umaze-v0", episodes=1, out="me/maze-v0")
        assert data.log_prob == "logged"
        (episode,) = data
        for t in (0, 57, 299):
            obs = {key: value[t] for key, value in episode.observations.items()}
            assert episode.behavior_log_prob[t] == pytest.approx(
                truncated(episode.actions[t], umaze_waypoints(obs), 0.5), abs=1e-6
            )

    @with_mazes
    def test_another_maze_of_the_same_spaces_is_told(self) -> None:
        large: dict[str, Any] = {"env": "PointMaze_Large-v3", "policies": "umaze-waypoints"}
        with pytest.raises(WorkError, match="not inside the maze of PointMaze_UMaze-v3"):
            record(**large, episodes=3, out="me/large-v0")
        with pytest.raises(ConfigError, match="acts in PointMaze_UMaze-v3"):
            record(env="Pendulum-v1", policies="umaze-waypoints", episodes=1, out="me/a-v0")


def truncated(action: np.ndarray, mean: np.ndarray, std: float) -> float:
    """The log-density by scipy's own truncated normal on [-1, 1]."""
    from scipy.stats import truncnorm

    low, high = (-1.0 - mean.astype(float)) / std, (1.0 - mean.astype(float)) / std
    return float(truncnorm.logpdf(action.astype(float), low, high, mean, std).sum())


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_controller_knows_the_spaces_of_its_environment(name: str) -> None:
    if name == "umaze-waypoints" and not MAZES:
        pytest.skip("gymnasium-robotics is not installed")
    env = make_env(CONTROLLERS[name].env_id)
    CONTROLLERS[name].check(name, env.observation_space, env.action_space)
    env.close()

"""Rollouts: the same episodes however many environments run, and what happens when one fails."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from offrl.data.spec import Spec
from offrl.errors import ConfigError, EnvError, NumericsError, WorkError
from offrl.evaluation.rollouts import STEP_LIMIT, Act, Rollouts, env_seed, rollout

WIDTH = 32
ENVS = ("Pendulum-v1", "CartPole-v1")
COUNTS = (1, 3, 7, 32)


def network(spec: Spec) -> Act:
    """A 2x256 policy that swings CartPole well enough for episodes of many lengths."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(spec.obs_dim, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, spec.action_dim),
    ).requires_grad_(False)

    def act(obs: np.ndarray) -> np.ndarray:
        out = layers(torch.as_tensor(obs))
        return out.argmax(-1).numpy() if spec.discrete else (2 * torch.tanh(out)).numpy()

    return act


def spec_of(env: gymnasium.Env[Any, Any]) -> Spec:
    return Spec(env.observation_space, env.action_space)


def same(one: Rollouts, other: Rollouts) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("returns", "lengths", "terminated", "truncated", "final_obs")
    )


class Counting(gymnasium.Env[np.ndarray, np.ndarray]):
    """Walks for a number of steps drawn at the reset; the observation is [seed draw, step]."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, longest: int = 9) -> None:
        self.longest = longest
        self.closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.start = float(np.float32(self.np_random.uniform()))
        self.length = int(self.np_random.integers(1, self.longest + 1))
        self.step_number = 0
        return self.obs(), {}

    def obs(self) -> np.ndarray:
        return np.array([self.start, self.step_number], np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        over = self.step_number >= self.length
        return self.obs(), 1.0 + self.start, over and self.length % 2 == 0, over, {}

    def close(self) -> None:
        self.closed = True


SPEC = Spec(Counting.observation_space, Counting.action_space)


def still(obs: np.ndarray) -> np.ndarray:
    return np.zeros((len(obs), 1), np.float32)


def by_hand(seed: int, episode: int, longest: int = 9) -> tuple[float, int, np.ndarray]:
    """One episode in the plainest loop."""
    env = Counting(longest)
    obs, _ = env.reset(seed=env_seed(seed, episode))
    total, length, over = 0.0, 0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        total, length, over = total + reward, length + 1, terminated or truncated
    return total, length, obs


@pytest.mark.parametrize("env_id", ENVS)
def test_the_episodes_are_the_same_for_any_number_of_environments(env_id: str) -> None:
    spec = spec_of(gymnasium.make(env_id))
    act = network(spec)
    runs = [
        rollout(act, spec, lambda: gymnasium.make(env_id), episodes=40, seed=5, n_envs=n)
        for n in COUNTS
    ]
    assert len(np.unique(runs[0].returns)) > 5
    assert all(same(runs[0], other) for other in runs[1:])


def test_more_episodes_begin_with_the_same_ones() -> None:
    few = rollout(still, SPEC, Counting, episodes=5, seed=3)
    many = rollout(still, SPEC, Counting, episodes=50, seed=3)
    assert np.array_equal(few.returns, many.returns[:5])


def test_another_seed_gives_other_episodes() -> None:
    one = rollout(still, SPEC, Counting, episodes=20, seed=0)
    other = rollout(still, SPEC, Counting, episodes=20, seed=1)
    assert not np.array_equal(one.returns, other.returns)
    assert len({env_seed(seed, i) for seed in range(4) for i in range(500)}) == 2000


@settings(max_examples=40)
@given(
    episodes=st.integers(1, 40),
    n_envs=st.integers(1, 12),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**40),
)
def test_every_episode_is_the_one_that_a_plain_loop_runs(
    episodes: int, n_envs: int, width: int, seed: int
) -> None:
    found = rollout(still, SPEC, Counting, episodes=episodes, seed=seed, n_envs=n_envs, width=width)
    for i in range(episodes):
        total, length, last = by_hand(seed, i)
        assert found.returns[i] == total
        assert found.lengths[i] == length
        assert found.terminated[i] == (length % 2 == 0)
        assert found.truncated[i]
        assert np.array_equal(found.final_obs[i], last)


@pytest.mark.parametrize("n_envs", COUNTS)
def test_inference_is_one_width_and_an_episode_keeps_its_row(n_envs: int) -> None:
    rows: dict[float, set[int]] = {}

    def act(obs: np.ndarray) -> np.ndarray:
        assert obs.shape == (WIDTH, 2)
        assert obs.ctypes.data % 64 == 0
        for row, start in enumerate(obs[:, 0]):
            rows.setdefault(float(start), set()).add(row)
        return still(obs)

    rollout(act, SPEC, Counting, episodes=70, seed=0, n_envs=n_envs, width=WIDTH)
    env = Counting()
    for i in range(70):
        obs, _ = env.reset(seed=env_seed(0, i))
        assert rows[float(obs[0])] == {i % WIDTH}


def test_progress_counts_every_episode_once() -> None:
    heard: list[tuple[int, int]] = []
    rollout(
        still,
        SPEC,
        Counting,
        episodes=20,
        seed=0,
        n_envs=3,
        progress=lambda finished, all_of_them: heard.append((finished, all_of_them)),
    )
    finished = [one for one, _ in heard]
    assert finished == sorted(set(finished))
    assert heard[-1] == (20, 20)


def test_nested_observations_reach_the_policy_flat_and_in_the_order_of_the_space() -> None:
    class Nested(gymnasium.Env[dict[str, Any], Any]):
        observation_space = spaces.Dict(
            {"goal": spaces.Discrete(3), "at": spaces.Box(-9.0, 9.0, (2,), np.float64)}
        )
        action_space = spaces.Discrete(2, start=5)

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[dict[str, Any], dict[str, Any]]:
            return {"goal": 2, "at": np.array([1.5, -2.5])}, {}

        def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
            assert type(action) is int
            return {"goal": 0, "at": np.array([0.5, 0.0])}, float(action), True, False, {}

    seen: list[np.ndarray] = []

    def act(obs: np.ndarray) -> np.ndarray:
        seen.append(obs[0].copy())
        return np.ones(len(obs), np.int64)

    spec = spec_of(Nested())
    found = rollout(act, spec, Nested, episodes=1, seed=0)
    expected = spec.flatten_obs_one({"goal": 2, "at": np.array([1.5, -2.5])})
    assert np.array_equal(seen[0], expected)
    assert found.returns[0] == 6.0  # the second choice of a space that starts at 5
    assert (
        found.final_obs[0].tolist()
        == spec.flatten_obs_one({"goal": 0, "at": np.array([0.5, 0.0])}).tolist()
    )


class Endless(Counting):
    """Never ends by itself."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


def test_an_environment_without_a_time_limit_is_cut_and_that_is_said() -> None:
    found = rollout(still, SPEC, Endless, episodes=2, seed=0)
    assert found.lengths.tolist() == [STEP_LIMIT] * 2
    assert found.truncated.all()
    assert not found.terminated.any()
    assert "2 of 2 episodes were cut at 10000 steps" in found.notes[0]


def test_a_limit_that_was_lifted_to_log_one_long_walk_is_not_the_one_to_evaluate_with() -> None:
    spec = spec_of(gymnasium.make("Pendulum-v1"))
    found = rollout(
        lambda obs: np.zeros((len(obs), 1), np.float32),
        spec,
        lambda: gymnasium.make("Pendulum-v1", max_episode_steps=1_000_000),
        episodes=2,
        seed=0,
    )
    assert found.lengths.tolist() == [200, 200]
    assert found.truncated.all()
    assert "cut at 200 steps: the limit of Pendulum-v1" in found.notes[0]


def test_a_step_limit_that_was_asked_for_needs_no_note() -> None:
    found = rollout(still, SPEC, Endless, episodes=2, seed=0, step_limit=4)
    assert found.lengths.tolist() == [4, 4]
    assert found.notes == ()


def test_an_environments_own_time_limit_is_a_truncation() -> None:
    spec = spec_of(gymnasium.make("Pendulum-v1"))
    found = rollout(
        lambda obs: np.zeros((len(obs), 1), np.float32),
        spec,
        lambda: gymnasium.make("Pendulum-v1"),
        episodes=2,
        seed=0,
    )
    assert found.lengths.tolist() == [200, 200]
    assert found.truncated.all()
    assert not found.terminated.any()
    assert found.notes == ()


class Failing(Counting):
    """Does something else at step 3 of the episode whose reset seed it was given."""

    def __init__(self, bad_seed: int, what: Callable[["Failing"], Any]) -> None:
        super().__init__()
        self.bad_seed, self.what, self.bad = bad_seed, what, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        found = super().reset(seed=seed, options=options)
        self.length = 6
        self.bad = seed == self.bad_seed
        return found

    def step(self, action: np.ndarray) -> Any:
        found = super().step(action)
        return self.what(self) if self.bad and self.step_number == 4 else found


def explode(env: Failing) -> Any:
    raise RuntimeError("the motor burnt out")


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize(
    ("what", "error", "said"),
    [
        (explode, WorkError, "Failing raised RuntimeError at step 3 of episode 7: the motor"),
        (lambda env: (env.obs(), 1.0, False), WorkError, "ValueError at step 3 of episode 7"),
        (
            lambda env: (env.obs(), float("nan"), False, False, {}),
            WorkError,
            "the reward nan at step 3 of episode 7",
        ),
        (
            lambda env: (env.obs() * np.float32("nan"), 1.0, True, False, {}),
            WorkError,
            "2 of 2 values not finite after step 3 of episode 7",
        ),
        (
            lambda env: (np.zeros(5, np.float32), 1.0, False, False, {}),
            EnvError,
            "not of its space at step 3 of episode 7",
        ),
    ],
)
def test_a_failing_environment_is_named_with_its_episode_and_step(
    what: Callable[[Failing], Any], error: type[Exception], said: str, n_envs: int
) -> None:
    made: list[Failing] = []

    def make() -> Failing:
        made.append(Failing(env_seed(0, 7), what))
        return made[-1]

    with pytest.raises(error, match=said) as caught:
        rollout(still, SPEC, make, episodes=10, seed=0, n_envs=n_envs)
    assert getattr(caught.value, "exit_code", None) == 1
    assert all(env.closed for env in made)


def test_an_environment_that_cannot_be_reset_is_named_with_its_episode() -> None:
    class Stuck(Counting):
        def reset(self, **given: Any) -> Any:
            raise OSError("no simulator")

    with pytest.raises(WorkError, match="OSError at being reset of episode 0: no simulator"):
        rollout(still, SPEC, Stuck, episodes=1, seed=0)


def test_a_reset_observation_that_is_not_finite_is_named() -> None:
    class Blind(Counting):
        def obs(self) -> np.ndarray:
            return np.array([np.inf, 0.0], np.float32)

    with pytest.raises(WorkError, match="not finite at the reset of episode 0"):
        rollout(still, SPEC, Blind, episodes=1, seed=0)


def test_a_policy_that_raises_is_said_to_have_raised() -> None:
    def broken(obs: np.ndarray) -> np.ndarray:
        raise KeyError("weights")

    with pytest.raises(WorkError, match="The policy raised KeyError"):
        rollout(broken, SPEC, Counting, episodes=1, seed=0)


def test_an_action_that_is_not_finite_is_named_with_its_episode_and_step() -> None:
    def lost(obs: np.ndarray) -> np.ndarray:
        return np.where(obs[:, 1:] == 2, np.float32(np.nan), np.float32(0))

    with pytest.raises(NumericsError, match="action at step 2 of episode") as caught:
        rollout(lost, SPEC, lambda: Counting(40), episodes=8, seed=0)
    assert "earlier checkpoint" in caught.value.remedy


def test_other_spaces_than_the_datas_are_an_error_before_the_first_step() -> None:
    stepped: list[int] = []

    class Other(Counting):
        observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

        def step(self, action: np.ndarray) -> Any:
            stepped.append(1)
            return super().step(action)

    with pytest.raises(EnvError):
        rollout(still, SPEC, Other, episodes=1, seed=0)
    assert not stepped


@pytest.mark.parametrize("name", ["episodes", "n_envs", "width", "step_limit"])
def test_a_number_below_one_is_refused(name: str) -> None:
    wanted: dict[str, Any] = {"episodes": 1, "seed": 0, name: 0}
    with pytest.raises(ConfigError, match=f"{name} = 0: at least 1"):
        rollout(still, SPEC, Counting, **wanted)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed = -1"):
        rollout(still, SPEC, Counting, episodes=1, seed=-1)


def test_discounted_sums_are_those_of_each_episodes_own_rewards() -> None:
    env = gymnasium.make("CartPole-v1")
    spec, discount = spec_of(env), 0.9
    plain = rollout(network(spec), spec, lambda: gymnasium.make("CartPole-v1"), episodes=5, seed=3)
    found = rollout(
        network(spec),
        spec,
        lambda: gymnasium.make("CartPole-v1"),
        episodes=5,
        seed=3,
        discount=discount,
    )
    assert plain.values is None
    assert same(plain, found)
    assert found.values is not None
    # CartPole rewards every step with 1: a geometric sum over each length.
    np.testing.assert_allclose(found.values, (1 - discount**found.lengths) / (1 - discount))

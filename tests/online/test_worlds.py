"""Worlds: true final observations, episodes by number, and taking them up again."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from offrl.data.spec import Spec
from offrl.errors import WorkError
from offrl.online.worlds import Worlds, world_seed


class Counting(gymnasium.Env[Any, Any]):
    """Its observation is (seed, steps since the reset); it ends after 3 steps, or is cut at 5."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, *, ends: int = 3, drift: float = 0.0, faulty: int = -1):
        self.ends, self.drift, self.faulty, self.t = ends, drift, faulty, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.start, self.t = float(self.np_random.random()), 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        if self.t == self.faulty:
            raise ZeroDivisionError("by nothing")
        self.start += self.drift + float(action[0])
        return self._obs(), float(self.t), self.t >= self.ends, self.t >= 5, {}

    def _obs(self) -> Any:
        return np.array([self.start, self.t])


SPEC = Spec(Counting.observation_space, Counting.action_space)


def worlds(n: int = 2, seed: int = 0, **settings: Any) -> Worlds:
    made = Worlds(lambda: Counting(**settings), SPEC, n, seed)
    made.begin()
    return made


def actions(n: int = 2) -> Any:
    return np.full((n, 1), 0.25, np.float32)


def test_an_episode_that_ends_is_told_with_its_own_last_observation():
    made = worlds()
    for _ in range(2):
        lived = made.step(actions())
        assert not lived.terminated.any()
    lived = made.step(actions())
    assert lived.terminated.all()
    assert not lived.truncated.any()
    assert lived.next_obs[:, 1].tolist() == [3, 3]  # of this episode, not of the next
    assert made.obs[:, 1].tolist() == [0, 0]
    assert lived.returns == [6.0, 6.0]
    assert lived.lengths == [3, 3]


def test_a_time_limit_is_not_an_end():
    made = worlds(ends=99)
    lived = [made.step(actions()) for _ in range(5)][-1]
    assert lived.truncated.all()
    assert not lived.terminated.any()
    assert lived.next_obs[:, 1].tolist() == [5, 5]


def test_every_row_leads_from_where_the_one_before_it_led():
    made, before = worlds(3), None
    for _ in range(20):
        at = made.obs.copy()
        lived = made.step(actions(3))
        assert np.array_equal(lived.obs, at)
        if before is not None:
            on = ~(before.terminated | before.truncated)
            assert np.array_equal(lived.obs[on], before.next_obs[on])
        before = lived


def test_an_episode_depends_on_its_number_and_the_seed_alone():
    starts = {0: worlds(3).obs[:, 0], 1: worlds(3, seed=1).obs[:, 0]}
    assert len(set(starts[0])) == 3
    assert not set(starts[0]) & set(starts[1])
    alone, found = worlds(1), list[float]()
    while len(found) < 3:
        found.append(float(alone.obs[0, 0]))
        for _ in range(3):
            alone.step(actions(1))
    assert np.allclose(found, starts[0])


@pytest.mark.parametrize("steps", [0, 1, 4, 7])
def test_worlds_taken_up_again_go_on_alike(steps: int):
    one, two = worlds(), worlds()
    for _ in range(steps):
        one.step(actions())
    assert two.restore(one.tensors()) is None
    for _ in range(6):
        a, b = one.step(actions()), two.step(actions())
        assert np.array_equal(a.obs, b.obs)
        assert np.array_equal(a.next_obs, b.next_obs)
        assert a.returns == b.returns
        assert a.lengths == b.lengths


def test_a_world_that_repeats_itself_otherwise_is_told_and_starts_anew():
    one, two = worlds(), worlds(drift=0.5)
    for _ in range(2):
        one.step(actions())
    fault = two.restore(one.tensors())
    assert fault is not None
    assert "not exact" in fault
    assert two.obs[:, 1].tolist() == [0, 0]
    assert two.following == 4  # numbers of episodes that were begun are not taken twice


def test_what_an_environment_raises_names_episode_and_step():
    made = worlds(1, faulty=2)
    made.step(actions(1))
    with pytest.raises(WorkError, match=r"ZeroDivisionError in step\(\) at step 1 of episode 0"):
        made.step(actions(1))


def test_a_world_that_ends_where_it_had_not_is_told_though_it_looks_the_same():
    """Observations that say little: of the step alone, with an end drawn apart from the seed."""
    one, two = worlds(1), worlds(1, ends=2)
    for _ in range(2):
        one.step(actions(1))
    fault = two.restore(one.tensors())
    assert fault is not None
    assert "not exact" in fault
    assert two.obs[:, 1].tolist() == [0]


class Strange(Counting):
    """It gives one value that cannot be, at step 1 or at the second reset."""

    def __init__(self, field: str, value: Any):
        super().__init__()
        self.field, self.value, self.resets = field, value, 0

    def reset(self, **given: Any) -> Any:
        obs, info = super().reset(**given)
        self.resets += 1
        return (self.value if self.field == "reset" and self.resets == 2 else obs), info

    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        if self.t == 2 and self.field == "obs":
            obs = self.value
        if self.t == 2 and self.field == "reward":
            reward = self.value
        if self.t == 2 and self.field == "exit":
            raise SystemExit(5)
        return obs, reward, *rest


@pytest.mark.parametrize(
    ("field", "value", "said", "where"),
    [
        ("reset", np.array([np.nan, 0]), "gave an observation that is not finite", (0, 1)),
        ("reset", np.zeros(3), "gave an observation that is not of its space", (0, 1)),
        ("obs", np.array([0, np.inf]), "gave an observation that is not finite", (1, 0)),
        ("obs", np.zeros((1, 2)), "gave an observation that is not of its space", (1, 0)),
        ("obs", None, "gave an observation that is not of its space", (1, 0)),
        ("obs", "left", "gave an observation that is not of its space", (1, 0)),
        ("reward", np.nan, "gave the reward nan", (1, 0)),
        ("reward", None, "raised TypeError in step()", (1, 0)),
        ("reward", np.zeros(2), "raised TypeError in step()", (1, 0)),
        ("exit", None, "raised SystemExit in step()", (1, 0)),
    ],
)
def test_a_value_that_cannot_be_names_environment_step_and_seed(
    field: str, value: Any, said: str, where: tuple[int, int]
):
    made = Worlds(lambda: Strange(field, value), SPEC, 1, 4)
    made.begin()
    for _ in range(2 if field == "reset" else 1):
        made.step(actions(1))
    kept = made.tensors()
    with pytest.raises(WorkError) as caught:
        made.step(actions(1))
    step, episode = where
    place = f"at step {step} of episode {episode} (reset seed {world_seed(4, episode)})"
    assert caught.value.cause.startswith(f"The environment Strange {said} {place}")
    assert "--resume" in caught.value.remedy
    # What is saved is the moment before that step, from which the mended one goes on.
    assert all(torch.equal(kept[k], v) for k, v in made.tensors().items())


def test_tensors_are_kept_apart_from_what_follows():
    made = worlds()
    kept = made.tensors()
    before = kept["obs"].clone()
    made.step(actions())
    assert torch.equal(kept["obs"], before)

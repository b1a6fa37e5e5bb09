"""Playing episodes: shares by quota, and errors that name who failed, in which episode and step."""

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from recordings import kept_of, visible

from offrl.collect.episodes import quota
from offrl.collect.recorder import record
from offrl.errors import CorruptDataError, WorkError

ID = "me/made-v0"


class Walk(gymnasium.Env[Any, Any]):
    """Ten steps on a line; `spoil` may change what step 4 of an episode answers."""

    observation_space = spaces.Box(-20.0, 20.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, spoil: Callable[[Any], Any] | None = None, in_episode: int = 2) -> None:
        self.spoil, self.in_episode, self.episode = spoil, in_episode, -1
        self.state = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        self.state[:] = self.np_random.uniform(-1, 1, 2)
        return self.state, {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.state += action  # one buffer for all observations, as some simulators do
        action[:] = 0.0
        answer = (self.state, 1.0, False, self.steps == 10, {})
        if self.spoil is not None and self.episode >= self.in_episode and self.steps == 5:
            return self.spoil(answer)
        return answer


class TestShares:
    @pytest.mark.parametrize("weights", [[1, 1, 1], [3, 1], [0.5, 0.25, 0.25], [1]])
    def test_hold_in_every_prefix(self, weights: list[float]) -> None:
        order = list(itertools.islice(quota(weights), 60))
        for n in range(1, 61):
            for i, weight in enumerate(weights):
                assert abs(order[:n].count(i) - n * weight / sum(weights)) < 1.0


class TestAPolicyThatRaises:
    def test_is_named_with_the_place_and_finished_episodes_are_kept(self) -> None:
        class Faulty:
            def __init__(self, broken: bool) -> None:
                self.broken, self.episode, self.step = broken, -1, 0

            def reset(self, rng: np.random.Generator) -> None:
                self.episode, self.step = self.episode + 1, -1

            def act(self, obs: Any, rng: np.random.Generator) -> tuple[Any, float]:
                self.step += 1
                if self.broken and (self.episode, self.step) == (5, 37):
                    raise ZeroDivisionError("by nothing")
                return np.array([rng.uniform(-2, 2)], np.float32), -np.log(4.0)

        options: dict[str, Any] = {"env": "Pendulum-v1", "episodes": 7, "out": ID}
        with pytest.raises(WorkError) as caught:
            record(**options, policies=Faulty(broken=True))
        for part in ("Faulty", "ZeroDivisionError", "episode 5, step 37", "by nothing"):
            assert part in caught.value.cause
        assert caught.value.exit_code == 1
        assert visible() == []
        assert kept_of(ID) == 5
        resumed = record(**options, policies=Faulty(broken=False), resume=True)
        options["out"] = "me/b-v0"
        whole = record(**options, policies=Faulty(broken=False))
        assert resumed.fingerprint == whole.fingerprint

    @pytest.mark.parametrize(
        ("answer", "fragment"),
        [(np.zeros(2), "shape"), (np.array([3.0]), "outside the bounds"), (None, "")],
    )
    def test_or_answers_wrongly_is_named(self, answer: Any, fragment: str) -> None:
        def lopsided(obs: Any) -> Any:
            return answer

        with pytest.raises(WorkError, match=rf"lopsided.* in episode 0, step 0: .*{fragment}"):
            record(env="Pendulum-v1", policies=lopsided, episodes=1, out=ID)


class TestAnEnvironmentThatFails:
    @staticmethod
    def boom(answer: Any) -> Any:
        raise OSError("the cable is out")

    @pytest.mark.parametrize(
        ("spoil", "fragment"),
        [
            (boom, r"OSError in episode 2, step 4: the cable is out"),
            (lambda a: a[:4], r"ValueError in episode 2, step 4: not enough values"),
            (lambda a: None, r"TypeError in episode 2, step 4"),
            (lambda a: (a[0][:1], *a[1:]), r"episode 2"),
            (lambda a: (a[0], "x", *a[2:]), r"episode 2"),
            (lambda a: (a[0], 0.0, 0, 0, {}), r"Episode 2: terminations"),
            (lambda a: (a[0].astype(complex), *a[1:]), r"Episode 2: observations is complex"),
        ],
    )
    def test_is_named_with_the_place_and_finished_episodes_are_kept(
        self, spoil: Any, fragment: str
    ) -> None:
        with pytest.raises(WorkError, match=fragment) as caught:
            record(env=Walk(spoil), policies="random", episodes=4, out=ID)
        assert "'Walk'" in caught.value.cause
        assert kept_of(ID) == 2
        assert visible() == []
        whole = record(env=Walk(), policies="random", episodes=4, out="me/b-v0")
        resumed = record(env=Walk(), policies="random", episodes=4, out=ID, resume=True)
        assert resumed.fingerprint == whole.fingerprint

    @pytest.mark.parametrize("field", [0, 1])
    def test_a_number_that_is_not_finite_is_named(self, field: int) -> None:
        def spoil(answer: Any) -> Any:
            return (*answer[:field], answer[field] * np.nan, *answer[field + 1 :])

        with pytest.raises(CorruptDataError, match=r"Walk: Episode 2: .* is nan at step"):
            record(env=Walk(spoil), policies="random", episodes=4, out=ID)
        assert kept_of(ID) == 2

    def test_a_wrong_reset_is_named(self) -> None:
        class Old(Walk):
            def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
                return self.state

        with pytest.raises(WorkError, match=r"'Old' raised TypeError in episode 0: reset must"):
            record(env=Old(), policies="random", episodes=1, out=ID)

    def test_what_it_changes_in_place_does_not_reach_the_data(self) -> None:
        data = record(env=Walk(), policies="random", episodes=1, out=ID)
        steps = np.diff(data[0].observations, axis=0)
        np.testing.assert_allclose(steps, np.repeat(data[0].actions, 2, axis=1), atol=1e-5)
        assert np.abs(data[0].actions).min() > 0

"""A behaviour's log-probability is that of the action it executed."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from scipy import integrate, stats

from offrl.collect.behaviors import (
    Behavior,
    BoxController,
    DiscreteController,
    PolicyAnswerError,
    RandomBehavior,
    build,
    from_callable,
)
from offrl.data.recipe import BehaviorSpec
from offrl.errors import ConfigError, NotFoundError, WorkError

BOX = spaces.Box(-2.0, 2.0, (1,), np.float32)
OBS = spaces.Box(-8.0, 8.0, (3,), np.float32)
MEAN = 1.5


def propose(obs: Any) -> np.ndarray:
    return np.array([MEAN], np.float32)


def drawn(behavior: Behavior, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    behavior.reset(rng)
    pairs = [behavior.act(None, rng) for _ in range(n)]
    return np.array([float(a[0]) for a, _ in pairs]), np.array([p for _, p in pairs])


def histogram_pvalue(actions: np.ndarray, log_density: Callable[[float], float]) -> float:
    edges = np.linspace(-2.0, 2.0, 21)
    shares = np.array(
        [
            integrate.quad(lambda x: math.exp(log_density(x)), lo, hi, points=[MEAN])[0]
            for lo, hi in pairwise(edges)
        ]
    )
    seen = np.histogram(actions, edges)[0]
    return float(stats.chisquare(seen, shares / shares.sum() * seen.sum()).pvalue)


class TestNoiseAndEpsilon:
    behavior = BoxController(propose, BOX, noise=0.6, epsilon=0.3)

    def density(self, x: float) -> float:
        return self.behavior.log_prob(np.array([x]), np.array([MEAN]))

    def own_part(self, x: float) -> float:
        return BoxController(propose, BOX, noise=0.6).log_prob(np.array([x]), np.array([MEAN]))

    def test_the_mixture_integrates_to_one(self) -> None:
        total = integrate.quad(lambda x: math.exp(self.density(x)), -2.0, 2.0, points=[MEAN])[0]
        assert total == pytest.approx(1.0, abs=1e-8)

    def test_a_mixture_with_one_part_left_out_would_be_seen(self) -> None:
        def wrong(x: float) -> float:
            return math.log(0.7) + self.own_part(x)

        total = integrate.quad(lambda x: math.exp(wrong(x)), -2.0, 2.0, points=[MEAN])[0]
        assert abs(total - 1.0) > 0.2

    def test_actions_are_as_frequent_as_the_density_says(self) -> None:
        actions, _ = drawn(self.behavior, 8000)
        assert histogram_pvalue(actions, self.density) > 1e-3

    def test_the_density_of_the_chosen_part_alone_would_be_seen(self) -> None:
        actions, _ = drawn(self.behavior, 8000)
        assert histogram_pvalue(actions, self.own_part) < 1e-6

    def test_each_step_carries_the_density_of_what_was_executed(self) -> None:
        actions, log_probs = drawn(self.behavior, 200)
        assert log_probs.tolist() == pytest.approx([self.density(a) for a in actions], rel=1e-12)

    def test_all_actions_are_inside_the_bounds_in_the_type_of_the_space(self) -> None:
        behavior = BoxController(lambda obs: np.array([2.0]), BOX, noise=5.0, epsilon=0.1)
        rng = np.random.default_rng(1)
        actions = [behavior.act(None, rng)[0] for _ in range(500)]
        assert all(a.dtype == np.float32 and BOX.contains(a) for a in actions)

    def test_epsilon_one_is_the_uniform_density(self) -> None:
        _, log_probs = drawn(BoxController(propose, BOX, noise=0.6, epsilon=1.0), 20)
        assert set(log_probs) == {-math.log(4.0)}


class TestBehavioursWithoutDensity:
    @pytest.mark.parametrize("epsilon", [0.0, 0.5])
    def test_a_continuous_action_without_noise_has_none(self, epsilon: float) -> None:
        _, log_probs = drawn(BoxController(propose, BOX, epsilon=epsilon), 50)
        assert np.isnan(log_probs).all()


class TestDiscreteActions:
    def test_probabilities_are_exact_and_frequencies_agree(self) -> None:
        behavior = DiscreteController(lambda obs: 3, spaces.Discrete(4, start=1), epsilon=0.4)
        rng = np.random.default_rng(0)
        pairs = [behavior.act(None, rng) for _ in range(5000)]
        log_prob = {a: p for a, p in pairs}
        expected = {a: math.log(0.6 * (a == 3) + 0.1) for a in (1, 2, 3, 4)}
        assert log_prob == pytest.approx(expected)
        seen = np.bincount([a for a, _ in pairs])[1:]
        shares = np.exp([expected[a] for a in (1, 2, 3, 4)])
        assert stats.chisquare(seen, shares * len(pairs)).pvalue > 1e-3
        assert stats.chisquare(seen, np.full(4, len(pairs) / 4)).pvalue < 1e-6

    def test_without_epsilon_the_choice_is_certain(self) -> None:
        behavior = DiscreteController(lambda obs: np.int64(1), spaces.Discrete(2))
        assert behavior.act(None, np.random.default_rng(0)) == (1, 0.0)

    @pytest.mark.parametrize("answer", [2, -1, 0.5, True, np.array([1]), "left", None])
    def test_an_answer_that_is_no_choice_is_refused(self, answer: Any) -> None:
        behavior = DiscreteController(lambda obs: answer, spaces.Discrete(2))
        with pytest.raises(PolicyAnswerError):
            behavior.act(None, np.random.default_rng(0))


class TestRandom:
    def test_an_episode_depends_on_its_generator_alone(self) -> None:
        behavior = RandomBehavior(BOX)
        behavior.reset(np.random.default_rng(1))
        behavior.act(None, np.random.default_rng(1))
        again = drawn(behavior, 100)[0]
        assert again.tolist() == drawn(RandomBehavior(BOX), 100)[0].tolist()


class TestNames:
    @pytest.mark.parametrize(
        ("text", "space", "fragment"),
        [
            ("pendulum-swingup", BOX, "Did you mean 'pendulum-swing-up'"),
            ("cartpole-balance", BOX, "acts in CartPole-v1"),
            ("random,noise=0.1", BOX, "uniform already"),
            ("random,stochastic", BOX, "no distribution"),
            ("pendulum-swing-up,stochastic", BOX, "no distribution"),
        ],
    )
    def test_what_does_not_fit_is_refused_with_the_reason(
        self, text: str, space: spaces.Space[Any], fragment: str
    ) -> None:
        with pytest.raises(ConfigError, match=fragment):
            build(BehaviorSpec.parse(text), OBS, space)

    def test_noise_on_discrete_actions_is_refused(self) -> None:
        cartpole = spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(2)
        with pytest.raises(ConfigError, match="noise to discrete"):
            build(BehaviorSpec.parse("cartpole-balance,noise=0.3"), *cartpole)


class TestUserFunctions:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "mine.py"
        path.write_text("import numpy as np\n" + text)
        return path

    def test_a_function_of_obs_is_a_controller(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "def act(obs):\n    return np.array([obs[0]])\n")
        behavior = build(BehaviorSpec.parse(f"{path}:act,noise=0.5"), OBS, BOX)
        action, log_prob = behavior.act(np.ones(3), np.random.default_rng(0))
        assert action.dtype == np.float32
        assert math.isfinite(log_prob)

    def test_a_function_of_obs_and_rng_says_its_own_log_probability(self, tmp_path: Path) -> None:
        text = "def act(obs, rng):\n    return np.array([rng.uniform(-2, 2)]), -np.log(4.0)\n"
        behavior = build(BehaviorSpec(f"{self.write(tmp_path, text)}:act"), OBS, BOX)
        action, log_prob = behavior.act(np.ones(3), np.random.default_rng(0))
        assert (action.shape, log_prob) == ((1,), -math.log(4.0))

    @pytest.mark.parametrize(
        ("text", "reference", "error", "fragment"),
        [
            ("def act(obs): ...\n", "mine.py:actt", NotFoundError, "Did you mean 'act'"),
            ("def act(obs): ...\n", "none.py:act", NotFoundError, "no file"),
            ("def act(a, b, c): ...\n", "mine.py:act", ConfigError, "takes 3 parameters"),
            ("raise KeyError('x')\n", "mine.py:act", WorkError, "KeyError"),
            ("def act(o, rng): ...\n", "mine.py:act,noise=1", ConfigError, "its own actions"),
        ],
    )
    def test_what_cannot_be_used_is_named(
        self, tmp_path: Path, text: str, reference: str, error: type[Exception], fragment: str
    ) -> None:
        self.write(tmp_path, text)
        with pytest.raises(error, match=fragment):
            build(BehaviorSpec.parse(f"{tmp_path}/{reference}"), OBS, BOX)

    @pytest.mark.parametrize(
        ("answer", "fragment"),
        [((np.zeros(1), math.inf), "inf"), (np.zeros(1), "not"), ((np.zeros(2), 0.0), "shape")],
    )
    def test_an_answer_that_is_off_is_refused(self, answer: Any, fragment: str) -> None:
        _, behavior = from_callable(lambda obs, rng: answer, BOX)
        with pytest.raises((ConfigError, PolicyAnswerError), match=fragment):
            behavior.act(None, np.random.default_rng(0))

    def test_an_action_outside_the_bounds_is_refused(self) -> None:
        _, behavior = from_callable(lambda obs: np.array([2.5]), BOX)
        with pytest.raises(PolicyAnswerError, match="outside the bounds"):
            behavior.act(None, np.random.default_rng(0))

    def test_what_is_no_policy_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="not a policy"):
            from_callable(3, BOX)

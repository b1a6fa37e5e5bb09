"""play: behaviours acting in an environment, one finished episode after another.

actors by quota      whoever is furthest behind their share of the episodes acts next, so every
                     prefix holds the shares as nearly as whole episodes can
(seed, episode)      one stream seeds the environment, another one the behaviour
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from offrl.collect.behaviors import Behavior, PolicyAnswerError
from offrl.data.episodes import Episode
from offrl.data.openepisode import stacked
from offrl.errors import OffrlError, WorkError

_STREAM = 1  # of the seeds of collection; evaluation with the same seed must not repeat them


@dataclass(frozen=True)
class Actor:
    """A behaviour with its name in errors and its share of the episodes."""

    name: str
    behavior: Behavior
    weight: float = 1.0


def play(
    env: gymnasium.Env[Any, Any], actors: Sequence[Actor], *, seed: int, first: int = 0
) -> Iterator[Episode]:
    """Yield episodes `first`, `first + 1`, ... without end; infos carry the log-probabilities.

    Raises WorkError naming the policy or the environment, the episode and the step where one of
    them raises or answers with something that is not an action or a step.
    """
    return play_numbers(env, actors, itertools.count(first), seed=seed)


def play_numbers(
    env: gymnasium.Env[Any, Any], actors: Sequence[Actor], numbers: Iterable[int], *, seed: int
) -> Iterator[Episode]:
    """Yield the episodes of the given numbers, each what `play` would yield under its number."""
    turns, known = quota([actor.weight for actor in actors]), list[int]()
    for number in numbers:
        while len(known) <= number:
            known.append(next(turns))
        index = known[number]
        yield _episode(env, actors[index], index, number, seed)


def quota(weights: Sequence[float]) -> Iterator[int]:
    """Yield, without end, the index of the weight that is furthest behind its share."""
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    counts = [0] * len(exact)
    number = 0
    while True:
        number += 1
        behind = [w * number / total - n for w, n in zip(exact, counts, strict=True)]
        index = behind.index(max(behind))
        counts[index] += 1
        yield index


def streams(seed: int, episode: int) -> tuple[int, np.random.Generator]:
    """Return the environment's seed and the behaviour's generator of one episode."""
    of_env, of_behavior = np.random.SeedSequence(seed, spawn_key=(_STREAM, episode)).spawn(2)
    return int(of_env.generate_state(1)[0] >> 1), np.random.default_rng(of_behavior)


def _episode(
    env: gymnasium.Env[Any, Any], actor: Actor, index: int, number: int, seed: int
) -> Episode:
    env_seed, rng = streams(seed, number)
    behavior, act, step = actor.behavior, actor.behavior.act, env.step
    keep_obs, keep_action = _copier(env.observation_space), _copier(env.action_space)
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    observations: list[Any] = []
    actions: list[Any] = []
    rewards: list[Any] = []
    terminations: list[Any] = []
    truncations: list[Any] = []
    log_probs = [math.nan]
    try:
        obs = _of_reset(env.reset(seed=env_seed))
    except OffrlError:
        raise
    except Exception as error:
        raise _env_error(name, number, None, error) from error
    try:
        behavior.reset(rng)
    except Exception as error:
        raise _policy_error(actor.name, number, None, error) from error
    observations.append(keep_obs(obs))
    while True:
        try:
            action, log_prob = act(obs, rng)
        except Exception as error:
            raise _policy_error(actor.name, number, len(actions), error) from error
        # Kept before the environment sees it, which may change it in place.
        actions.append(keep_action(action))
        log_probs.append(log_prob)
        try:
            answer = step(action)
            obs, reward, terminated, truncated, _ = answer
        except OffrlError:
            raise
        except Exception as error:
            raise _env_error(name, number, len(rewards), error) from error
        observations.append(keep_obs(obs))
        rewards.append(reward)
        terminations.append(terminated)
        truncations.append(truncated)
        if terminated or truncated:
            break
    steps = len(rewards)
    try:
        return Episode(
            number,
            stacked(observations, env.observation_space),
            stacked(actions, env.action_space),
            np.array(rewards, np.float64),
            np.array(terminations),
            np.array(truncations),
            {
                "behavior_log_prob": np.array(log_probs, np.float64),
                "behavior": np.array([-1] + [index] * steps, np.int64),
            },
            env_seed,
        )
    except (TypeError, ValueError) as error:
        raise _env_error(name, number, None, error) from error


def _copier(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """Return what copies one value of a space: environments and policies reuse their buffers."""
    if isinstance(space, spaces.Dict):
        parts = {key: _copier(part) for key, part in space.spaces.items()}
        return lambda value: {key: copy(value[key]) for key, copy in parts.items()}
    if isinstance(space, spaces.Tuple):
        each = [_copier(part) for part in space.spaces]
        return lambda value: tuple(copy(v) for copy, v in zip(each, value, strict=True))
    return str if isinstance(space, spaces.Text) else np.array


def _of_reset(answer: Any) -> Any:
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError("reset must return (observation, info)")
    return answer[0]


def _place(number: int, step: int | None) -> str:
    return f"episode {number}" + ("" if step is None else f", step {step}")


def _env_error(name: str, number: int, step: int | None, error: Exception) -> WorkError:
    return WorkError(
        f"The environment '{name}' raised {type(error).__name__} in {_place(number, step)}: "
        f"{error}",
        "Correct the environment; finished episodes are kept, and resume goes on from there.",
    )


def _policy_error(name: str, number: int, step: int | None, error: Exception) -> WorkError:
    what = "answered wrongly" if isinstance(error, PolicyAnswerError) else "raised"
    kind = "" if isinstance(error, PolicyAnswerError) else f" {type(error).__name__}"
    return WorkError(
        f"The policy '{name}' {what}{kind} in {_place(number, step)}: {error}",
        "Correct the policy; finished episodes are kept, and resume goes on from there.",
    )

"""Whole episodes of many environments side by side, the same however many there are.

    inference row    0    1    2   ...   width - 1        one batch, always `width` rows
    episodes        e0   e1   e2   ...                    row = episode mod width
                    e0+w e1+w ...                         a row's next episode follows its last

The width of a batch and the place of a row in it can change the last bits of a matrix product, so
both are fixed: episode i is a function of the policy, the environment and (seed, i) alone. Each
environment runs an episode to its end and is then reset by this loop, so the last observation and
the last reward are the episode's own.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from offrl.data.spec import Spec
from offrl.environments import check_spaces, name_of
from offrl.errors import ConfigError, EnvError, NumericsError, OffrlError, WorkError

WIDTH = 32
STEP_LIMIT = 10_000  # for environments that set no time limit of their own

Act = Callable[[np.ndarray], np.ndarray]  # [width, obs_dim] -> [width, action_dim] or [width]
Env = gymnasium.Env[Any, Any]


@dataclass(frozen=True)
class Rollouts:
    """What n episodes came to, in the order of their numbers."""

    returns: np.ndarray  # [n] float64, undiscounted sum of raw rewards
    lengths: np.ndarray  # [n] int64, environment steps
    terminated: np.ndarray  # [n] bool
    truncated: np.ndarray  # [n] bool, by the environment or by the step limit
    final_obs: np.ndarray  # [n, obs_dim] float32, where each episode ended
    notes: tuple[str, ...] = ()
    values: np.ndarray | None = None  # [n] float64, discounted sums; None without a discount


@dataclass(eq=False)
class _Live:
    """An environment in the middle of an episode."""

    env: Env
    episode: int
    row: int
    step: int = 0
    total: float = 0.0
    value: float = 0.0
    weight: float = 1.0  # discount ** step


def env_seed(seed: int, episode: int) -> int:
    """Return the seed that episode number `episode` is reset with, a function of both alone."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(episode,))
    return int(sequence.generate_state(1, np.uint32)[0] >> 1)  # 31 bits: some simulators ask it


def rollout(
    act: Act,
    spec: Spec,
    make_env: Callable[[], Env],
    *,
    episodes: int,
    seed: int,
    n_envs: int | None = None,
    width: int = WIDTH,
    step_limit: int | None = None,
    discount: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rollouts:
    """Run episodes 0 ... `episodes` - 1 of `act` and return what they came to.

    `act` maps flat observations [width, obs_dim] to flat actions, row by row. At most `width`
    environments run (default: all `width`). An episode is cut, and counts as truncated, after
    `step_limit` steps: by default the environment's own limit, STEP_LIMIT where it has none, and
    the limit registered for its id where its own is above STEP_LIMIT. With a `discount`, discounted
    sums are kept too; of an episode that was cut, until there.
    `progress` is told (finished, episodes). Raises EnvError where the spaces are not those of
    `spec`; WorkError where the policy or the environment raises or the environment gives an
    observation or reward that is not finite; NumericsError for such an action.
    """
    for name, value, least in (
        ("episodes", episodes, 1),
        ("seed", seed, 0),
        ("n_envs", n_envs, 1),
        ("width", width, 1),
        ("step_limit", step_limit, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} = {value}: at least {least} is needed.")
    with contextlib.ExitStack() as stack:
        envs: list[Env] = []
        for _ in range(min(n_envs or width, width, episodes)):
            envs.append(make_env())
            stack.callback(_close, envs[-1])
            check_spaces(envs[-1], spec)
        loop = _Loop(act, spec, episodes, seed, width, _limit(envs[0], step_limit), discount)
        return loop.run(envs, progress)


class _Loop:
    """The episodes still to run, the batch they share, and what came of those that ended."""

    def __init__(
        self,
        act: Act,
        spec: Spec,
        episodes: int,
        seed: int,
        width: int,
        limit: tuple[int, str],
        discount: float | None,
    ) -> None:
        self.act, self.spec, self.seed, self.width = act, spec, seed, width
        self.limit, self.why_cut = limit
        self.discount = discount
        box = isinstance(spec.observation_space, gymnasium.spaces.Box)
        self.plain = spec.observation_space.shape if box else None
        self.pending = list(range(episodes))
        self.live: list[_Live] = []
        self.obs = _aligned(width, spec.obs_dim)
        self.returns = np.zeros(episodes, np.float64)
        self.values = np.zeros(episodes, np.float64)
        self.lengths = np.zeros(episodes, np.int64)
        self.terminated = np.zeros(episodes, np.bool_)
        self.truncated = np.zeros(episodes, np.bool_)
        self.final_obs = np.zeros((episodes, spec.obs_dim), np.float32)
        self.cut = 0

    def run(self, envs: list[Env], progress: Callable[[int, int], None] | None) -> Rollouts:
        finished, episodes = 0, len(self.pending)
        for env in envs:
            self._begin(env)
        while self.live:
            self._check_observations()
            actions = self._actions()
            ended: list[_Live] = []
            for one in self.live:
                if self._step(one, actions[one.row]):
                    ended.append(one)
            if ended:
                self._check_observations()  # before a reset writes over the last ones
            for one in ended:
                self.final_obs[one.episode] = self.obs[one.row]
                self.live.remove(one)
                finished += 1
                self._begin(one.env)
            if ended and progress is not None:
                progress(finished, episodes)
        return Rollouts(
            returns=self.returns,
            lengths=self.lengths,
            terminated=self.terminated,
            truncated=self.truncated,
            final_obs=self.final_obs,
            notes=self._notes(),
            values=None if self.discount is None else self.values,
        )

    def _begin(self, env: Env) -> None:
        """Start the first waiting episode whose row is free; without one `env` is done."""
        taken = {one.row for one in self.live}
        episode = next((e for e in self.pending if e % self.width not in taken), None)
        if episode is None:
            return
        self.pending.remove(episode)
        one = _Live(env, episode, episode % self.width)
        try:
            obs, _ = env.reset(seed=env_seed(self.seed, episode))
        except OffrlError:
            raise
        except Exception as error:
            raise self._raised(one, "being reset", error) from error
        self._see(one, obs)
        self.live.append(one)

    def _see(self, one: _Live, obs: Any) -> None:
        if isinstance(obs, np.ndarray) and obs.dtype == np.float32 and obs.shape == self.plain:
            self.obs[one.row] = obs.reshape(-1)  # what Spec would do, in a fifth of the time
            return
        try:
            self.obs[one.row] = self.spec.flatten_obs_one(obs)
        except OffrlError as error:
            raise EnvError(
                f"{name_of(one.env)} gave an observation that is not of its space at step"
                f" {one.step} of episode {one.episode}: {error.cause}",
                "Mend the environment, or its observation_space.",
            ) from error

    def _actions(self) -> np.ndarray:
        try:
            actions = self.act(self.obs)
        except OffrlError:
            raise
        except Exception as error:
            raise WorkError(
                f"The policy raised {type(error).__name__}: {error}.",
                "Its traceback shows with --debug.",
            ) from error
        if len(actions) != self.width:
            raise WorkError(f"The policy gave {len(actions)} actions for {self.width} rows.")
        if actions.dtype.kind == "f" and not np.isfinite(actions).all():
            for one in self.live:
                if not np.isfinite(actions[one.row]).all():
                    raise NumericsError(
                        f"The policy's action at step {one.step} of episode {one.episode} is not"
                        f" finite: {actions[one.row]}.",
                        "Its weights may have diverged: evaluate an earlier checkpoint.",
                    )
        return actions

    def _step(self, one: _Live, action: np.ndarray) -> bool:
        """Take one step and return whether it was the episode's last."""
        try:
            obs, reward, terminated, truncated, _ = one.env.step(self.spec.env_action(action))
            reward = float(reward)
        except OffrlError:
            raise
        except Exception as error:
            raise self._raised(one, f"step {one.step}", error) from error
        self._see(one, obs)
        if not math.isfinite(reward):
            raise WorkError(
                f"{name_of(one.env)} gave the reward {reward} at step {one.step} of episode"
                f" {one.episode} (reset seed {env_seed(self.seed, one.episode)}).",
                "A return over it would mean nothing: mend the environment.",
            )
        one.total += reward
        if self.discount is not None:
            one.value += one.weight * reward
            one.weight *= self.discount
        one.step += 1
        if not (terminated or truncated):
            if one.step < self.limit:
                return False
            self.cut += 1
        self.returns[one.episode] = one.total
        self.values[one.episode] = one.value
        self.lengths[one.episode] = one.step
        self.terminated[one.episode] = bool(terminated)
        self.truncated[one.episode] = bool(truncated) or not terminated
        return True

    def _check_observations(self) -> None:
        if np.isfinite(self.obs).all():
            return
        for one in self.live:
            bad = int(np.count_nonzero(~np.isfinite(self.obs[one.row])))
            if bad:
                when = f"after step {one.step - 1}" if one.step else "at the reset"
                raise WorkError(
                    f"{name_of(one.env)} gave an observation with {bad} of {self.spec.obs_dim}"
                    f" values not finite {when} of episode {one.episode}"
                    f" (reset seed {env_seed(self.seed, one.episode)}).",
                    "A policy's answer to it would mean nothing: mend the environment.",
                )

    def _raised(self, one: _Live, what: str, error: Exception) -> WorkError:
        return WorkError(
            f"{name_of(one.env)} raised {type(error).__name__} at {what} of episode"
            f" {one.episode}: {error}",
            f"Its reset seed is {env_seed(self.seed, one.episode)}; the traceback shows with"
            " --debug.",
        )

    def _notes(self) -> tuple[str, ...]:
        if not self.cut or not self.why_cut:
            return ()
        return (
            f"{self.cut} of {len(self.returns)} episodes were cut at {self.limit} steps:"
            f" {self.why_cut}.",
        )


def _limit(env: Env, asked: int | None) -> tuple[int, str]:
    """Return the step limit, and why where it is neither the caller's nor the environment's own."""
    if asked is not None:
        return asked, ""
    own = env.spec.max_episode_steps if env.spec is not None else None
    if own is None:
        return STEP_LIMIT, "the environment sets no time limit"
    if own > STEP_LIMIT and env.spec is not None and env.spec.id in gymnasium.registry:
        # Recorders lift the limit to log one long walk; nobody means to evaluate over it.
        usual = gymnasium.registry[env.spec.id].max_episode_steps or STEP_LIMIT
        if usual < own:
            return int(usual), f"the limit of {env.spec.id}; the data was logged with {own}"
    return int(own), ""


def _close(env: Env) -> None:
    # The episodes are over, or an error is already on its way: closing may not hide either.
    with contextlib.suppress(Exception):
        env.close()


def _aligned(rows: int, columns: int) -> np.ndarray:
    """Return float32 zeros [rows, columns] that start at a multiple of 64 bytes.

    Elsewhere a matrix product may take other instructions, and give other last bits.
    """
    raw = np.zeros(rows * columns + 16, np.float32)
    first = (-raw.ctypes.data % 64) // raw.itemsize
    return raw[first : first + rows * columns].reshape(rows, columns)

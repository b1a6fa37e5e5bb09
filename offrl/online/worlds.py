"""Environments that a policy acts in while it learns, each in an episode of its own.

    world 0   episode 0: reset(seed 0), a0 a1 a2 ... end   episode 2: reset(seed 2), a0 ...
    world 1   episode 1: reset(seed 1), a0 a1 ...          numbered in the order of resets

An episode that ends is told with its true final observation, and the world is reset at once. An
episode is a function of (seed, number) and of the actions since its reset, so a world is saved as
those, and taken up again by acting them out.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from offrl.data.spec import Spec
from offrl.environments import check_spaces, name_of
from offrl.errors import OffrlError, WorkError
from offrl.online.recording import Marks, Recording

Env = gymnasium.Env[Any, Any]
_STREAM = 3  # of the seeds of acting while learning; evaluation and collection have others


def world_seed(seed: int, episode: int) -> int:
    """The seed that episode number `episode` of a run is reset with."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_STREAM, episode))
    return int(sequence.generate_state(1)[0] >> 1)


@dataclass(frozen=True)
class Lived:
    """What one step of K worlds brought, row k of world k."""

    obs: np.ndarray  # [K, obs_dim]
    action: np.ndarray
    reward: np.ndarray  # [K] float64
    next_obs: np.ndarray  # [K, obs_dim], at an episode's end its final observation
    terminated: np.ndarray  # [K] bool
    truncated: np.ndarray  # [K] bool
    returns: list[float]  # of the episodes that ended
    lengths: list[int]


@dataclass(eq=False)
class _World:
    env: Env
    episode: int = -1
    total: float = 0.0
    actions: list[np.ndarray] = field(default_factory=list)  # since the reset, flat rows


class _Standing(NamedTuple):
    """Where the worlds stand; lists grow afterwards, so that their lengths belong to it."""

    following: int
    worlds: list[tuple[int, list[np.ndarray], int]]  # episode, its actions and how many they are
    obs: np.ndarray
    recorded: Marks | None


class Worlds:
    """K environments and the observations [K, obs_dim] they are at."""

    def __init__(
        self,
        make_env: Callable[[], Env],
        spec: Spec,
        n: int,
        seed: int,
    ) -> None:
        self.spec, self.seed, self.following = spec, seed, 0
        self.recording: Recording | None = None
        self.worlds = [_World(make_env()) for _ in range(n)]
        for world in self.worlds:
            check_spaces(world.env, spec)
        self.obs = np.zeros((n, spec.obs_dim), np.float32)
        self.before: _Standing | None = None  # within a step, where they stood before it

    def begin(self) -> None:
        """Reset every world into a new episode."""
        for k in range(len(self.worlds)):
            self._reset(k)

    def step(self, actions: np.ndarray, scores: np.ndarray | None = None) -> Lived:
        """Take one flat action [K, ...] in each world; worlds whose episode ends are reset.

        `scores` [K] are the log-probabilities to record.
        """
        self.before = before = self._standing()
        after, n = np.empty_like(self.obs), len(self.worlds)
        reward, terminated, truncated = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
        returns, lengths = list[float](), list[int]()
        for k, world in enumerate(self.worlds):
            score = math.nan if scores is None else float(scores[k])
            after[k], reward[k], terminated[k], truncated[k] = self._act(k, actions[k], score)
            self.obs[k] = after[k]
            if terminated[k] or truncated[k]:
                returns.append(world.total)
                lengths.append(len(world.actions))
                if self.recording:
                    self.recording.end(k)
                self._reset(k)
        self.before = None
        return Lived(
            before.obs, actions, reward, after, terminated, truncated, returns, lengths
        )  # fmt: skip

    def _standing(self) -> _Standing:
        taken = [(world.episode, world.actions, len(world.actions)) for world in self.worlds]
        recorded = self.recording.marks() if self.recording else None
        return _Standing(self.following, taken, self.obs.copy(), recorded)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the episodes that are running, before a step within one."""
        at = self.before or self._standing()
        taken = [torch.as_tensor(a) for _, actions, n in at.worlds for a in actions[:n]]
        width = () if self.spec.discrete else (self.spec.action_dim,)
        none = torch.zeros(0, *width, dtype=torch.int64 if self.spec.discrete else torch.float32)
        return {
            "following": torch.tensor(at.following),
            "episode": torch.tensor([episode for episode, _, _ in at.worlds]),
            "count": torch.tensor([n for _, _, n in at.worlds]),
            "action": torch.stack(taken) if taken else none,
            "obs": torch.as_tensor(at.obs),
            **(at.recorded.tensors() if at.recorded else {}),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Act the running episodes out again; a sentence where they came out otherwise."""
        starts = [0, *tensors["count"].cumsum(0).tolist()]
        scores = np.full(starts[-1], math.nan)
        if self.recording:
            scores = self.recording.restore(tensors)
        same = True
        for k in range(len(self.worlds)):
            self._reset(k, int(tensors["episode"][k]))
            ended = False
            for i in range(starts[k], starts[k + 1]):
                action, score = tensors["action"][i].numpy(), float(scores[i])
                self.obs[k], _, terminated, truncated = self._act(k, action, score)
                ended = terminated or truncated
                if ended:  # which it had not
                    break
            same = same and not ended and np.array_equal(self.obs[k], tensors["obs"][k].numpy())
        self.following = int(tensors["following"])
        if same:
            return None
        if self.recording:
            self.recording.depart()
        self.begin()
        return (
            "The environment came to another observation when its actions were repeated: the"
            " resumed run is not exact. It goes on with new episodes."
        )

    def close(self) -> None:
        """Close the environments."""
        for world in self.worlds:
            world.env.close()

    def _reset(self, k: int, episode: int | None = None) -> None:
        world = self.worlds[k]
        if episode is None:
            episode, self.following = self.following, self.following + 1
        world.episode, world.total, world.actions = episode, 0.0, []
        seed = world_seed(self.seed, episode)
        with self._blamed(world, "reset"):
            obs, _ = world.env.reset(seed=seed)
            self.obs[k] = self._seen(world, obs)
            if self.recording:
                self.recording.begin(k, obs, seed)

    def _act(
        self, k: int, action: np.ndarray, score: float
    ) -> tuple[np.ndarray, float, bool, bool]:
        world = self.worlds[k]
        with self._blamed(world, "step"):
            executed = self.spec.env_action(action)
            kept = np.array(executed)  # before the environment sees it, which may change it
            obs, reward, terminated, truncated, _ = world.env.step(executed)
            flat, reward = self._seen(world, obs), float(reward)
            ends = bool(terminated), bool(truncated)
        if not math.isfinite(reward):
            raise self._fault(world, f"gave the reward {reward}")
        if self.recording:
            self.recording.step(k, kept, reward, obs, ends, score)
        world.actions.append(np.array(action))
        world.total += reward
        return flat, reward, *ends

    def _seen(self, world: _World, obs: Any) -> np.ndarray:
        """What a policy sees of an observation, [obs_dim]; WorkError where it cannot."""
        try:
            flat = self.spec.flatten_obs_one(obs)
        except OffrlError as error:
            told = "gave an observation that is not of its space"
            raise self._fault(world, told, error.cause) from error
        if not np.isfinite(flat).all():
            raise self._fault(world, "gave an observation that is not finite")
        return flat

    @contextmanager
    def _blamed(self, world: _World, call: str) -> Iterator[None]:
        """Tell what the environment raises in a call of it, where that is no sentence of ours."""
        try:
            yield
        except OffrlError:
            raise
        except (Exception, SystemExit) as error:
            told = f"raised {type(error).__name__} in {call}()"
            raise self._fault(world, told, str(error)) from error

    def _fault(self, world: _World, told: str, detail: str = "") -> WorkError:
        """Say what an environment did, and in which step since which reset."""
        return WorkError(
            f"The environment {name_of(world.env)} {told} at step {len(world.actions)} of episode"
            f" {world.episode} (reset seed {world_seed(self.seed, world.episode)})"
            + (f": {detail.removesuffix('.')}." if detail else "."),
            "Mend the environment, then go on with --resume.",
        )

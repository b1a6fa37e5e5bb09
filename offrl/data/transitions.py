"""Transitions: the flat columns that learning reads, built one episode at a time.

Two episodes of 3 and 2 steps lie like this:

    row of a step         0    1    2         3    4         N rows: action, reward, terminated,
                                                             truncated, behavior_log_prob
    row of observations   0    1    2    3    4    5    6    N + E rows: observations
    episode               \\____ 0 _____/    \\____ 1 ____/

    starts = [0, 3, 5]    obs_row = [0, 1, 2, 4, 5]    the next observation of a step is obs_row + 1

Observation 3 ends episode 0 and starts no step, so no row ever pairs two episodes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.data.episodes import Episode, validate
from offrl.data.spec import Spec
from offrl.errors import ConfigError

COLUMNS = ("observations", "action", "reward", "terminated", "truncated", "behavior_log_prob")


@dataclass(frozen=True, repr=False, eq=False)
class Transitions:
    """N steps of E episodes as flat columns; the layout is drawn at the top of this file."""

    spec: Spec
    observations: npt.NDArray[np.float32]  # [N+E, obs_dim]
    action: npt.NDArray[Any]  # float32 [N, action_dim], or int64 [N] counted from 0
    reward: npt.NDArray[np.float64]  # [N]
    terminated: npt.NDArray[np.bool_]  # [N], never bootstrapped from
    truncated: npt.NDArray[np.bool_]  # [N], may be true where terminated is; terminated then wins
    behavior_log_prob: npt.NDArray[np.float64]  # [N], NaN where it was not logged
    starts: npt.NDArray[np.int64]  # [E+1], the first step of each episode, then N

    def __len__(self) -> int:
        return len(self.reward)

    def __repr__(self) -> str:
        action = "int64" if self.spec.discrete else f"[{self.spec.action_dim}]"
        sizes = f"steps={len(self)}, obs=[{self.spec.obs_dim}], action={action}"
        return f"Transitions(episodes={self.n_episodes}, {sizes})"

    @property
    def n_episodes(self) -> int:
        """The number of episodes E."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Steps of each episode, [E]."""
        return np.diff(self.starts)

    @cached_property
    def episode(self) -> npt.NDArray[np.int64]:
        """The episode of each step, counted from 0 in this object, [N]."""
        return np.repeat(np.arange(self.n_episodes), self.lengths)

    @cached_property
    def obs_row(self) -> npt.NDArray[np.int64]:
        """The row of `observations` that each step starts from, [N]; it leads to the next row."""
        return np.arange(len(self)) + self.episode

    @property
    def obs(self) -> npt.NDArray[np.float32]:
        """A copy of the observation that each step starts from, [N, obs_dim]."""
        return self.observations[self.obs_row]

    @property
    def next_obs(self) -> npt.NDArray[np.float32]:
        """A copy of the observation that each step leads to, [N, obs_dim]."""
        return self.observations[self.obs_row + 1]

    @cached_property
    def returns(self) -> npt.NDArray[np.float64]:
        """Undiscounted sum of the rewards of each episode, [E]."""
        bounds = zip(self.starts[:-1], self.starts[1:], strict=True)
        return np.array([self.reward[a:b].sum() for a, b in bounds], dtype=np.float64)

    @classmethod
    def build(cls, episodes: Iterable[Episode], spec: Spec) -> "Transitions":
        """Return the columns of the episodes, in order.

        The last step of an episode that is neither terminated nor truncated counts as truncated.
        Raises CorruptDataError naming episode and field for a malformed episode.
        """
        parts = [flat_columns(episode, spec) for episode in episodes]
        if not parts:
            raise ConfigError("There are no episodes to learn from.", "Give at least one episode.")
        return cls(
            spec=spec,
            starts=np.cumsum([0, *(len(part["reward"]) for part in parts)], dtype=np.int64),
            **{name: np.concatenate([part[name] for part in parts]) for name in COLUMNS},
        )

    def take_episodes(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> "Transitions":
        """Return the columns of the chosen episodes only, in the order given."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if chosen.size == 0:
            raise ConfigError("No episode was chosen.", "Choose at least one episode.")
        if chosen.min() < 0 or chosen.max() >= self.n_episodes:
            raise ConfigError(
                f"An episode outside 0 .. {self.n_episodes - 1} was chosen.",
                f"There are {self.n_episodes} episodes.",
            )
        lengths = self.lengths[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        rows = _ranges(self.starts[chosen], lengths)
        obs_rows = _ranges(self.starts[chosen] + chosen, lengths + 1)
        return Transitions(
            spec=self.spec,
            observations=self.observations[obs_rows],
            action=self.action[rows],
            reward=self.reward[rows],
            terminated=self.terminated[rows],
            truncated=self.truncated[rows],
            behavior_log_prob=self.behavior_log_prob[rows],
            starts=starts.astype(np.int64),
        )


def flat_columns(episode: Episode, spec: Spec) -> dict[str, npt.NDArray[Any]]:
    """Return the rows that one episode adds to each column of Transitions.

    Raises CorruptDataError naming episode and field for a malformed episode.
    """
    validate(episode, spec)
    truncated = episode.truncations.copy()
    truncated[-1] |= not episode.terminations[-1]
    return {
        "observations": spec.flatten_obs(episode.observations),
        "action": spec.flatten_actions(episode.actions),
        "reward": episode.rewards,
        "terminated": episode.terminations,
        "truncated": truncated,
        "behavior_log_prob": episode.behavior_log_prob,
    }


def _ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return start, start+1, ..., start+length-1 for each pair, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)

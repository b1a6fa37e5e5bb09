"""Rules on decisions and rewards: log-probabilities that cannot be, masks ignored, odd rewards.

For any policy that logs its own probabilities, the mean of q(action) / mu(action | obs) over its
actions is at most 1, whatever q is: it is the sum of q over what mu can do. So with q uniform, a
mean above 1 by more than chance shows log-probabilities that are too low: of another base, of
another unit of the actions, or of another policy. A mean below 1 shows nothing.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.episodes import Episode
from offrl.data.findings import Found, place
from offrl.data.spec import Spec

RATIO_ROWS, RATIO_ABOVE, RATIO_ERRORS = 200, 1.1, 5.0  # rows, mean, standard errors above it
MAX_LOG = 300.0  # its square is still a number
OUTLIER_ROWS, OUTLIER_TIMES, OUTLIER_SHARE = 50, 20.0, 0.005
FEW = 3


class LogProbs:
    """The mean ratio of a uniform policy to the behaviour."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._uniform = _uniform_log_prob(spec)
        self._n, self._sum, self._squares = 0, 0.0, 0.0

    def see(self, episode: Episode, action: npt.NDArray[Any]) -> None:
        """Note an episode; action [T, A]."""
        log_prob = episode.behavior_log_prob
        logged = np.isfinite(log_prob)
        if self._uniform is None or not logged.any():
            return
        ratio = np.exp(np.minimum(self._uniform - log_prob[logged], MAX_LOG))
        if not self._spec.discrete:
            # At a bound the log-probability may be of the mass beyond it, where q has none.
            low, high = self._spec.action_low, self._spec.action_high
            bound = np.any((action <= low) | (action >= high), axis=1)
            ratio[np.asarray(bound)[logged]] = 0.0
        self._n += len(ratio)
        self._sum += float(ratio.sum())
        self._squares += float(np.square(ratio).sum())

    def finish(self) -> Iterator[Found]:
        """Yield a mean that is too high."""
        if self._n < RATIO_ROWS:
            return
        mean = self._sum / self._n
        variance = max(0.0, self._squares / self._n - mean**2)
        if mean - RATIO_ERRORS * (variance / self._n) ** 0.5 > RATIO_ABOVE:
            message = (
                f"the mean of uniform probability / behaviour probability is {mean:.3g}; of the"
                " policy that acted it is at most 1"
            )
            yield Found("log-prob-mean-ratio", "infos/behavior_log_prob", message, "", self._n)


class Masks:
    """Actions against `infos/action_mask`, whose row t (or t+1, as other infos) is of action t."""

    def __init__(self, spec: Spec) -> None:
        self._space = spec.action_space
        # of either reading: how often a mask forbids the action, and where first
        self._violated = {0: 0, 1: 0}
        self._first = {0: "", 1: ""}
        self._both = True  # whether every mask has a row for the reset, so that both can be meant

    def see(self, number: int, episode: Episode) -> Iterator[Found]:
        """Note an episode, and yield a mask that is none."""
        if "action_mask" not in episode.infos or not isinstance(self._space, spaces.Discrete):
            return
        mask, steps = np.asarray(episode.infos["action_mask"]), len(episode)
        rows = mask.shape[0] if mask.ndim == 2 else 0
        if rows not in (steps, steps + 1) or mask.shape[1:] != (self._space.n,):
            shape = f"infos/action_mask has the shape {mask.shape}, where"
            message = f"{shape} {(steps + 1, int(self._space.n))} is expected"
            yield Found("action-mask-shape", "infos/action_mask", message, f"episode {number}")
            return
        choice = episode.actions.reshape(-1) - int(self._space.start)
        self._both &= rows == steps + 1
        for offset in (0, 1) if rows == steps + 1 else (0,):
            allowed = mask[offset : offset + steps][np.arange(steps), choice] != 0
            forbidden = np.flatnonzero(~allowed)
            if forbidden.size:
                self._violated[offset] += forbidden.size
                self._first[offset] = self._first[offset] or place(number, forbidden[0])

    def finish(self) -> Iterator[Found]:
        """Yield actions that are forbidden however the masks are read."""
        offset = 1 if self._both and self._violated[1] < self._violated[0] else 0
        if self._violated[offset]:
            message = "actions were taken that infos/action_mask forbids"
            yield Found(
                "action-mask-violated",
                "infos/action_mask",
                message,
                self._first[offset],
                self._violated[offset],
            )


class Rewards:
    """Rewards far from all others."""

    def __init__(self) -> None:
        self._rewards: list[npt.NDArray[np.float64]] = []
        self._numbers: list[int] = []
        self._final: list[bool] = []

    def see(self, number: int, episode: Episode) -> None:
        """Note an episode."""
        self._rewards.append(episode.rewards)
        self._numbers.append(number)
        self._final.append(bool(episode.terminations[-1]))

    def finish(self) -> Iterator[Found]:
        """Yield outliers; what the last step before a real end gives is a prize, and none."""
        if not self._rewards:
            return
        rewards = np.concatenate(self._rewards)
        ends = np.cumsum([len(one) for one in self._rewards])
        inner = np.isfinite(rewards)
        inner[ends[np.array(self._final)] - 1] = False
        if inner.sum() < OUTLIER_ROWS:
            return
        centre = float(np.median(rewards[inner]))
        far = np.where(inner, np.abs(np.where(inner, rewards, centre) - centre), 0.0)
        apart = far[far > 0]
        if not apart.size:
            return
        scale = float(np.quantile(far[inner], 0.99))
        if scale == 0:  # nearly all are alike: what differs is judged by its own kind, or by them
            few = apart.size < FEW and centre != 0
            scale = abs(centre) if few else float(np.median(apart))
        rows = np.flatnonzero(far > OUTLIER_TIMES * scale)
        if not rows.size or rows.size > max(1, OUTLIER_SHARE * inner.sum()):
            return
        episodes = np.searchsorted(ends, rows, side="right")
        begins = ends - np.array([len(one) for one in self._rewards])
        at = place(self._numbers[int(episodes[0])], rows[0] - begins[int(episodes[0])])
        values = rewards[rows]
        message = (
            f"rewards lie far from the others, {values[np.argmax(np.abs(values - centre))]:g} for"
            f" example, where 99 % are within {scale:.3g} of {centre:.3g}"
        )
        # A prize in mid-episode comes again with the same value.
        same = len(np.unique(values)) * 3 <= len(values) and len(np.unique(episodes)) > 1
        yield Found("reward-outlier", "rewards", message, at, rows.size, minor=same)


def _uniform_log_prob(spec: Spec) -> float | None:
    """Of one action, under the policy that takes all alike; None where there is no such policy."""
    if isinstance(spec.action_space, spaces.Discrete):
        return -float(np.log(spec.action_space.n))
    width = spec.action_high.astype(np.float64) - spec.action_low.astype(np.float64)
    real = np.dtype(spec.action_space.dtype).kind == "f"
    if not real or not np.isfinite(width).all() or not (width > 0).all():
        return None
    return -float(np.log(width).sum())

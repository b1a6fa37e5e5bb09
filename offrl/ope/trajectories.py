"""Logged episodes side by side, as the estimators read them.

    episode 0   r0 r1 r2 V(s3)    was cut: the last is what V says of the state it stopped in
    episode 1   r0 r1  .  .       terminated: rewards, Q and V are 0 after it, and the ratio 1

A finished episode keeps its cumulative weight, so that normalisers of later steps still count it. A
truncated one gets one step more, with the ratio 1, whose reward, Q and V are all V of the last
observation: every estimator then adds discount^T w_{0:T-1} V(s_T) by its own rule.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from offrl.errors import ConfigError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Trajectories:
    """n episodes of up to T steps, padded."""

    discount: float
    reward: Floats  # [n, T]
    log_ratio: Floats  # [n, T], log pi(a|s) - log mu(a|s); -inf where pi never takes the action
    lengths: Whole  # [n], steps that were logged, without the one that stands for the future
    q: Floats | None = None  # [n, T], of the logged actions under pi
    v: Floats | None = None  # [n, T], E_pi of Q

    @property
    def n(self) -> int:
        """The number of episodes."""
        return len(self.reward)

    @property
    def one_step(self) -> bool:
        """Whether every episode is one decision that nothing follows."""
        return self.reward.shape[1] == 1

    @cached_property
    def discounts(self) -> Floats:
        """discount^t, [T]."""
        return self.discount ** np.arange(self.reward.shape[1], dtype=np.float64)

    @cached_property
    def returns(self) -> Floats:
        """[n], discounted returns, with what V says of a future that an episode was cut from."""
        return self.reward @ self.discounts

    @cached_property
    def log_weight(self) -> Floats:
        """[n, T], the log of w_{0:t}, the product of the ratios up to each step."""
        return np.cumsum(self.log_ratio, axis=1)

    @cached_property
    def log_weight_before(self) -> Floats:
        """[n, T], the log of w_{0:t-1}; 0 at the first step."""
        return np.concatenate([np.zeros((self.n, 1)), self.log_weight[:, :-1]], axis=1)

    @property
    def last_log_weight(self) -> Floats:
        """[n], the log of the weight of a whole episode."""
        return self.log_weight[:, -1]

    def values(self) -> tuple[Floats, Floats]:
        """Q and V, [n, T] each; ConfigError where there are none."""
        if self.q is None or self.v is None:
            raise ConfigError(
                "This estimator needs Q and V of the candidate, and none were given.",
                "Give q and v, or leave the estimator out.",
            )
        return self.q, self.v


def padded(
    *,
    discount: float,
    starts: Whole,
    reward: Floats,
    log_ratio: Floats,
    terminated: Flags,
    q: Floats | None = None,
    v: Floats | None = None,
    final_v: Floats | None = None,
) -> Trajectories:
    """Lay flat columns of N steps and E episodes side by side.

    `starts` [E+1] are offsets of the episodes, `terminated` [E] says which have no future, and
    `final_v` [E] what the candidate's V says of the others' last observations. Raises ConfigError
    where an episode was cut and `final_v` is missing.
    """
    lengths = np.diff(starts)
    cut = ~terminated
    if cut.any() and final_v is None:
        raise ConfigError(
            f"{int(cut.sum())} of {len(lengths)} episodes were cut off, and nothing says what would"
            " have followed.",
            "Give final_v, the candidate's value of each last observation; dropping such episodes,"
            " or taking 0 for their future, would bias every estimate.",
        )
    width = int((lengths + cut).max())
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(reward)) - np.repeat(starts[:-1], lengths)
    ends = (np.flatnonzero(cut), lengths[cut])

    def grid(values: Floats, final: bool = True) -> Floats:
        found = np.zeros((len(lengths), width))
        found[row, column] = values
        if final and final_v is not None:
            found[ends] = final_v[cut]
        return found

    return Trajectories(
        discount,
        grid(reward),
        grid(log_ratio, final=False),
        lengths.astype(np.int64),
        None if q is None else grid(q),
        None if v is None else grid(v),
    )

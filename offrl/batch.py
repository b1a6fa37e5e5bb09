"""Logged transitions as tensors: `Table` holds all of them, `Batch` a few rows.

    observations   o0 o1 o2 o3 | o0 o1 o2 | ...      T+1 rows an episode, stored once
    action            a0 a1 a2 |    a0 a1 | ...      T rows an episode
    obs_row            0  1  2 |     4  5 | ...      next_obs is always the row after

so a next observation can never belong to another episode.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from offrl.data.spec import Spec
from offrl.data.transitions import Transitions


class Batch(NamedTuple):
    """B transitions, in the units of the environment."""

    obs: Tensor  # [B, obs_dim]
    action: Tensor  # [B, action_dim], or [B] int64 where actions are discrete
    reward: Tensor  # [B]
    next_obs: Tensor  # [B, obs_dim]
    terminated: Tensor  # [B], 1 where no future follows; a truncated row holds 0
    behavior_log_prob: Tensor  # [B], NaN where the log has none
    columns: dict[str, Tensor]  # what the algorithm computed for these rows at the last refresh
    noise: dict[str, Tensor]  # standard normal draws, a pure function of (seed, step)


@dataclass(frozen=True)
class Table:
    """Every transition that a run may learn from, on the run's device."""

    spec: Spec
    observations: Tensor  # [N + E, obs_dim]
    obs_row: Tensor  # [N] int64
    action: Tensor
    reward: Tensor
    terminated: Tensor
    behavior_log_prob: Tensor
    starts: Tensor  # [E + 1] int64, offsets of the episodes

    @classmethod
    def of(
        cls,
        transitions: Transitions,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        episodes: np.ndarray | None = None,
    ) -> "Table":
        """`transitions` on `device`, float columns as `dtype`; memory is shared where it can be.

        `episodes` [K] chooses some of them. The observations of the others stay in `observations`,
        which may be mapped from a file larger than memory, and no row points at them.
        """
        starts, rows = transitions.starts, None
        if episodes is not None:
            spans = [range(starts[e], starts[e + 1]) for e in episodes.tolist()]
            rows = np.concatenate([np.asarray(span) for span in spans])
            starts = np.concatenate([[0], transitions.lengths[episodes].cumsum()])

        def column(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array if rows is None else array[rows])

        def floats(tensor: Tensor) -> Tensor:
            return tensor.to(dtype).to(device)  # not every device has float64

        action = column(transitions.action)
        return cls(
            spec=transitions.spec,
            observations=floats(torch.as_tensor(transitions.observations)),
            obs_row=column(transitions.obs_row).to(device),
            action=action.to(device) if transitions.spec.discrete else floats(action),
            reward=floats(column(transitions.reward)),
            terminated=floats(column(transitions.terminated)),
            behavior_log_prob=floats(column(transitions.behavior_log_prob)),
            starts=torch.as_tensor(starts).to(device),
        )

    def __len__(self) -> int:
        return len(self.obs_row)

    @property
    def last(self) -> Tensor:
        """[N] bool, true on the last transition of each episode."""
        last = torch.zeros(len(self), dtype=torch.bool, device=self.obs_row.device)
        last[self.starts[1:] - 1] = True
        return last

    def observed(self) -> Iterator[Tensor]:
        """The observations of these episodes, final ones too, in chunks of float64 on the CPU."""
        ends = self.obs_row[self.starts[1:] - 1] + 1
        rows = torch.cat([self.obs_row, ends]).sort().values
        for chunk in rows.split(65_536):
            yield self.observations[chunk].cpu().double()

    @cached_property
    def spread(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each observation feature, float64 on the CPU.

        In two passes, so that nothing cancels, and once, since both read all the data.
        """
        n = len(self) + len(self.starts) - 1
        mean = sum((chunk.sum(0) for chunk in self.observed()), torch.zeros(1)) / n
        squares = ((chunk - mean).square().sum(0) for chunk in self.observed())
        return mean, (sum(squares, torch.zeros(1)) / n).sqrt()

    @property
    def returns(self) -> Tensor:
        """[E] float64 on the CPU, the undiscounted sum of rewards of each episode."""
        reward, starts = self.reward.cpu().double(), self.starts.cpu()
        return torch.stack([reward[a:b].sum() for a, b in pairwise(starts.tolist())])

    def gather(self, index: Tensor, columns: dict[str, Tensor], noise: dict[str, Tensor]) -> Batch:
        """The transitions numbered by `index` [B]."""
        # `index_select` takes half the time of indexing.
        row = self.obs_row.index_select(0, index)
        return Batch(
            obs=self.observations.index_select(0, row),
            action=self.action.index_select(0, index),
            reward=self.reward.index_select(0, index),
            next_obs=self.observations.index_select(0, row + 1),
            terminated=self.terminated.index_select(0, index),
            behavior_log_prob=self.behavior_log_prob.index_select(0, index),
            columns={name: column.index_select(0, index) for name, column in columns.items()},
            noise=noise,
        )

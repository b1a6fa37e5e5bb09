"""Replay memory: what the policy lived through, in tensors that are allocated once.

    row      0    1    2   ...  capacity - 1
    obs      s0   s1   s2
    next     s1   s2   s3        kept apart: a row's follower may belong to another environment

The oldest row makes room for the newest. Indexing is that of `batch.Table`, so one sampler serves
both.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from offrl.batch import Batch
from offrl.data.spec import Spec
from offrl.errors import ConfigError


class Replay:
    """The newest `capacity` transitions."""

    def __init__(self, spec: Spec, capacity: int, device: str | torch.device = "cpu") -> None:
        if capacity < 1:
            raise ConfigError(f"A replay memory of {capacity} rows holds nothing.")
        width = spec.obs_dim
        action = (
            torch.zeros(capacity, dtype=torch.int64)
            if spec.discrete
            else torch.zeros(capacity, spec.action_dim)
        )
        self.spec, self.capacity, self.written = spec, capacity, 0
        self._columns = {
            "obs": torch.zeros(capacity, width, device=device),
            "action": action.to(device),
            "reward": torch.zeros(capacity, device=device),
            "next_obs": torch.zeros(capacity, width, device=device),
            "terminated": torch.zeros(capacity, device=device),
            "behavior_log_prob": torch.zeros(capacity, device=device),
        }

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    @property
    def reward(self) -> Tensor:
        """[rows] rewards of the transitions that are there."""
        return self._columns["reward"][: len(self)]

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Append K transitions given as columns [K, ...] of the names of `Batch`."""
        n = len(rows["reward"])
        if n > self.capacity:
            raise ConfigError(
                f"{n} transitions at once do not fit a replay memory of {self.capacity}.",
                "Give a larger --replay-size.",
            )
        first = self.written % self.capacity
        fits = first + n <= self.capacity  # a slice takes a quarter of the time of an index
        place = slice(first, first + n) if fits else (torch.arange(n) + first) % self.capacity
        for name, column in self._columns.items():
            column[place] = rows[name].to(column)
        self.written += n

    def gather(self, index: Tensor, columns: dict[str, Tensor], noise: dict[str, Tensor]) -> Batch:
        """The transitions at rows `index` [B]."""
        found = {name: column.index_select(0, index) for name, column in self._columns.items()}
        return Batch(**found, columns=columns, noise=noise)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the rows that are there, and how many were ever written."""
        kept = {name: column[: len(self)] for name, column in self._columns.items()}
        return {**kept, "written": torch.tensor(self.written)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        n = len(tensors["reward"])
        for name, column in self._columns.items():
            column[:n] = tensors[name].to(column)
        self.written = int(tensors["written"])

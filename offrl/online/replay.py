"""Replay memory: what the policy lived through, in tensors that are allocated once.

    row      0    1    2   ...  capacity - 1
    obs      s0   s1   s2
    next     s1   s2   s3        kept apart: a row's follower may belong to another environment

The oldest row makes room for the newest. Indexing is that of `batch.Table`, so one sampler serves
both.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from offrl.batch import Batch, Table
from offrl.data.spec import Spec
from offrl.errors import ConfigError


class Replay:
    """The newest `capacity` transitions."""

    def __init__(
        self,
        spec: Spec,
        capacity: int,
        device: str | torch.device = "cpu",
        later: Mapping[str, float] | None = None,
    ) -> None:
        """`later` names columns that are filled in once an episode is over, and what they hold
        until then."""
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
        self._unknown = dict(later or {})
        self._later = {
            name: torch.full((capacity,), value, device=device)
            for name, value in self._unknown.items()
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
        for name, column in self._later.items():
            column[place] = self._unknown[name]
        self.written += n

    def episode(self, world: int, worlds: int, length: int) -> Tensor:
        """Rows of the newest `length` transitions of one of `worlds`, each of which adds one at a
        time, in order of time; those that have made room are left out."""
        number = self.written - worlds + world - worlds * torch.arange(length - 1, -1, -1)
        return number[number >= self.written - self.capacity] % self.capacity

    def table(self, rows: Tensor) -> Table:
        """The transitions at `rows` as one episode, the first of them its first."""
        found = {name: column[rows] for name, column in self._columns.items()}
        obs, following = found.pop("obs"), found.pop("next_obs")
        n = len(rows)
        return Table(
            spec=self.spec,
            observations=torch.cat([obs, following[-1:]]),
            obs_row=torch.arange(n, device=obs.device),
            starts=torch.tensor([0, n], device=obs.device),
            **found,
        )

    def fill(self, rows: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Set what was to come later."""
        for name, column in self._later.items():
            column[rows] = columns[name].to(column)

    def gather(self, index: Tensor, columns: dict[str, Tensor], noise: dict[str, Tensor]) -> Batch:
        """The transitions at rows `index` [B]."""
        found = {name: column.index_select(0, index) for name, column in self._columns.items()}
        later = {name: column.index_select(0, index) for name, column in self._later.items()}
        return Batch(**found, columns={**columns, **later}, noise=noise)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the rows that are there, and how many were ever written."""
        kept = {name: column[: len(self)] for name, column in self._all()}
        return {**kept, "written": torch.tensor(self.written)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        n = len(tensors["reward"])
        for name, column in self._all():
            column[:n] = tensors[name].to(column)
        self.written = int(tensors["written"])

    def _all(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._columns.items()
        yield from self._later.items()

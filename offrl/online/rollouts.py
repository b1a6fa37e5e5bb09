"""What was lived in rollouts, as a table of the kind that a log is, so that one code serves both.

    world 0   o0 a0 o1 a1 o2 | o0 a0 o1      one part of an episode after the other; each has its
    world 1   o0 a0 o1 a1 o2 a2 o3           own last observation, and none is followed by another's

A part ends where the episode does, or where the rollout does and the episode goes on: that is a cut
as by a time limit, and bootstraps.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from offrl.batch import Table
from offrl.data.spec import Spec


class Rollouts:
    """The open rollout, and the newest whole ones that hold at most `capacity` transitions.

    The newest is kept whatever its size; of a capacity of 0 nothing is kept once it was learned
    from, as the next one is open.
    """

    def __init__(self, spec: Spec, capacity: int, device: str | torch.device = "cpu") -> None:
        self.spec, self.capacity, self.device = spec, capacity, device
        self.tables: list[Table] = []
        self._open: list[dict[str, Tensor]] = []

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Append K transitions, one of each world, as columns [K, ...]."""
        if not self._open and self.capacity == 0:
            self.tables = []
        self._open.append(dict(rows))

    def close(self) -> Table | None:
        """End the open rollout: its table, or None where nothing is open."""
        if not self._open:
            return None
        names = self._open[0]
        table = table_of({k: torch.stack([row[k] for row in self._open]) for k in names}, self.spec)
        table, self._open = moved(table, self.device), []
        self.tables.append(table)
        while len(self.tables) > 1 and sum(map(len, self.tables)) > self.capacity:
            self.tables.pop(0)
        return table

    def table(self) -> Table:
        """All that is kept, the oldest first."""
        return joined(self.tables)

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint keeps; it is made between rollouts."""
        kept = self.tables if self.capacity else []
        return {f"{number:08d}": _columns(table) for number, table in enumerate(kept)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, column = name.partition("/")
            found.setdefault(number, {})[column] = tensor
        tables = [Table(spec=self.spec, **found[number]) for number in sorted(found)]
        self.tables = [moved(table, self.device) for table in tables]


def table_of(lived: Mapping[str, Tensor], spec: Spec) -> Table:
    """The table of columns [T, K, ...] that K worlds lived through in T steps each."""
    flat = {name: column.transpose(0, 1).flatten(0, 1) for name, column in lived.items()}
    ends = lived["terminated"].bool() | lived["truncated"].bool()
    ends[-1] = True  # the rollout ends, whatever the episode does
    last = ends.T.flatten()
    n, before = len(last), last.long().cumsum(0) - last.long()
    row = torch.arange(n) + before  # one observation more for each part that came before
    observations = flat["obs"].new_zeros(n + int(last.sum()), flat["obs"].shape[-1])
    observations[row] = flat["obs"]
    observations[row[last] + 1] = flat["next_obs"][last]
    dtype = observations.dtype
    return Table(
        spec=spec,
        observations=observations,
        obs_row=row,
        action=flat["action"],
        reward=flat["reward"].to(dtype),
        terminated=flat["terminated"].to(dtype),
        behavior_log_prob=flat["behavior_log_prob"].to(dtype),
        starts=torch.cat([torch.zeros(1, dtype=torch.int64), last.nonzero()[:, 0] + 1]),
    )


def joined(tables: list[Table]) -> Table:
    """One table of the rows of all, in order."""
    if len(tables) == 1:
        return tables[0]
    rows = torch.tensor([0, *(len(table) for table in tables)]).cumsum(0).tolist()
    seen = torch.tensor([0, *(len(table.observations) for table in tables)]).cumsum(0).tolist()

    def column(name: str) -> Tensor:
        return torch.cat([getattr(table, name) for table in tables])

    return Table(
        spec=tables[0].spec,
        observations=column("observations"),
        obs_row=torch.cat([t.obs_row + k for t, k in zip(tables, seen, strict=False)]),
        action=column("action"),
        reward=column("reward"),
        terminated=column("terminated"),
        behavior_log_prob=column("behavior_log_prob"),
        starts=torch.cat(
            [
                table.starts[min(number, 1) :] + rows[number]  # the first 0 alone is kept
                for number, table in enumerate(tables)
            ]
        ),
    )


def moved(table: Table, device: str | torch.device) -> Table:
    """The table on another device."""
    columns = {name: tensor.to(device) for name, tensor in _columns(table).items()}
    return Table(spec=table.spec, **columns)


def _columns(table: Table) -> dict[str, Tensor]:
    return {f.name: getattr(table, f.name) for f in fields(Table) if f.name != "spec"}


class Running:
    """Mean and spread of all observations so far (Chan et al. 1983), where there is no log."""

    def __init__(self, width: int) -> None:
        self.count = torch.zeros((), dtype=torch.float64)
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.squares = torch.zeros(width, dtype=torch.float64)  # summed distances from the mean

    def add(self, obs: Tensor) -> None:
        """Take note of observations [N, width]."""
        obs = obs.detach().cpu().double()
        n, mean = len(obs), obs.mean(0)
        shift, total = mean - self.mean, self.count + n
        here = (obs - mean).square().sum(0)
        self.squares = self.squares + here + shift.square() * self.count * n / total
        self.mean, self.count = self.mean + shift * n / total, total

    def buffers(self) -> dict[str, Tensor]:
        """The statistics under the names of the buffers that hold them."""
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        return {"obs_mean": self.mean, "obs_std": torch.where(std > 1e-6, std, 1.0)}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.count, self.mean, self.squares = (tensors[k] for k in ("count", "mean", "squares"))

"""Which rows a step sees: a pure function of (seed, step), so resuming changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from offrl.batch import Batch, Table

_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """Scramble integers into 32 well-spread bits (the finaliser of SplitMix64, Steele et al. 2014).

    torch's CPU generator reads only the low 32 bits of a seed, so they must depend on every word.
    """
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 32


@dataclass(frozen=True)
class Sampler:
    """Batches drawn uniformly with replacement; `sampler[step]` depends on (seed, step) alone."""

    table: Table
    seed: int
    batch_size: int
    rows: Tensor | None = None  # the rows that may be drawn; None means all
    draws: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # name -> shape of one row
    columns: dict[str, Tensor] = field(default_factory=dict)

    def with_columns(self, columns: dict[str, Tensor]) -> "Sampler":
        """The same draws over freshly computed columns."""
        return replace(self, columns=columns)

    def index(self, step: int) -> Tensor:
        """[batch_size] row numbers of this step."""
        generator = torch.Generator().manual_seed(mix(self.seed, step, 0))
        n = len(self.table) if self.rows is None else len(self.rows)
        drawn = torch.randint(n, (self.batch_size,), generator=generator)
        drawn = drawn.to(self.table.obs_row.device)
        return drawn if self.rows is None else self.rows[drawn]

    def noise(self, step: int) -> dict[str, Tensor]:
        """The standard normal draws that the algorithm declared."""
        return noise_of(self.draws, self.seed, step, self.batch_size, self.table.reward)

    def __getitem__(self, step: int) -> Batch:
        return self.table.gather(self.index(step), self.columns, self.noise(step))


def noise_of(
    draws: Mapping[str, tuple[int, ...]], seed: int, step: int, rows: int, like: Tensor
) -> dict[str, Tensor]:
    """Standard normal draws by name, [rows, *shape], a pure function of (seed, step)."""
    if not draws:
        return {}
    generator = torch.Generator().manual_seed(mix(seed, step, 1))
    return {
        name: torch.randn(rows, *shape, generator=generator, dtype=like.dtype).to(like.device)
        for name, shape in sorted(draws.items())
    }

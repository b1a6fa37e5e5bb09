"""Rules on single columns over all episodes: equal ones, saturated actions, scaled observations."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.findings import Found, column_name, listed
from offrl.data.spec import Part, Spec

SATURATED_SHARE, SATURATED_ROWS = 0.1, 20  # a continuous action reaches its largest value once
NORMALISED_ROWS, NORMALISED_TOLERANCE, NORMALISED_SHARE = 200, 0.1, 0.9


class Columns:
    """Remembers of every flat column what these rules need: a digest, moments, and its extremes."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._real = [part for part in spec.obs_parts if _is_real(part)]
        self._rows = 0
        width = spec.obs_dim
        self._sums = np.zeros((2, width))  # of the values and of their squares
        self._obs = _Extremes(width)
        self._actions = _Extremes(0 if spec.discrete else spec.action_dim)

    def see(self, obs: npt.NDArray[np.float32], action: npt.NDArray[Any]) -> None:
        """Note an episode: obs [T+1, obs_dim], action [T, A]."""
        if self._real:
            values = obs.astype(np.float64)
            self._sums += np.stack([values.sum(axis=0), np.square(values).sum(axis=0)])
            self._obs.see(obs)
        self._rows += len(obs)
        if not self._spec.discrete:
            self._actions.see(action)

    def finish(self) -> Iterator[Found]:
        """Yield what breaks a rule."""
        for part in self._real:
            label = f"observation '{part.path}'" if part.path else "the observation"
            yield from self._obs.equal(
                "duplicate-observation", part.path, label, (part.start, part.stop),
                self._spec.obs_names,
            )  # fmt: skip
        if not self._spec.discrete:
            width = self._spec.action_dim
            names = self._spec.action_names
            yield from self._actions.equal(
                "duplicate-action", "actions", "the action", (0, width), names
            )
            yield from self._saturated()
        yield from self._normalised()

    def _saturated(self) -> Iterator[Found]:
        space, seen = self._spec.action_space, self._actions
        if not isinstance(space, spaces.Box) or np.dtype(space.dtype).kind != "f":
            return
        at_ends = seen.at_low + seen.at_high
        varying = seen.low < seen.high
        often = varying & (at_ends >= np.maximum(SATURATED_ROWS, SATURATED_SHARE * seen.rows))
        if not often.any():
            return
        columns = np.flatnonzero(often)
        worst = int(columns[np.argmax(at_ends[columns])])
        share = 100 * at_ends[worst] / seen.rows
        ends = f"{seen.low[worst]:g} or {seen.high[worst]:g}"
        names = self._spec.action_names
        where = column_name(worst, names)
        message = f"{share:.0f} % of the actions are exactly {ends} in column {where}"
        bounds = (self._spec.action_low[worst], self._spec.action_high[worst])
        if (seen.at_low[worst] and seen.low[worst] > bounds[0]) or (
            seen.at_high[worst] and seen.high[worst] < bounds[1]
        ):
            message += f", inside the bounds {bounds[0]:g} .. {bounds[1]:g}"
        if len(columns) > 1:
            others = listed(columns[columns != worst], names)
            message += f" (and often at their ends in columns {others})"
        yield Found("saturated-action", "actions", message, "", int(at_ends[columns].sum()))

    def _normalised(self) -> Iterator[Found]:
        if self._rows < NORMALISED_ROWS or not self._real:
            return
        columns = np.concatenate([np.arange(part.start, part.stop) for part in self._real])
        columns = columns[self._obs.low[columns] < self._obs.high[columns]]
        if len(columns) < 2:
            return
        mean = self._sums[0] / self._rows
        std = np.sqrt(np.maximum(self._sums[1] / self._rows - np.square(mean), 0))
        near = (np.abs(mean) < NORMALISED_TOLERANCE) & (np.abs(std - 1) < NORMALISED_TOLERANCE)
        if near[columns].mean() >= NORMALISED_SHARE:
            message = "the columns have a mean near 0 and a standard deviation near 1"
            yield Found("observation-normalised", "", message, "", int(near[columns].sum()))
            return
        low, high = self._obs.low[columns], self._obs.high[columns]
        for bottom in (0.0, -1.0):
            if (low == bottom).all() and (high == 1.0).all():
                message = f"every column runs from exactly {bottom:g} to exactly 1"
                yield Found("observation-normalised", "", message, "", len(columns))


class _Extremes:
    """Of each column the least and the largest value, how often they come, and a digest."""

    def __init__(self, width: int) -> None:
        self.rows = 0
        self.low = np.full(width, np.inf)
        self.high = np.full(width, -np.inf)
        self.at_low = np.zeros(width, np.int64)
        self.at_high = np.zeros(width, np.int64)
        self._digests = np.zeros(width, np.uint64)
        self._rng = np.random.default_rng(0)

    def see(self, values: npt.NDArray[Any]) -> None:
        values = np.asarray(values, np.float32) + np.float32(0)  # -0 and 0 are one number
        self.rows += len(values)
        low, high = values.min(axis=0), values.max(axis=0)
        self.at_low = np.where(low < self.low, 0, self.at_low)
        self.at_high = np.where(high > self.high, 0, self.at_high)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.at_low += (values == self.low).sum(axis=0)
        self.at_high += (values == self.high).sum(axis=0)
        weights = self._rng.integers(1, 2**63, len(values), dtype=np.uint64) | np.uint64(1)
        bits = values.view(np.uint32).astype(np.uint64)
        self._digests += (bits * weights[:, None]).sum(axis=0, dtype=np.uint64)

    def equal(
        self,
        code: str,
        field: str,
        label: str,
        span: tuple[int, int],
        names: Sequence[str] | None,
    ) -> Iterator[Found]:
        """Yield columns of a span [start, stop) that are equal in every row and vary."""
        start, stop = span
        groups: dict[int, list[str]] = {}
        for column in range(start, stop):
            if self.low[column] < self.high[column]:
                name = column_name(column if names else column - start, names)
                groups.setdefault(int(self._digests[column]), []).append(name)
        twins = [group for group in groups.values() if len(group) > 1]
        if twins:
            shown = "; ".join(" and ".join(group) for group in twins[:4])
            more = " ..." if len(twins) > 4 else ""
            message = f"{label} has columns that are equal in every row: {shown}{more}"
            yield Found(code, field, message, "", sum(len(group) - 1 for group in twins))


def _is_real(part: Part) -> bool:
    return part.kind == "box" and np.dtype(part.dtype).kind == "f"

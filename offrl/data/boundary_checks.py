"""Rules on where episodes begin and end: rows that pair two episodes, and ends that are none.

An automatic reset hands out the first observation of the next episode with the last step of this
one. A log that forgets an end jumps, in the middle of an episode, to where episodes begin.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.data.findings import Found, place
from offrl.data.spec import Spec

LIMIT_EPISODES, LIMIT_STEPS = 5, 20  # fewer or shorter ones end alike by chance
LIMIT_SHARE = 0.2  # of the episodes: fewer reach the greatest length by chance
KNOWN_LIMIT_EPISODES = 3
STARTS = 5  # episodes that show where episodes begin
JUMP = 6.0  # times the usual step of a column; no system that was tried steps so far into a start
MARGIN = 3.0  # of the range of n starts, over n: one more start lies that far outside, if at all
CANDIDATES = 3  # per episode
MAX_WIDTH = 1024  # columns; pictures do not step


class Boundaries:
    """Remembers first and last observations, the widest steps, and how episodes ended."""

    def __init__(self, spec: Spec, limit: int | None) -> None:
        self._limit = limit  # steps after which the environment cuts an episode, where it says so
        real = [
            np.arange(part.start, part.stop)
            for part in spec.obs_parts
            if part.kind == "box" and np.dtype(part.dtype).kind == "f"
        ]
        columns = np.concatenate(real) if real else np.zeros(0, np.int64)
        self._columns = columns if len(columns) <= MAX_WIDTH else columns[:0]
        self._numbers: list[int] = []
        self._starts: list[npt.NDArray[Any]] = []
        self._ends: list[npt.NDArray[Any]] = []
        self._last_steps: list[npt.NDArray[Any]] = []
        self._terminated: list[bool] = []
        self._truncated: list[bool] = []
        self._lengths: list[int] = []
        self._repeated: list[bool] = []
        self._rows: list[tuple[int, int, npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._squares = np.zeros(len(self._columns))
        self._steps = 0

    def see(self, number: int, obs: npt.NDArray[Any], ended: tuple[bool, bool]) -> None:
        """Note an episode: obs [T+1, obs_dim], whether its last step terminated, truncated."""
        self._numbers.append(number)
        self._starts.append(obs[0].copy())
        self._ends.append(obs[-1].copy())
        self._terminated.append(ended[0])
        self._truncated.append(ended[1])
        self._lengths.append(len(obs) - 1)
        self._repeated.append(bool(np.array_equal(obs[-1], obs[-2])))
        real = obs[:, self._columns].astype(np.float64)
        steps = np.diff(real, axis=0)
        self._last_steps.append(steps[-1])
        steps = steps[:-1]  # the last one may lead into the next episode
        if not len(steps) or not len(self._columns):
            return
        usual = np.abs(steps).mean(axis=0)
        wide = (np.abs(steps) / np.where(usual > 0, usual, np.inf)).max(axis=1)
        for t in np.argsort(-wide, kind="stable")[:CANDIDATES].tolist():
            self._rows.append((number, t, real[t], real[t + 1]))
        self._squares += np.square(steps).sum(axis=0)
        self._steps += len(steps)

    def finish(self) -> Iterator[Found]:
        """Yield what breaks a rule."""
        yield from self._last_repeated()
        yield from self._carried()
        yield from self._crossings()
        yield from self._time_limit()

    def _last_repeated(self) -> Iterator[Found]:
        if max(self._lengths, default=0) < 2:
            return  # where every decision stands alone, nothing follows
        if len(self._repeated) > 1 and all(self._repeated) and not self._all_equal(self._ends):
            message = "every episode ends with the same observation twice"
            # Nothing is learned from what follows an end that is real.
            minor = all(self._terminated)
            count = len(self._repeated)
            yield Found("last-observation-repeated", "", message, "", count, minor)

    def _carried(self) -> Iterator[Found]:
        """Last observations that are the first ones of the next episode."""
        pairs = range(len(self._starts) - 1)
        for over in (True, False):
            mine = [i for i in pairs if self._terminated[i] is over]
            carried = [i for i in mine if np.array_equal(self._ends[i], self._starts[i + 1])]
            if not carried or self._all_equal([self._starts[i + 1] for i in carried]):
                continue  # where all begin alike, coming back there is no surprise
            first = place(self._numbers[carried[0]], self._lengths[carried[0]] - 1)
            if over and len(carried) == len(mine):
                message = "the last observation of terminated episodes is the first of the next one"
                yield Found("last-observation-from-next", "", message, first, len(carried))
            elif not over and len(self._columns):
                far = [i for i in carried if self._is_jump(self._last_steps[i])]
                if len(far) * 2 > len(carried):
                    message = "the last step of truncated episodes leaps to the first observation"
                    message += " of the next one"
                    yield Found("last-observation-from-next", "", message, first, len(carried))
                else:
                    message = "truncated episodes go on in the next one, as one log cut in pieces"
                    yield Found("continued-in-next", "", message, first, len(carried))

    def _crossings(self) -> Iterator[Found]:
        """Steps inside an episode that jump to where episodes begin."""
        if len(self._starts) < STARTS or not self._rows:
            return
        starts = np.stack(self._starts)[:, self._columns].astype(np.float64)
        low, high = starts.min(axis=0), starts.max(axis=0)
        margin = MARGIN / len(starts) * (high - low)
        low, high = low - margin, high + margin
        found = [
            (number, t)
            for number, t, before, after in self._rows
            if self._is_jump(after - before)
            and bool(((after >= low) & (after <= high)).all())
            # Leaving a place where episodes begin, everything must leap: a goal that is set anew
            # in mid-episode is a leap of a few columns only.
            and (
                not bool(((before >= low) & (before <= high)).all())
                or self._leaping(after - before) >= 0.5
            )
        ]
        if found:
            message = "steps jump to where episodes begin, as if an end before them was not flagged"
            yield Found("boundary-crossing", "observations", message, place(*found[0]), len(found))

    def _is_jump(self, step: npt.NDArray[Any]) -> bool:
        return self._leaping(step) > 0

    def _leaping(self, step: npt.NDArray[Any]) -> float:
        """The share of the columns, of those that move at all, which go much farther than usual."""
        usual = np.sqrt(self._squares / max(1, self._steps))
        far = np.abs(step) > JUMP * np.where(usual > 0, usual, np.inf)
        return float(far.sum() / max(1, (usual > 0).sum()))

    def _time_limit(self) -> Iterator[Found]:
        lengths, over = np.array(self._lengths), np.array(self._terminated)
        cut = np.array(self._truncated)
        if not len(lengths) or not over.any():
            return
        if self._limit is not None and self._limit >= LIMIT_STEPS:
            at_limit = int((over & ~cut & (lengths == self._limit)).sum())
            if at_limit >= KNOWN_LIMIT_EPISODES and not (cut & (lengths == self._limit)).any():
                message = f"{at_limit} episodes are terminated after exactly {self._limit} steps,"
                message += " where the environment cuts them, and none is truncated there"
                yield Found("ends-at-one-length", "", message, "", at_limit)
            return
        longest = int(lengths.max())
        there = int((lengths == longest).sum())
        if not over.all() or cut.any() or longest < LIMIT_STEPS or there < LIMIT_EPISODES:
            return
        if there == len(lengths):
            message = f"every episode is terminated after exactly {longest} steps"
        elif there >= LIMIT_SHARE * len(lengths):
            message = f"{there} episodes are terminated after exactly {longest} steps, and none"
            message += " lasts longer"
        else:
            return
        yield Found("ends-at-one-length", "", message, "", there, minor=True)

    @staticmethod
    def _all_equal(rows: list[npt.NDArray[Any]]) -> bool:
        return all(np.array_equal(rows[0], row) for row in rows[1:])

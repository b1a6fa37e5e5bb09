"""The rules on values: what one episode shows, and what only all of them together do."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.boundary_checks import Boundaries
from offrl.data.column_checks import Columns
from offrl.data.decision_checks import LogProbs, Masks, Rewards
from offrl.data.episode_facts import contents
from offrl.data.episodes import Episode, leaves
from offrl.data.findings import Found, listed, place
from offrl.data.limits import out_of_bounds
from offrl.data.spec import Spec

SMALL_REWARD, LARGE_REWARD = 1e-6, 1e6
REPEATED_SHARE = 0.1  # an environment that rests repeats a row now and then


class Watch:
    """Looks at every episode once and remembers what the rules over all episodes need."""

    def __init__(self, spec: Spec, limit: int | None = None) -> None:
        self._spec = spec
        self._columns, self._boundaries = Columns(spec), Boundaries(spec, limit)
        self._log_probs, self._masks, self._prizes = LogProbs(spec), Masks(spec), Rewards()
        self._digests: dict[str, int] = {}
        self._low: npt.NDArray[Any] | None = None  # of each flat observation and action column
        self._high: npt.NDArray[Any] | None = None
        self._rewards = (np.inf, -np.inf)
        self._rows: list[npt.NDArray[np.uint64]] = []  # a hash of observation and action per step
        self._owners: list[int] = []
        self._ended = False  # whether any episode is terminated
        self._missing_log_prob: list[int] = []
        self._logged = 0
        weights = np.random.default_rng(0).integers(
            1, 2**63, spec.obs_dim + max(1, spec.action_dim), dtype=np.uint64
        )
        self._weights = weights | np.uint64(1)

    def episode(self, number: int, episode: Episode, *, flatten: bool) -> Iterator[Found]:
        """Yield what breaks a rule in this episode; its structure is known to be sound."""
        yield from self._ends(number, episode)
        yield from self._finite(number, episode)
        yield from self._bounds(number, episode)
        twin = self._digests.setdefault(contents(episode), number)
        if twin != number and len(episode) > 1:  # decisions of one step are alike by chance
            message = f"episodes repeat earlier ones, as episode {number} does episode {twin}"
            minor = not self._real_obs()  # of few values, two episodes are alike by chance
            yield Found("duplicate-episode", "", message, f"episode {number}", 1, minor)
        yield from self._log_prob(number, episode)
        if flatten:
            self._remember(number, episode, copy=twin != number)
            yield from self._masks.see(number, episode)

    def _ends(self, number: int, episode: Episode) -> Iterator[Found]:
        last = len(episode) - 1
        both = np.flatnonzero(episode.terminations & episode.truncations)
        if both.size:
            message = "steps are both terminated and truncated"
            yield Found("both-ends", "", message, place(number, both[0]), both.size)
        if not (episode.terminations[last] or episode.truncations[last]):
            message = "episodes end neither terminated nor truncated"
            yield Found("open-end", "", message, place(number, last))

    def _finite(self, number: int, episode: Episode) -> Iterator[Found]:
        columns = [
            *(("observation", *leaf) for leaf in leaves(episode.observations)),
            ("action", "", episode.actions),
            ("reward", "", episode.rewards),
        ]
        for name, path, column in columns:
            if column.dtype.kind != "f":
                continue
            finite = np.isfinite(column)
            if not finite.all():
                bad = np.argwhere(~finite)
                label = f"{name} '{path}'" if path else name
                yield Found(
                    f"non-finite-{name}",
                    path,
                    f"{label} holds NaN or infinity",
                    place(number, bad[0][0]),
                    len(bad),
                )

    def _bounds(self, number: int, episode: Episode) -> Iterator[Found]:
        space = self._spec.action_space
        if isinstance(space, spaces.Box):
            message = f"actions lie outside their bounds ({_range(space)})"
            yield from _outside(
                "action-out-of-bounds", "actions", message, number, episode.actions, space
            )
        columns = dict(leaves(episode.observations))
        for part, part_space in self._spec.obs_leaves:
            if isinstance(part_space, spaces.Box):
                label = f"observation '{part.path}'" if part.path else "observations"
                yield from _outside(
                    "observation-out-of-space",
                    part.path,
                    f"{label} lie outside the observation space ({_range(part_space)})",
                    number,
                    columns[part.path],
                    part_space,
                )

    def _log_prob(self, number: int, episode: Episode) -> Iterator[Found]:
        name = "infos/behavior_log_prob"
        log_prob = episode.behavior_log_prob
        missing = np.isnan(log_prob)
        if missing.all():
            self._missing_log_prob.append(number)
            return
        self._logged += 1
        column = np.asarray(episode.infos["behavior_log_prob"], dtype=np.float64)
        shifted = len(column) == len(episode) + 1 and np.isnan(column[-1])
        if shifted and not np.isnan(column[:-1]).any():
            message = f"{name} is one row early: row 0 has a value and the last row has none"
            yield Found("log-prob-shifted", name, message, f"episode {number}")
            return
        infinite = np.flatnonzero(np.isinf(log_prob))
        if infinite.size:
            message = f"{name} is infinite"
            where = place(number, infinite[0])
            yield Found("log-prob-infinite", name, message, where, infinite.size)
        positive = np.flatnonzero(log_prob > 1e-6)
        if self._spec.discrete and positive.size:
            message = f"{name} of discrete actions is above 0"
            where = place(number, positive[0])
            yield Found("log-prob-positive", name, message, where, positive.size)
        if missing.any():
            where = np.flatnonzero(missing)
            message = f"{name} is missing inside episodes that have it elsewhere"
            yield Found("log-prob-gap", name, message, place(number, where[0]), where.size)

    def _remember(self, number: int, episode: Episode, *, copy: bool) -> None:
        obs = self._spec.flatten_obs(episode.observations)
        actions = self._spec.flatten_actions(episode.actions)
        action = actions[:, None] if actions.ndim == 1 else actions
        low = np.concatenate([obs.min(axis=0), action.min(axis=0)])
        high = np.concatenate([obs.max(axis=0), action.max(axis=0)])
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)
        rewards = episode.rewards
        self._rewards = (
            min(self._rewards[0], float(rewards.min())),
            max(self._rewards[1], float(rewards.max())),
        )
        ended = bool(episode.terminations[-1]), bool(episode.truncations[-1])
        self._ended |= ended[0]
        if all(bool(np.isfinite(column).all()) for column in (obs, action, rewards)):
            self._boundaries.see(number, obs, ended)
            self._columns.see(obs, action)
            self._prizes.see(number, episode)
            self._log_probs.see(episode, action)
        if not copy and self._exact_rows():
            bits = np.concatenate([obs[:-1], action], axis=1).view(np.uint32).astype(np.uint64)
            self._rows.append((bits * self._weights[: bits.shape[1]]).sum(axis=1, dtype=np.uint64))
            self._owners.append(number)

    def _exact_rows(self) -> bool:
        """Whether equal rows are a surprise: real-valued actions and observations."""
        return not self._spec.discrete and self._real_obs()

    def _real_obs(self) -> bool:
        kinds = (np.dtype(part.dtype).kind for part in self._spec.obs_parts if part.width)
        return all(kind == "f" for kind in kinds)

    def finish(self) -> Iterator[Found]:
        """Yield what breaks a rule over all episodes."""
        if self._logged and self._missing_log_prob:
            first = f"episode {self._missing_log_prob[0]}"
            message = "episodes have no infos/behavior_log_prob, while others do"
            yield Found("log-prob-partial", "", message, first, len(self._missing_log_prob))
        yield from self._constants()
        yield from self._reward_scale()
        yield from self._duplicate_rows()
        for rules in (
            self._boundaries, self._columns, self._prizes, self._log_probs, self._masks
        ):  # fmt: skip
            yield from rules.finish()

    def _constants(self) -> Iterator[Found]:
        if self._low is None or self._high is None:
            return
        constant = self._low == self._high
        for part in self._spec.obs_parts:
            columns = np.flatnonzero(constant[part.start : part.stop])
            if columns.size:
                names = self._spec.obs_names
                label = f"observation '{part.path}'" if part.path else "the observation"
                shown = listed(columns if names is None else columns + part.start, names)
                message = f"{label} never changes in column {shown}"
                yield Found("constant-observation", part.path, message, "", columns.size)
        actions = np.flatnonzero(constant[self._spec.obs_dim :])
        if actions.size:
            names = self._spec.action_names
            shown = "" if self._spec.discrete else f" in column {listed(actions, names)}"
            message = f"the action never changes{shown}"
            yield Found("constant-action", "", message, "", actions.size)

    def _reward_scale(self) -> Iterator[Found]:
        low, high = self._rewards
        if not (np.isfinite(low) and np.isfinite(high)):
            return
        if (
            low == high and not self._ended
        ):  # where episodes end early, their length tells them apart
            message = f"every reward is {low:g} and no episode is terminated"
            yield Found("constant-reward", "", message)
        largest = max(abs(low), abs(high))
        if largest > LARGE_REWARD or 0 < largest < SMALL_REWARD:
            message = f"rewards run from {low:g} to {high:g}"
            yield Found("reward-scale", "", message)

    def _duplicate_rows(self) -> Iterator[Found]:
        if not self._rows:
            return
        rows = np.concatenate(self._rows)
        _, first, counts = np.unique(rows, return_index=True, return_counts=True)
        again = int((counts - 1).sum())
        if again:
            lengths = np.cumsum([0, *map(len, self._rows)])
            row = int(first[counts > 1].min())
            at = int(np.searchsorted(lengths, row, side="right") - 1)
            where = place(self._owners[at], row - int(lengths[at]))
            message = "steps repeat the observation and action of another step exactly"
            # A deterministic environment comes back to a state by itself; a log that wrote rows
            # twice shows it by rows that repeat the one before.
            repeats = sum(int((one[1:] == one[:-1]).sum()) for one in self._rows)
            minor = repeats < REPEATED_SHARE * len(rows)
            yield Found("duplicate-row", "", message, where, again, minor)


def _outside(
    code: str,
    field: str,
    message: str,
    number: int,
    column: npt.NDArray[Any],
    space: spaces.Box,
) -> Iterator[Found]:
    rows = column.reshape(len(column), -1)
    outside = out_of_bounds(rows, space.low.reshape(-1), space.high.reshape(-1)).any(axis=1)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        yield Found(code, field, message, place(number, first), int(outside.sum()))


def _range(space: spaces.Box) -> str:
    return f"{float(space.low.min()):g} .. {float(space.high.max()):g}"

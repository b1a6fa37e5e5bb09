"""Steps: a foreign log as flat rows, and the episodes that its flags or its observations make.

    obs       o0  o1  o2 | o5  o6        one row per step; the state after the last step of an
    action    a0  a1  a2 | a5  a6        episode is known where next_obs is logged, or where the
    flag       .   .   T |  .   .        next row continues from it

Flags and observations can contradict each other: a flag where the observations run on, a jump where
no flag is. Each contradiction is counted and placed; the caller chooses which of the two is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.columns import Columns
from offrl.data.episodes import Episode
from offrl.errors import ConfigError

Boundaries = Literal["keep", "d4rl"]
Split = Literal["flags", "jumps"]
MAX_PLACES = 5
JUMPS, UNKNOWN, CONTINUES = -1, 0, 1
# How much more than 99 of 100 ordinary steps a quarter of the columns must move in a jump.
JUMP = 3.0
# Rows to learn the usual from, at least and at most, and columns (no images).
MIN_QUIET, MAX_FIT, MAX_WIDTH = 50, 20_000, 1000
# So many episodes of the greatest length, and so long, are no chance.
LIMIT_STEPS, LIMIT_EPISODES, LIMIT_SHARE = 20, 3, 0.05


@dataclass(frozen=True)
class Finding:
    """One way in which a foreign file contradicts itself: `check` reports it as it stands here."""

    code: str
    message: str
    count: int
    places: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return {
            "code": self.code,
            "message": self.message,
            "count": self.count,
            "places": list(self.places),
        }


@dataclass(frozen=True)
class Imported:
    """What an importer made of a file: episodes, spaces, what it assumed, what it found."""

    episodes: list[Episode]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    columns: Columns | None = None
    rows: int | None = None  # of the file


@dataclass(frozen=True)
class Steps:
    """N rows in the order of the file."""

    obs: npt.NDArray[Any]  # [N, ...]
    action: npt.NDArray[Any]  # [N, ...]
    reward: npt.NDArray[np.float64]  # [N]
    terminated: npt.NDArray[np.bool_]  # [N]
    truncated: npt.NDArray[np.bool_]  # [N]
    next_obs: npt.NDArray[Any] | None = None
    log_prob: npt.NDArray[np.float64] | None = None
    infos: Mapping[str, Any] = field(default_factory=dict)  # nested, leaves [N, ...]
    group: npt.NDArray[Any] | None = None  # the file's own number of the episode of each row

    def __len__(self) -> int:
        return len(self.reward)


def episodes_of(
    steps: Steps, *, boundaries: Boundaries = "keep", split: Split = "flags"
) -> tuple[list[Episode], list[Finding], list[str]]:
    """Return the episodes of the rows, the contradictions found, and what was assumed.

    `boundaries="d4rl"` drops what D4RL's own reader drops: rows flagged as time-outs, and the last
    row of the file. `split="jumps"` ends episodes where the observations jump and ignores flags
    where they run on.
    """
    if not len(steps):
        raise ConfigError("The file has no steps.", "Give a log with at least one step.")
    n = len(steps)
    flagged = steps.terminated | steps.truncated
    changes = np.zeros(n, dtype=bool)
    if steps.group is not None:
        changes[:-1] = steps.group[1:] != steps.group[:-1]
    course = _course(steps, flagged | changes)
    findings = _contradictions(steps, course, changes)
    certain = steps.next_obs is not None
    if split == "jumps":
        ends = changes | (course == JUMPS) | (flagged & (course != CONTINUES))
    else:
        ends = flagged | changes | ((course == JUMPS) & certain)
    ends[-1] = True
    notes = _notes(steps, findings, flagged, split)
    chosen = _Chosen(steps, boundaries)
    stops = np.flatnonzero(ends) + 1
    starts = [0, *stops[:-1].tolist()]
    episodes: list[Episode] = []
    for first, stop in zip(starts, stops.tolist(), strict=True):
        episode = chosen.episode(len(episodes), first, stop)
        if episode is not None:
            episodes.append(episode)
    if not episodes:
        raise ConfigError(
            "No step is left: every one is a time-out, which D4RL's boundaries drop.",
            "Use --boundaries keep.",
        )
    return episodes, findings, [*notes, *chosen.notes()]


class _Chosen:
    """Cuts rows into episodes and remembers where the last observation had to be guessed."""

    def __init__(self, steps: Steps, boundaries: Boundaries) -> None:
        self.steps, self.boundaries = steps, boundaries
        self.stand_ins = self.dropped = 0

    def episode(self, number: int, first: int, stop: int) -> Episode | None:
        """The rows first .. stop-1 as an episode; None where the boundaries leave nothing."""
        steps, last = self.steps, stop - 1
        terminated = bool(steps.terminated[last])
        if self.boundaries == "d4rl" and (steps.truncated[last] or stop == len(steps)):
            self.dropped += 1
            stop, terminated = last, False
            if stop == first:
                return None
            final = steps.obs[last]
        elif steps.next_obs is not None:
            final = steps.next_obs[last]
        else:
            # Not the next row: where it belongs to another episode it must never be paired.
            self.stand_ins += not terminated
            final = steps.obs[last]
        length = stop - first
        flags = np.zeros((2, length), dtype=bool)
        flags[:, -1] = terminated, not terminated or bool(steps.truncated[stop - 1])
        infos = _rows(steps.infos, first, stop)
        if steps.log_prob is not None:
            infos["behavior_log_prob"] = np.concatenate([[np.nan], steps.log_prob[first:stop]])
        return Episode(
            id=number,
            observations=np.concatenate([steps.obs[first:stop], final[None]]),
            actions=steps.action[first:stop],
            rewards=steps.reward[first:stop],
            terminations=flags[0],
            truncations=flags[1],
            infos=infos,
        )

    def notes(self) -> list[str]:
        """What had to be assumed while cutting."""
        notes = []
        if self.dropped:
            notes.append(
                f"{self.dropped} steps were dropped as D4RL's own reader drops them (time-outs and"
                " the last row); --boundaries keep keeps them"
            )
        if self.stand_ins:
            notes.append(
                f"{self.stand_ins} episodes end without a logged last observation, and the one"
                " before it stands in for it; --boundaries d4rl drops such steps"
            )
        return notes


def _rows(infos: Mapping[str, Any], first: int, stop: int) -> dict[str, Any]:
    return {
        key: _rows(value, first, stop) if isinstance(value, Mapping) else value[first:stop]
        for key, value in infos.items()
    }


def _course(steps: Steps, ends: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    """Whether row i+1 continues from row i, jumps away, or cannot be told, [N]."""
    n = len(steps)
    course = np.full(n, UNKNOWN, dtype=np.int8)
    if n < 2:
        return course
    if steps.next_obs is not None:
        one, two = steps.next_obs[:-1], steps.obs[1:]
        same = one == two
        if steps.obs.dtype.kind == "f":
            same |= np.isnan(one) & np.isnan(two)
        course[:-1] = np.where(same.reshape(n - 1, -1).all(axis=1), CONTINUES, JUMPS)
        return course
    flat = steps.obs.reshape(n, -1)
    quiet = np.flatnonzero(~ends[:-1])
    if flat.dtype.kind != "f" or flat.shape[1] > MAX_WIDTH or len(quiet) < MIN_QUIET:
        return course
    left = _unforeseen(flat, steps.action, quiet)
    if left is None:
        return course
    ordinary, usual = left.good.max(axis=0), np.quantile(left.all[quiet], 0.99, axis=0)
    course[:-1][(left.all <= ordinary).all(axis=1)] = CONTINUES
    moves = usual > 1e-9 * (1 + np.abs(flat).max(axis=0))
    if moves.any():
        ratio = left.all[:, moves] / usual[moves]
        # One column may hit a stop; a reset moves most of them.
        most, half = np.quantile(ratio, 0.75, axis=1), np.median(ratio, axis=1)
        course[:-1][(most > JUMP) & (half > 1)] = JUMPS
    return course


class _Left(NamedTuple):
    """What a model of the steps leaves unexplained: in all steps, and in those that it fits."""

    all: npt.NDArray[np.float64]  # [N-1, columns]
    good: npt.NDArray[np.float64]


def _unforeseen(
    flat: npt.NDArray[Any], action: npt.NDArray[Any], quiet: npt.NDArray[np.int64]
) -> _Left | None:
    """How far each next row is from what a linear model of the unflagged steps foretells.

    Where a body is at rest or in free motion the model is nearly exact, so that a reset shows even
    where single steps are as large as a reset.
    """
    n = len(flat)
    acted = action.reshape(n, -1) if action.dtype.kind == "f" else np.zeros((n, 0))
    known = np.concatenate([flat, acted, np.ones((n, 1))], axis=1).astype(np.float64)[:-1]
    moved = np.diff(flat.astype(np.float64), axis=0)
    if not (np.isfinite(known).all() and np.isfinite(moved).all()):
        return None
    good = quiet[:: max(1, len(quiet) // MAX_FIT)]
    weights = np.linalg.lstsq(known[good], moved[good], rcond=None)[0]
    # Once more without the steps that fit worst, among which are the jumps that no flag names.
    misfit = np.abs(moved[good] - known[good] @ weights)
    worst = (misfit / (np.median(misfit, axis=0) + 1e-30)).max(axis=1)
    good = good[worst <= np.quantile(worst, 0.98)]
    weights = np.linalg.lstsq(known[good], moved[good], rcond=None)[0]
    left = np.abs(moved - known @ weights)
    return _Left(left, left[good])


def _contradictions(
    steps: Steps, course: npt.NDArray[np.int8], changes: npt.NDArray[np.bool_]
) -> list[Finding]:
    flagged = steps.terminated | steps.truncated
    runs_on = (course == CONTINUES) & ~changes
    inside = "" if steps.group is None else " inside one episode"
    cases = (
        (
            "timeout-inside-episode",
            "time-outs are flagged where the observations run on",
            steps.truncated & ~steps.terminated & runs_on,
        ),
        (
            "end-inside-log",
            "terminal steps are flagged where the observations run on",
            steps.terminated & runs_on,
        ),
        (
            "jump-without-end",
            f"observations jump{inside} where no end is flagged",
            ~flagged & ~changes & (course == JUMPS),
        ),
    )
    found = [finding_at(code, message, where) for code, message, where in cases]
    return [finding for finding in found if finding is not None]


def finding_at(code: str, message: str, where: npt.NDArray[np.bool_]) -> Finding | None:
    """Return a finding at the rows where a mask is true, None where it nowhere is."""
    rows = np.flatnonzero(where)
    if not rows.size:
        return None
    places = tuple(f"row {row}" for row in rows[:MAX_PLACES])
    return Finding(code, message, int(rows.size), places)


def _notes(
    steps: Steps, findings: list[Finding], flagged: npt.NDArray[np.bool_], split: Split
) -> list[str]:
    notes = []
    certain = steps.next_obs is not None
    for finding in findings:
        jump = finding.code == "jump-without-end"
        if jump and (certain or split == "jumps"):
            reading = "an episode ends there, as truncated"
        elif jump:
            reading = "no episode ends there; --split jumps ends one"
        elif split == "jumps":
            reading = "no episode ends there; --split flags ends one"
        else:
            reading = "an episode ends there; --split jumps goes on instead"
        where = ", ".join(finding.places) + (" ..." if finding.count > MAX_PLACES else "")
        notes.append(f"{finding.message} ({finding.count}: {where}): {reading}")
    if not flagged[-1]:
        notes.append("the last row has no end and counts as truncated")
    return notes


def limited(made: Imported, time_limit: int | None) -> Imported:
    """Return the episodes with those of `time_limit` steps truncated, not terminated.

    Without a limit, many terminated episodes of the greatest length are a finding: a limit that
    was logged as an end makes every value before it too small.
    """
    lengths = np.array([len(episode) for episode in made.episodes])
    over = np.array([bool(episode.terminations[-1]) for episode in made.episodes])
    if time_limit is not None:
        at_limit = over & (lengths == time_limit)
        episodes = [
            _truncated(episode) if cut else episode
            for episode, cut in zip(made.episodes, at_limit, strict=True)
        ]
        note = f"{at_limit.sum()} episodes of {time_limit} steps were flagged as terminal and are"
        note += " truncated, by --time-limit"
        return replace(made, episodes=episodes, notes=(*made.notes, note))
    longest = int(lengths.max())
    capped = int((over & (lengths == longest)).sum())
    if longest < LIMIT_STEPS or capped < max(LIMIT_EPISODES, LIMIT_SHARE * len(lengths)):
        return made
    message = f"episodes of {longest} steps, the most that occur, are flagged as terminal"
    finding = Finding("time-limit-as-end", message, capped)
    note = f"{message} ({capped} of {len(lengths)}): they are terminated; if that is a time limit,"
    note += f" --time-limit {longest} makes them truncated"
    return replace(made, notes=(*made.notes, note), findings=(*made.findings, finding))


def _truncated(episode: Episode) -> Episode:
    return replace(
        episode,
        terminations=np.zeros_like(episode.terminations),
        truncations=np.arange(len(episode)) == len(episode) - 1,
    )

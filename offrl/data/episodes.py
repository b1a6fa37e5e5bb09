"""Episode: one trajectory as it was logged, and what makes it well formed.

observations   o0   o1   o2   ...   oT      T+1 rows: the last one is the state after the end
actions           a0   a1   ...   aT-1      T rows; action t leads from row t to row t+1
rewards           r0   r1   ...   rT-1      T rows, and so are terminations and truncations
infos          i0   i1   i2   ...   iT      T+1 rows: row 0: the reset, row t+1: action t
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.spec import Part, Spec
from offrl.errors import CorruptDataError

FORMAT_HELP = (
    "An episode of T steps needs T+1 observations and T actions, rewards, terminations and"
    " truncations, each as its space declares."
)


@dataclass(frozen=True, repr=False, eq=False)
class Episode:
    """One trajectory of T steps; observations and infos may be nested dictionaries or tuples."""

    id: int
    observations: Any  # leaves [T+1, ...]; text leaves are arrays of str
    actions: Any  # [T, ...]
    rewards: npt.NDArray[np.float64]  # [T]
    terminations: npt.NDArray[np.bool_]  # [T], the task itself ended
    truncations: npt.NDArray[np.bool_]  # [T], the recording was cut, by a time limit for example
    infos: dict[str, Any] = field(default_factory=dict)  # leaves [T+1, ...]
    seed: int | None = None  # what the environment was reset with

    def __post_init__(self) -> None:
        rewards = np.asarray(self.rewards)
        if rewards.dtype.kind in "iuf":
            rewards = rewards.astype(np.float64, copy=False)
        converted = {
            "observations": as_arrays(self.observations),
            "actions": as_arrays(self.actions),
            "rewards": rewards,
            "terminations": np.asarray(self.terminations),
            "truncations": np.asarray(self.truncations),
        }
        for name, value in converted.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.rewards)

    def __repr__(self) -> str:
        fields = ("observations", "actions", "rewards", "terminations", "truncations", "infos")
        shapes = ", ".join(f"{name}={_shapes(getattr(self, name))}" for name in fields)
        return f"Episode(id={self.id}, steps={len(self)}, {shapes}, seed={self.seed})"

    @property
    def episode_return(self) -> float:
        """The undiscounted sum of the rewards."""
        return float(self.rewards.sum())

    @property
    def behavior_log_prob(self) -> npt.NDArray[np.float64]:
        """Log-probability of each executed action under the behaviour, [T], NaN where absent.

        Of T+1 rows, row t+1 belongs to action t; of T rows, row t does. Raises CorruptDataError
        for any other length.
        """
        column = info_of_actions(self, "behavior_log_prob")
        if column is None:
            return np.full(len(self), np.nan)
        if column.ndim != 1 or column.dtype.kind not in "iuf":
            raise CorruptDataError(
                f"Episode {self.id}: infos/behavior_log_prob is {column.dtype} of the shape"
                f" {column.shape}, where one number per step is expected.",
                FORMAT_HELP,
            )
        return column.astype(np.float64)


def info_of_actions(episode: Episode, key: str) -> npt.NDArray[Any] | None:
    """Return the T rows of an info that belong to the actions, or None where it is absent."""
    if key not in episode.infos:
        return None
    column, steps = np.asarray(episode.infos[key]), len(episode)
    rows = column.shape[0] if column.ndim else 0
    if rows == steps + 1:
        return column[1:]
    if rows == steps:
        return column
    raise CorruptDataError(
        f"Episode {episode.id}: infos/{key} has {rows} rows, where {steps + 1} are expected"
        f" for {steps} steps (or {steps}, one per action).",
        FORMAT_HELP,
    )


def as_arrays(value: Any) -> Any:
    """Return nested dictionaries and tuples with every leaf as an array, text as objects."""
    if isinstance(value, Mapping):
        return {key: as_arrays(child) for key, child in value.items()}
    if isinstance(value, tuple):
        return tuple(as_arrays(child) for child in value)
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind == "U" else array


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield each array of a nested value with its path, parts joined by "/"."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from leaves(child, f"{path}/{key}" if path else str(key))
    elif isinstance(value, tuple):
        for i, child in enumerate(value):
            yield from leaves(child, f"{path}/{i}" if path else str(i))
    else:
        yield path, np.asarray(value)


def validate(episode: Episode, spec: Spec) -> None:
    """Raise CorruptDataError for the first thing that makes the episode malformed."""
    for fault in faults(episode, spec):
        raise CorruptDataError(f"Episode {episode.id}: {fault.message}.", fault.advice)


@dataclass(frozen=True)
class Fault:
    """One thing that makes an episode malformed: a stable code, the field, what is wrong."""

    code: str
    field: str
    message: str  # begins with the field, ends without a full stop
    advice: str
    step: int | None = None


def faults(episode: Episode, spec: Spec) -> Iterator[Fault]:
    """Yield what makes the episode malformed against the spec: its structure, else its contents."""
    structural = list(structure_faults(columns_of(episode), spec))
    yield from structural
    if not structural:
        yield from _text_faults(episode, spec)
        yield from _choice_faults(episode, spec)
        yield from _end_faults(episode)


class Column(Protocol):
    """What the structure of a column is judged by; an array is one, and so is what a file says."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...


def columns_of(episode: Episode) -> dict[str, Column]:
    """Return the columns of an episode by name, "observations/<part>" for parts."""
    columns: dict[str, Column] = {}
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        columns.update(leaves(getattr(episode, name), name))
    return columns


def structure_faults(columns: Mapping[str, Column], spec: Spec) -> Iterator[Fault]:
    """Yield the columns that are missing or have the wrong length, shape or type."""
    steps = _agreed_steps(columns, spec)
    if steps == 0:
        yield Fault("empty-episode", "rewards", "rewards has no steps", "Leave empty episodes out.")
        return
    kinds = (
        ("rewards", "iuf", "numbers"),
        ("terminations", "b", "bool"),
        ("truncations", "b", "bool"),
    )
    for name, kind, wanted in kinds:
        column = columns.get(name)
        if column is None:
            yield _missing(name)
        elif column.shape != (steps,):
            yield _length(name, column.shape, (steps,))
        elif column.dtype.kind not in kind:
            yield _type(name, f"is {column.dtype}, where {wanted} is expected")
    for part in spec.obs_parts:
        yield from _part_faults(columns, part, steps + 1)
    yield from _action_faults(columns.get("actions"), spec, steps)


def _agreed_steps(columns: Mapping[str, Column], spec: Spec) -> int:
    """Return the steps that most columns tell of, so that the one that differs is the one named."""
    names = ("rewards", "actions", "terminations", "truncations")
    found = [(columns.get(name), 0) for name in names]
    found += [(columns.get(_obs_name(part)), 1) for part in spec.obs_parts[:1]]
    told = [c.shape[0] - more for c, more in found if c is not None and c.shape]
    return max(0, Counter(told).most_common(1)[0][0]) if told else 0


def _obs_name(part: Part) -> str:
    return f"observations/{part.path}" if part.path else "observations"


def _part_faults(columns: Mapping[str, Column], part: Part, rows: int) -> Iterator[Fault]:
    name = _obs_name(part)
    leaf = columns.get(name)
    if leaf is None:
        yield _missing(name)
    elif leaf.shape != (rows, *part.shape):
        yield _length(name, leaf.shape, (rows, *part.shape))
    elif part.kind == "text":
        if leaf.dtype.kind not in "OUS":
            yield _type(name, f"is {leaf.dtype}, where text is expected")
    elif part.kind in ("discrete", "multidiscrete"):
        if leaf.dtype.kind not in "iu":
            yield _type(name, f"is {leaf.dtype}, where whole numbers are expected")
    elif leaf.dtype.kind not in "biuf" or not np.can_cast(leaf.dtype, part.dtype, "same_kind"):
        yield _type(name, f"is {leaf.dtype}, which does not fit {part.dtype}")


def _action_faults(actions: Column | None, spec: Spec, steps: int) -> Iterator[Fault]:
    space = spec.action_space
    shape = (steps, *(space.shape or ()))
    if actions is None:
        yield _missing("actions")
    elif actions.shape != shape:
        yield _length("actions", actions.shape, shape)
    elif isinstance(space, spaces.Discrete):
        if actions.dtype.kind not in "iu":
            yield _type("actions", f"is {actions.dtype}, where whole numbers are expected")
    elif actions.dtype.kind not in "iuf" or not np.can_cast(
        actions.dtype, space.dtype or np.float32, "same_kind"
    ):
        yield _type("actions", f"is {actions.dtype}, which does not fit {space.dtype}")


def _text_faults(episode: Episode, spec: Spec) -> Iterator[Fault]:
    for part in spec.obs_parts:
        leaf = _find(episode.observations, part.path) if part.kind == "text" else None
        if leaf is not None and not all(isinstance(text, str) for text in leaf):
            yield _type(f"observations/{part.path}", "holds something that is not text")


def _choice_faults(episode: Episode, spec: Spec) -> Iterator[Fault]:
    """Choices that a Discrete or MultiDiscrete space does not have."""
    space = spec.action_space
    if isinstance(space, spaces.Discrete):
        start, n = np.array([space.start]), np.array([space.n])
        yield from _choice_fault("action-out-of-range", "actions", episode.actions, start, n)
    for part, leaf_space in spec.obs_leaves:
        name = _obs_name(part)
        leaf = _find(episode.observations, part.path)
        if leaf is None:
            continue
        if isinstance(leaf_space, spaces.Discrete):
            start, n = np.array([leaf_space.start]), np.array([leaf_space.n])
        elif isinstance(leaf_space, spaces.MultiDiscrete):
            start, n = leaf_space.start.reshape(-1), leaf_space.nvec.reshape(-1)
        else:
            continue
        yield from _choice_fault("observation-out-of-space", name, leaf, start, n)


def _choice_fault(
    code: str,
    name: str,
    column: npt.NDArray[Any],
    start: npt.NDArray[Any],
    n: npt.NDArray[Any],
) -> Iterator[Fault]:
    choice = column.reshape(len(column), -1)
    outside = ((choice < start) | (choice >= start + n)).any(axis=1)
    if outside.any():
        step = int(np.flatnonzero(outside)[0])
        allowed = f"{start[0]} .. {start[0] + n[0] - 1}" if len(n) == 1 else "its space"
        message = f"{name} at step {step} is {column[step]}, outside {allowed}"
        yield Fault(code, name, message, "Correct the values, or widen the space.", step)


def _end_faults(episode: Episode) -> Iterator[Fault]:
    steps = len(episode)
    inside = np.flatnonzero((episode.terminations | episode.truncations)[: steps - 1])
    if inside.size:
        step = int(inside[0])
        name = "terminations" if episode.terminations[step] else "truncations"
        yield Fault(
            "end-inside-episode",
            name,
            f"{name} is true at step {step} of {steps}, before the episode ends",
            "Split the log into one episode per end; a row after it would pair two episodes.",
            step,
        )


def _length(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> Fault:
    if found[1:] == expected[1:] and found:
        rule = " (one more than there are steps)" if name.startswith("observations") else ""
        message = f"{name} has {found[0]} rows, where {expected[0]} are expected{rule}"
        return Fault("length-mismatch", name, message, FORMAT_HELP)
    message = f"{name} has the shape {found}, where {expected} is expected"
    return Fault("shape-mismatch", name, message, FORMAT_HELP)


def _missing(name: str) -> Fault:
    return Fault("missing-column", name, f"{name} is missing", FORMAT_HELP)


def _type(name: str, what: str) -> Fault:
    return Fault("type-mismatch", name, f"{name} {what}", FORMAT_HELP)


def _find(observations: Any, path: str) -> npt.NDArray[Any] | None:
    value = observations
    for step in path.split("/") if path else ():
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, tuple) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value if isinstance(value, np.ndarray) else None


def digest(episode: Episode) -> str:
    """Return the SHA-256 (hex) of an episode's columns: the same values give the same digest.

    The columns are the observation leaves sorted by path, actions, rewards, terminations,
    truncations, infos/behavior_log_prob and infos/behavior where they exist; each counts as its
    path, type, shape and little-endian bytes.
    """
    columns = sorted(leaves(episode.observations, "observations"))
    columns += [
        *leaves(episode.actions, "actions"),
        ("rewards", episode.rewards),
        ("terminations", episode.terminations),
        ("truncations", episode.truncations),
    ]
    for key in ("behavior_log_prob", "behavior"):
        if key in episode.infos:
            columns.append((f"infos/{key}", np.asarray(episode.infos[key])))
    sha = hashlib.sha256()
    for path, column in columns:
        head, body = _canonical(path, column)
        sha.update(head)
        sha.update(body)
    return sha.hexdigest()


def fingerprint_of(digests: list[str]) -> str:
    """Return the fingerprint of a dataset from the digests of its episodes, in order."""
    return "sha256:" + hashlib.sha256("".join(digests).encode()).hexdigest()


def _canonical(path: str, column: npt.NDArray[Any]) -> tuple[bytes, bytes | memoryview]:
    if column.dtype.kind in "OUS":
        texts = [str(text).encode() for text in column.reshape(-1)]
        kind, body = "utf8", b"".join(len(text).to_bytes(8, "little") + text for text in texts)
    else:
        little = column.astype(column.dtype.newbyteorder("<"), copy=False)
        kind = little.dtype.str
        body = np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
    return f"{path}\0{kind}\0{column.shape}\0".encode(), body


def _shapes(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shapes(child)}" for key, child in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(_shapes(child) for child in value) + ")"
    array = np.asarray(value)
    return f"{'text' if array.dtype.kind in 'OU' else array.dtype}{list(array.shape)}"

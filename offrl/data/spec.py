"""Spec: what an observation and an action are made of, and how they become flat columns.

    observation (nested)                     obs (flat, float32)
    Dict(direction=Discrete(4),              columns 0..3     direction, one-hot
         image=Box(7, 7, 3),           ->    columns 4..150   image, row by row
         mission=Text)                       (kept on disk, left out of obs)

The order is the space's own and the numbers are those of `gymnasium.spaces.flatten`, for a whole
episode at once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.columns import Columns
from offrl.data.spaces import space_from_json, space_to_json
from offrl.errors import ConfigError, CorruptDataError

Kind = Literal["box", "discrete", "multidiscrete", "multibinary", "text"]

_KINDS: tuple[tuple[type[spaces.Space[Any]], Kind], ...] = (
    (spaces.Box, "box"),
    (spaces.Discrete, "discrete"),
    (spaces.MultiDiscrete, "multidiscrete"),
    (spaces.MultiBinary, "multibinary"),
    (spaces.Text, "text"),
)


@dataclass(frozen=True)
class Part:
    """One leaf of an observation space and the columns of `obs` that it fills."""

    path: str  # "" for a plain space, "observation" or "0/image" inside a Dict or Tuple
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int  # equal to start for text, which has no columns

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.stop - self.start


@dataclass(frozen=True)
class Spec:
    """The observation and action space of a dataset or a policy.

    `columns` says how the values of a table became those of the spaces, where they did. Raises
    ConfigError, naming the part, for a space that offrl does not support.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    columns: Columns | None = None

    def __post_init__(self) -> None:
        if self.obs_dim == 0:
            raise ConfigError(
                "The observation space has no numbers in it.",
                "Give at least one Box, Discrete, MultiDiscrete or MultiBinary part.",
            )
        if not isinstance(self.action_space, spaces.Box | spaces.Discrete):
            raise ConfigError(
                f"The action space is a {type(self.action_space).__name__} space,"
                " which offrl does not support.",
                "Actions are one Box or one Discrete space.",
            )

    @cached_property
    def obs_parts(self) -> tuple[Part, ...]:
        """The leaves of the observation space in the space's own order."""
        return tuple(part for part, _ in self.obs_leaves)

    @cached_property
    def obs_leaves(self) -> tuple[tuple[Part, spaces.Space[Any]], ...]:
        """Each part of the observation with its own space."""
        leaves: list[tuple[Part, spaces.Space[Any]]] = []
        start = 0
        for path, space in _walk(self.observation_space, ""):
            part = _part(path, space, start)
            leaves.append((part, space))
            start = part.stop
        return tuple(leaves)

    @property
    def obs_dim(self) -> int:
        """The width of a flat observation."""
        return self.obs_parts[-1].stop if self.obs_parts else 0

    @property
    def discrete(self) -> bool:
        """Whether an action is one of n choices."""
        return isinstance(self.action_space, spaces.Discrete)

    @cached_property
    def action_dim(self) -> int:
        """The flat width of a Box action, or the number of choices of a Discrete one."""
        if isinstance(self.action_space, spaces.Discrete):
            return int(self.action_space.n)
        return math.prod(self.action_space.shape or ())

    @cached_property
    def action_start(self) -> int:
        """The number that the environment gives to the first of its discrete actions."""
        space = self.action_space
        return int(space.start) if isinstance(space, spaces.Discrete) else 0

    @cached_property
    def action_low(self) -> npt.NDArray[np.float32]:
        """Lower bounds of a Box action, float32 [action_dim], -inf where there is none."""
        return self._bounds()[0]

    @cached_property
    def action_high(self) -> npt.NDArray[np.float32]:
        """Upper bounds of a Box action, float32 [action_dim], inf where there is none."""
        return self._bounds()[1]

    def _bounds(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        space = self.action_space
        if not isinstance(space, spaces.Box):
            raise ConfigError("A discrete action has no bounds.")
        with np.errstate(over="ignore"):
            low, high = (bound.reshape(-1).astype(np.float32) for bound in (space.low, space.high))
        # A float64 bound may round outwards; an action at the float32 bound must still be inside.
        low = np.where(low < space.low.reshape(-1), np.nextafter(low, np.float32(np.inf)), low)
        high = np.where(
            high > space.high.reshape(-1), np.nextafter(high, -np.float32(np.inf)), high
        )
        return low, high

    @property
    def obs_names(self) -> Sequence[str] | None:
        """What the flat columns were called in the table that they came from, if one."""
        return self.columns.flat_names if self.columns else None

    @property
    def action_names(self) -> Sequence[str] | None:
        """What the columns of the action were called in the table that they came from, if one."""
        return [column.name for column in self.columns.action] if self.columns else None

    def encode_obs(self, obs: Any) -> Any:
        """Return observations as the observation space has them; a table's values are encoded."""
        return self.columns.encode_obs(obs) if self.columns else obs

    def encode_actions(self, actions: Any) -> Any:
        """Return N actions as the action space has them; a table's values are encoded."""
        return self.columns.encode_actions(actions) if self.columns else actions

    def flatten_obs(self, observations: Any) -> npt.NDArray[np.float32]:
        """Return N nested observations (each leaf has a leading axis of N) as float32 [N, obs_dim].

        Raises ConfigError naming the part that is missing or does not fit its space.
        """
        leaves = [(part, space, self._leaf(observations, part)) for part, space in self.obs_leaves]
        numbers = [(part, space, leaf) for part, space, leaf in leaves if part.kind != "text"]
        n = len(numbers[0][2])
        if len(numbers) == 1 and numbers[0][0].kind in ("box", "multibinary"):
            part, _, leaf = numbers[0]
            _expect(part, leaf, n)
            with np.errstate(over="ignore"):
                return np.array(leaf, dtype=np.float32, order="C").reshape(n, part.width)
        flat = np.zeros((n, self.obs_dim), dtype=np.float32)
        for part, space, leaf in numbers:
            _expect(part, leaf, n)
            columns = flat[:, part.start : part.stop]
            if isinstance(space, spaces.Discrete):
                _one_hot(part, leaf[:, None], np.array([space.n]), np.array([space.start]), columns)
            elif isinstance(space, spaces.MultiDiscrete):
                choice = leaf.reshape(n, -1)
                _one_hot(part, choice, space.nvec.reshape(-1), space.start.reshape(-1), columns)
            else:
                with np.errstate(over="ignore"):
                    columns[:] = leaf.reshape(n, part.width)
        return flat

    def flatten_obs_one(self, obs: Any) -> npt.NDArray[np.float32]:
        """Return one nested observation as float32 [obs_dim]."""
        return self.flatten_obs(_with_leading_axis(obs, self.observation_space))[0]

    def obs_count(self, observations: Any) -> int | None:
        """Return N for observations with a leading axis of N, None for a single observation.

        Raises ConfigError where they are neither.
        """
        part = next(part for part in self.obs_parts if part.kind != "text")
        shape = self._leaf(observations, part).shape
        if shape == part.shape:
            return None
        if shape[1:] == part.shape and len(shape) == len(part.shape) + 1:
            return shape[0]
        raise ConfigError(
            f"{_named(part)} has the shape {shape}.",
            f"Give {part.shape} for one observation, or (N, *{part.shape}) for N of them.",
        )

    def _leaf(self, observations: Any, part: Part) -> npt.NDArray[Any]:
        value = observations
        for step in part.path.split("/") if part.path else ():
            value = _child(value, step, part)
        return np.asarray(value)

    def flatten_actions(self, actions: Any) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
        """Return environment actions [N, ...] as float32 [N, action_dim], or int64 [N] from 0.

        Raises ConfigError where their shape or type does not fit the action space.
        """
        given = np.asarray(actions)
        shape, space = self.action_space.shape or (), self.action_space
        if given.shape[1:] != shape or given.ndim != len(shape) + 1:
            raise ConfigError(
                f"Actions have the shape {given.shape}, where (N, *{shape}) is expected.",
                "Give one action of the action space per row.",
            )
        if isinstance(space, spaces.Discrete):
            if given.dtype.kind not in "iu":
                raise ConfigError(
                    f"Discrete actions are {given.dtype}, not whole numbers.",
                    "Convert them to int64, or describe them by a Box space.",
                )
            choice = given.astype(np.int64) - self.action_start
            if choice.size and not (choice.min() >= 0 and choice.max() < self.action_dim):
                raise ConfigError(
                    f"Discrete actions run from {given.min()} to {given.max()}, outside"
                    f" {self.action_start} .. {self.action_start + self.action_dim - 1}.",
                    "Give the action space they belong to.",
                )
            return choice
        if given.dtype.kind not in "iuf":
            raise ConfigError(
                f"Continuous actions are {given.dtype}, not numbers.",
                "Convert them to float32.",
            )
        with np.errstate(over="ignore"):
            return np.array(given, dtype=np.float32, order="C").reshape(len(given), self.action_dim)

    def env_action(self, row: Any) -> Any:
        """Return one flat action as the environment, or the table, has it."""
        space = self.action_space
        if isinstance(space, spaces.Box):
            flat = np.asarray(row, dtype=np.float32).reshape(space.shape)
            if space.dtype.kind == "f":
                return flat.astype(space.dtype)
            # Rounded in float64, where every bound of a 32-bit type is exact.
            whole = np.clip(np.rint(flat.astype(np.float64)), space.low, space.high)
            return whole.astype(space.dtype)
        choice = int(row) + self.action_start
        return self.columns.decode_actions(choice) if self.columns else choice

    def env_actions(self, rows: Any) -> npt.NDArray[Any]:
        """Return N flat actions as a vectorised environment takes them, [N, ...]."""
        if self.discrete:
            choices = np.asarray(rows, dtype=np.int64) + self.action_start
            return self.columns.decode_actions(choices) if self.columns else choices
        space = self.action_space
        actions = np.empty((len(rows), *(space.shape or ())), space.dtype)
        for i, row in enumerate(rows):
            actions[i] = self.env_action(row)
        return actions

    def to_json(self) -> dict[str, str]:
        """Return both spaces, and the columns of a table, as the text of metadata.json."""
        columns = {"columns": self.columns.to_json()} if self.columns else {}
        return {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            **columns,
        }

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "Spec":
        """Return the Spec of a metadata.json; raises CorruptDataError naming the key."""
        for key in ("observation_space", "action_space"):
            if key not in described:
                raise CorruptDataError(
                    f"metadata.json: the key '{key}' is missing.",
                    "Download or write the dataset again.",
                )
        return cls(
            space_from_json(described["observation_space"], "observation_space"),
            space_from_json(described["action_space"], "action_space"),
            Columns.from_json(described["columns"]) if described.get("columns") else None,
        )


def _walk(space: spaces.Space[Any], path: str) -> Iterator[tuple[str, spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            if not isinstance(key, str) or not key or "/" in key or key in (".", ".."):
                raise ConfigError(
                    f"The observation part {key!r} cannot be named in a dataset.",
                    "A key is text, and is not empty, '.', '..' or contains a '/'.",
                )
            yield from _walk(child, f"{path}/{key}" if path else key)
    elif isinstance(space, spaces.Tuple):
        for i, child in enumerate(space.spaces):
            yield from _walk(child, f"{path}/{i}" if path else str(i))
    else:
        yield path, space


def _part(path: str, space: spaces.Space[Any], start: int) -> Part:
    kind: Kind | None = next((known for cls, known in _KINDS if isinstance(space, cls)), None)
    if kind is None:
        raise ConfigError(
            f"The observation part '{path or 'observation'}' is a {type(space).__name__} space,"
            " which offrl does not support.",
            "Convert it to Box, Discrete, MultiDiscrete, MultiBinary or Text.",
        )
    if kind == "text":
        return Part(path, kind, (), "str", start, start)
    width = int(spaces.flatdim(space))
    return Part(path, kind, space.shape or (), str(space.dtype), start, start + width)


def _child(value: Any, step: str, part: Part) -> Any:
    if isinstance(value, Mapping):
        if step in value:
            return value[step]
    elif isinstance(value, tuple | list) and step.isdigit() and int(step) < len(value):
        return value[int(step)]
    raise ConfigError(
        f"{_named(part)} is missing from the observation.",
        "Give every part of the observation space, nested as the space is.",
    )


def _with_leading_axis(obs: Any, space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict) and isinstance(obs, Mapping):
        return {k: _with_leading_axis(obs[k], s) for k, s in space.spaces.items() if k in obs}
    if isinstance(space, spaces.Tuple) and isinstance(obs, tuple | list):
        return tuple(_with_leading_axis(o, s) for o, s in zip(obs, space.spaces, strict=False))
    return np.asarray(obs)[None]


def _named(part: Part) -> str:
    return f"The observation part '{part.path}'" if part.path else "The observation"


def _expect(part: Part, leaf: npt.NDArray[Any], n: int) -> None:
    if leaf.shape != (n, *part.shape):
        raise ConfigError(
            f"{_named(part)} has the shape {leaf.shape}, where {(n, *part.shape)} is expected.",
            "Give observations of the observation space.",
        )
    allowed = "iu" if part.kind in ("discrete", "multidiscrete") else "biuf"
    if leaf.dtype.kind not in allowed:
        raise ConfigError(
            f"{_named(part)} is {leaf.dtype}, which does not fit its {part.kind} space.",
            "Give observations of the observation space.",
        )


def _one_hot(
    part: Part,
    choice: npt.NDArray[Any],  # [N, K]
    sizes: npt.NDArray[Any],  # [K]
    first: npt.NDArray[Any],  # [K]
    out: npt.NDArray[np.float32],  # [N, sum(sizes)], zeros
) -> None:
    index = choice.astype(np.int64) - first
    if index.size and not (np.all(index >= 0) and np.all(index < sizes)):
        raise ConfigError(
            f"{_named(part)} holds a choice outside its {part.kind} space.",
            "Give observations of the observation space.",
        )
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    out[np.arange(len(index))[:, None], index + offsets] = 1.0

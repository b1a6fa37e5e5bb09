"""EpisodeStore: the episodes of a folder as a sequence, read one at a time and never kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.episodes import Column, Episode, Fault, structure_faults
from offrl.data.spec import Spec
from offrl.errors import CorruptDataError, UnsafeDataError

REMEDY = "Download or write the dataset again."
LEARNING_INFOS = ("behavior_log_prob", "behavior")  # the infos that learning and digests read


class EpisodeStore(Sequence[Episode], ABC):
    """Episodes on disk; what the files hold is known from their structure, without reading them."""

    def __init__(
        self,
        folder: Path,
        metadata: Mapping[str, Any],
        spec: Spec,
        counts: tuple[int, int] | None,
    ) -> None:
        self.folder = folder
        self.metadata = metadata
        self.spec = spec
        # Episodes and steps, where these very files were found sound before.
        self.counts = counts

    @cached_property
    def structures(self) -> Sequence[Mapping[str, Column]]:
        """The columns of each episode as the files declare them, found safe, without values."""
        return self._structures()

    @abstractmethod
    def _structures(self) -> Sequence[Mapping[str, Column]]:
        """Look at the files.

        Raises UnsafeDataError where they reach into others, CorruptDataError where they cannot be
        opened.
        """

    @cached_property
    def n_steps(self) -> int:
        """The number of steps of all episodes."""
        return self.counts[1] if self.counts else sum(map(_steps, self.structures))

    @property
    def id(self) -> str:
        """The id that the metadata gives to the dataset."""
        return str(self.metadata["dataset_id"])

    def __len__(self) -> int:
        return self.counts[0] if self.counts else len(self.structures)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | Sequence[Episode]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        return next(self.read([index % len(self)]))

    def __iter__(self) -> Iterator[Episode]:
        return self.read(range(len(self)))

    @abstractmethod
    def read(self, indices: Sequence[int], infos: Sequence[str] | None = None) -> Iterator[Episode]:
        """Yield the episodes with all infos, or only the named ones.

        Raises CorruptDataError naming episode and column for what cannot be read.
        """

    @abstractmethod
    def own_faults(self) -> Iterator[tuple[int | None, Fault]]:
        """Yield what is wrong with the files beyond the columns, with the episode it concerns."""

    def all_structure_faults(self) -> Iterator[tuple[int | None, Fault]]:
        """Yield everything that is wrong with the structure, with the episode it concerns."""
        yield from self._count_faults("episodes", len(self))
        yield from self.own_faults()
        for number, columns in enumerate(self.structures):
            for fault in structure_faults(columns, self.spec):
                yield number, fault
            for fault in _info_faults(columns):
                yield number, fault
        # Last: where an episode lost rows, the column that lacks them says more than the sum.
        yield from self._count_faults("steps", self.n_steps)

    def _count_faults(self, what: str, found: int) -> Iterator[tuple[None, Fault]]:
        key = f"total_{what}"
        claimed = self.metadata[key]
        if claimed != found:
            message = f"metadata.json claims {claimed} {what} ('{key}'), the files hold {found}"
            yield None, Fault("count-mismatch", key, message, REMEDY)

    def require_structure(self) -> None:
        """Raise CorruptDataError for the first thing that is wrong with the structure."""
        if self.counts is not None:
            return
        for number, fault in self.all_structure_faults():
            where = "" if number is None else f" episode {number}:"
            raise CorruptDataError(f"{self.folder}:{where} {fault.message}.", fault.advice)
        if len(self) == 0:
            raise CorruptDataError(f"{self.folder} holds no episodes.", REMEDY)

    def corrupt(self, number: int, name: str, why: object) -> CorruptDataError:
        """Return the error for a column that cannot be read."""
        return CorruptDataError(
            f"{self.folder}: episode {number}: {name} cannot be read ({why}).", REMEDY
        )


class Chosen(Sequence[Episode]):
    """A view of some episodes of another sequence."""

    def __init__(self, episodes: Sequence[Episode], chosen: Sequence[int]) -> None:
        self._episodes = episodes
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Episode]:
        return self.read(None)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> "Chosen": ...
    def __getitem__(self, index: int | slice) -> "Episode | Chosen":
        if isinstance(index, slice):
            return Chosen(self._episodes, self._chosen[index])
        return self._episodes[self._chosen[index]]

    def read(self, infos: Sequence[str] | None) -> Iterator[Episode]:
        """Yield the episodes; those on disk are read in one pass, with the named infos only."""
        if isinstance(self._episodes, EpisodeStore):
            yield from self._episodes.read(self._chosen, infos)
        elif isinstance(self._episodes, Chosen):
            chosen = [self._episodes._chosen[i] for i in self._chosen]
            yield from Chosen(self._episodes._episodes, chosen).read(infos)
        else:
            yield from (self._episodes[i] for i in self._chosen)


def inside(path: Path, folder: Path) -> None:
    """Raise UnsafeDataError where a file of a dataset is a link that leaves its folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnsafeDataError(
            f"{path} is a link to a file outside the dataset.",
            "Copy the file to its place if it is meant to be read.",
        )


def is_image(space: spaces.Space[Any]) -> bool:
    """Return whether Minari keeps a part as one compressed image per row."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) in (2, 3)
        and min(space.shape[:2]) >= 32
        and space.dtype == np.uint8
        and bool(np.all(space.low == 0))
        and bool(np.all(space.high == 255))
    )


def text_column(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return bytes or text of any kind as an array of str; raises ValueError if not UTF-8."""
    texts = [v.decode("utf-8") if isinstance(v, bytes) else v for v in values.reshape(-1).tolist()]
    column = np.empty(len(texts), dtype=object)
    column[:] = texts
    return column.reshape(values.shape)


def _steps(columns: Mapping[str, Column]) -> int:
    rewards = columns.get("rewards")
    return rewards.shape[0] if rewards is not None and rewards.shape else 0


def _info_faults(columns: Mapping[str, Column]) -> Iterator[Fault]:
    """The one info that learning depends on: one number per step, or one more for the reset."""
    name, steps = "infos/behavior_log_prob", _steps(columns)
    column = columns.get(name)
    if column is None or steps == 0:
        return
    if len(column.shape) != 1 or column.dtype.kind not in "iuf":
        shape = f"{column.dtype} of the shape {column.shape}"
        message = f"{name} is {shape}, where one number per step is expected"
        yield Fault("log-prob-shape", name, message, REMEDY)
    elif column.shape[0] not in (steps, steps + 1):
        message = f"{name} has {column.shape[0]} rows for {steps} steps"
        yield Fault("log-prob-shape", name, f"{message}, where {steps + 1} are expected", REMEDY)

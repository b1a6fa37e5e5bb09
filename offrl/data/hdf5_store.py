"""Episodes in Minari's one HDF5 file, scanned before anything in it is read.

/episode_0                 attrs: id, seed, total_steps
    observations           a column; or a group of columns, "_index_0" for part 0 of a Tuple
    actions, rewards, terminations, truncations
    infos                  a group, nested as the environment's infos were
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from offrl.data.episode_store import (
    REMEDY,
    EpisodeStore,
    is_image,
    text_column,
)
from offrl.data.episodes import Column, Episode, Fault
from offrl.data.hdf5_runs import read_run
from offrl.data.hdf5_scan import READ_ERRORS, Declared, scan, scan_apart, unreadable_file
from offrl.data.images import decode_images
from offrl.data.manifest import Identity, identity
from offrl.data.spec import Part, Spec
from offrl.errors import CorruptDataError

_GROUP_BYTES = 256  # no group of an episode takes less of the file


class Hdf5Store(EpisodeStore):
    """The episodes of one `main_data.hdf5`."""

    def __init__(
        self,
        folder: Path,
        file: Path,
        metadata: Mapping[str, Any],
        spec: Spec,
        counts: tuple[int, int] | None = None,
        vouched: Identity | None = None,
    ) -> None:
        super().__init__(folder, metadata, spec, counts)
        self.file = file
        self._encoded = bool(metadata.get("jpeg_encoding", True))
        self._rescued: dict[int, dict[str, Declared]] = {}
        self._lost: frozenset[int] = frozenset()  # episodes that `rescue` went on without
        self._scanned: Identity | None = None  # what the file was when it was scanned
        self._vouched = vouched  # what it was when every byte was found to be as written
        self._disk_paths = dict(_disk_paths(spec.observation_space, "", "observations"))

    @cached_property
    def _found(self) -> dict[int, dict[str, Declared]]:
        if self._rescued:
            return self._rescued
        self._scanned = identity(self.file)
        return dict(sorted(scan(self.file, self._vouched).items()))

    @cached_property
    def _numbers(self) -> list[int]:
        return list(self._found)

    def _structures(self) -> Sequence[Mapping[str, Column]]:
        return [self._as_declared(columns, self.spec) for columns in self._found.values()]

    def _as_declared(self, columns: Mapping[str, Declared], spec: Spec) -> dict[str, Column]:
        """The columns by the names of the parts, images with the shape that they decode to."""
        named: dict[str, Column] = {
            name: column for name, column in columns.items() if not name.startswith("observations")
        }
        for part, space in spec.obs_leaves:
            column = columns.get(self._disk_paths[part.path])
            if column is None:
                continue
            if self._is_encoded(space, column):
                column = Declared((column.shape[0], *part.shape), np.dtype(np.uint8))
            named[f"observations/{part.path}" if part.path else "observations"] = column
        return named

    def _is_encoded(self, space: spaces.Space[Any], column: Column) -> bool:
        """Bytes of variable length, or equally long ones stacked, where the space is an image."""
        return (
            self._encoded
            and is_image(space)
            and len(column.shape) in (1, 2)
            and (column.dtype.kind == "O" or column.dtype == np.uint8)
            and len(column.shape) <= len(space.shape or ())
        )

    def number(self, index: int) -> int:
        """Return the number in the name of an episode's group."""
        return self._numbers[index]

    def rescue(self, error: CorruptDataError) -> dict[int, str]:
        """Go on with the episodes whose group can be followed and whose columns can be opened."""
        most = self.file.stat().st_size // _GROUP_BYTES if self.file.is_file() else 0
        self._scanned = identity(self.file)
        found, lost = scan_apart(self.file, min(self.metadata["total_episodes"], most))
        if not found:
            raise error
        self._rescued = found
        self._lost = frozenset(lost)
        return lost

    def own_faults(self) -> Iterator[tuple[int | None, Fault]]:
        """Yield gaps in the numbers of the episodes."""
        numbers = sorted({*self._numbers, *self._lost})
        if numbers != list(range(len(numbers))):
            missing = next(i for i, number in enumerate([*numbers, -1]) if i != number)
            message = f"{self.file.name}: the group episode_{missing} is missing"
            yield None, Fault("missing-episode", f"episode_{missing}", message, REMEDY)

    def read(self, indices: Sequence[int], infos: Sequence[str] | None = None) -> Iterator[Episode]:
        """Yield the episodes with all infos, or only the named ones."""
        if not self._found:  # scanned before it is opened to be read
            return
        try:
            file = h5py.File(self.file, "r")
        except OSError as error:
            raise unreadable_file(self.file, error) from error
        with file, self.file.open("rb", buffering=0) as plain:
            # A file that was replaced or added to has its columns elsewhere by now.
            now = identity(plain.fileno())
            same = plain if now == self._scanned else None
            for index in indices:
                yield self._episode(file, same, now == self._vouched, index, infos)

    def _episode(
        self,
        file: h5py.File,
        plain: io.RawIOBase | None,
        vouched: bool,
        index: int,
        infos: Sequence[str] | None,
    ) -> Episode:
        number = self._numbers[index]
        declared = self._found[number]

        def column(name: str) -> npt.NDArray[Any]:
            found = declared.get(name)
            try:
                if plain and found and found.run:
                    values = read_run(plain, found.run, found.shape, found.dtype, vouched)
                    if values is not None:
                        return values
                return read_column(group, name, found)
            except READ_ERRORS as error:
                raise self.corrupt(index, name, error) from error

        try:
            group = h5py.h5g.open(file.id, f"episode_{number}".encode())
            seed = _seed(group)
        except READ_ERRORS as error:
            raise self.corrupt(index, "seed", error) from error
        wanted = sorted(name for name in declared if name.startswith("infos/"))
        if infos is not None:
            wanted = [name for name in wanted if name.removeprefix("infos/") in infos]
        nested: dict[str, Any] = {}
        for name in wanted:
            *parents, last = name.split("/")[1:]
            place = nested
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = column(name)
        parts = {
            part.path: self._part(index, part, space, column)
            for part, space in self.spec.obs_leaves
        }
        return Episode(
            id=index,
            observations=_nest(self.spec.observation_space, "", parts),
            actions=column("actions"),
            rewards=column("rewards"),
            terminations=column("terminations"),
            truncations=column("truncations"),
            infos=nested,
            seed=seed,
        )

    def _part(
        self, index: int, part: Part, space: spaces.Space[Any], column: Any
    ) -> npt.NDArray[Any]:
        name = self._disk_paths[part.path]
        values = column(name)
        try:
            if part.kind == "text":
                return text_column(values)
            if self._is_encoded(space, values):
                return decode_images((row.tobytes() for row in values), part.shape)
        except ValueError as error:
            raise self.corrupt(index, name, error) from error
        return values


def read_column(
    group: h5py.h5g.GroupID, name: str, declared: Declared | None = None
) -> npt.NDArray[Any]:
    """Return the values of a column, text as str; `declared` spares finding its type."""
    column = h5py.h5d.open(group, name.encode())
    dtype = column.dtype if declared is None else declared.dtype
    if dtype.kind == "O":  # text and encoded images, whose bytes lie elsewhere in the file
        values = np.asarray(h5py.Dataset(column)[()])
        return text_column(values) if h5py.check_string_dtype(dtype) is not None else values
    # The library's own call: `file[name][()]` spends three times as long on a column this small.
    values = np.empty(column.shape, dtype)  # of now: the library fills it without a look
    if values.size:
        column.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return text_column(values) if dtype.kind == "S" else values


def _seed(group: h5py.h5g.GroupID) -> int | None:
    if not h5py.h5a.exists(group, b"seed"):
        return None
    # The library's own calls, as for a column: `attrs` of h5py's group takes four times as long.
    attribute = h5py.h5a.open(group, b"seed")
    if attribute.shape != () or attribute.dtype.kind not in "iu":
        return None
    seed = np.empty((), attribute.dtype)
    attribute.read(seed)
    return int(seed)


def _disk_paths(space: spaces.Space[Any], path: str, disk: str) -> Iterator[tuple[str, str]]:
    """Pairs of a part's path and its name in the file, where Tuple part 0 is "_index_0"."""
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            yield from _disk_paths(child, f"{path}/{key}" if path else key, f"{disk}/{key}")
    elif isinstance(space, spaces.Tuple):
        for i, child in enumerate(space.spaces):
            yield from _disk_paths(child, f"{path}/{i}" if path else str(i), f"{disk}/_index_{i}")
    else:
        yield path, disk


def _nest(space: spaces.Space[Any], path: str, parts: Mapping[str, npt.NDArray[Any]]) -> Any:
    """The parts, nested as the space is."""
    if isinstance(space, spaces.Dict):
        return {
            key: _nest(child, f"{path}/{key}" if path else key, parts)
            for key, child in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        return tuple(
            _nest(child, f"{path}/{i}" if path else str(i), parts)
            for i, child in enumerate(space.spaces)
        )
    return parts[path]

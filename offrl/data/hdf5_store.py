"""Episodes in Minari's one HDF5 file, scanned before anything in it is read.

/episode_0                 attrs: id, seed, total_steps
    observations           a column; or a group of columns, "_index_0" for part 0 of a Tuple
    actions, rewards, terminations, truncations
    infos                  a group, nested as the environment's infos were
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from offrl.data.images import decode_images
from offrl.data.spec import Part, Spec
from offrl.errors import CorruptDataError, UnsafeDataError

MAX_DEPTH = 32
# A column that is 1000 times larger than its bytes in the file, and large, is made to fill memory.
MAX_INFLATION = 1000
SMALL = 2**28
_GROUP_BYTES = 256  # no group of an episode takes less of the file
_HARD, _SOFT = 0, 1  # H5L_TYPE_HARD and H5L_TYPE_SOFT; every other kind names another file
READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py may raise
_EPISODE = re.compile(r"episode_(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True)
class Declared:
    """A column as the file declares it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Hdf5Store(EpisodeStore):
    """The episodes of one `main_data.hdf5`."""

    def __init__(
        self,
        folder: Path,
        file: Path,
        metadata: Mapping[str, Any],
        spec: Spec,
        counts: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(folder, metadata, spec, counts)
        self.file = file
        self._encoded = bool(metadata.get("jpeg_encoding", True))
        self._rescued: dict[int, dict[str, Declared]] = {}
        self._lost: frozenset[int] = frozenset()  # episodes that `rescue` went on without
        self._disk_paths = dict(_disk_paths(spec.observation_space, "", "observations"))

    @cached_property
    def _found(self) -> dict[int, dict[str, Declared]]:
        return self._rescued or dict(sorted(_scan(self.file).items()))

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
        found, lost = _scan_apart(self.file, min(self.metadata["total_episodes"], most))
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
        with file:
            for index in indices:
                yield self._episode(file, index, infos)

    def _episode(self, file: h5py.File, index: int, infos: Sequence[str] | None) -> Episode:
        number = self._numbers[index]
        declared = self._found[number]

        def column(name: str) -> npt.NDArray[Any]:
            try:
                return read_column(group, name, declared.get(name))
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


def _scan(path: Path) -> dict[int, dict[str, Declared]]:
    """Return the columns of each episode by number, having followed no link and read no value."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise unreadable_file(path, error) from error
    with file:
        try:
            return _scan_open(file, path)
        except READ_ERRORS as error:
            raise unreadable_file(path, error) from error


def _scan_apart(path: Path, n: int) -> tuple[dict[int, dict[str, Declared]], dict[int, str]]:
    """Scan the groups of n episodes one by one; return their columns, and why others are lost."""
    found: dict[int, dict[str, Declared]] = {}
    lost: dict[int, str] = {}
    try:
        file = h5py.File(path, "r")
    except OSError:
        return found, lost
    with file:
        for number in range(n):
            try:
                group = h5py.h5g.open(file.id, f"episode_{number}".encode())
                found[number] = _scan_group(group, path, number)
            except (*READ_ERRORS, CorruptDataError) as error:
                lost[number] = f"its group in {path.name} is damaged ({error})"
    return found, lost


def _scan_group(group: h5py.h5g.GroupID, path: Path, number: int) -> dict[str, Declared]:
    links: list[tuple[bytes, int]] = []

    def collect(name: bytes, info: Any) -> None:
        links.append((name, info.type))

    group.links.visit(collect, info=True)
    columns: dict[str, Declared] = {}
    for name, kind in links:
        if kind != _HARD:
            raise unsafe_column(path, name, "a link")
        text = name.decode("utf-8")
        if text.count("/") >= MAX_DEPTH:
            raise CorruptDataError(f"episode {number} is nested too deeply.", REMEDY)
        if h5py.h5g.get_objinfo(group, name).type == h5py.h5g.DATASET:
            columns[text] = declared_column(h5py.h5d.open(group, name), path, name)
    return columns


def _scan_open(file: h5py.File, path: Path) -> dict[int, dict[str, Declared]]:
    links = hard_links(file, path)
    groups = {h5py.h5g.get_objinfo(file.id).objno}
    episodes: dict[int, dict[str, Declared]] = {}
    for name in links:
        text = name.decode("utf-8")
        steps = text.split("/")
        if len(steps) > MAX_DEPTH:
            raise CorruptDataError(f"{path}: {text[:80]} is nested too deeply.", REMEDY)
        found = h5py.h5g.get_objinfo(file.id, name)
        match = _EPISODE.fullmatch(steps[0])
        if found.type == h5py.h5g.GROUP:
            if found.objno in groups:
                raise unsafe_column(path, name, "a group that appears twice")
            groups.add(found.objno)
            if match and len(steps) == 1:
                episodes.setdefault(int(match[1]), {})
        elif found.type == h5py.h5g.DATASET:
            declared = declared_column(h5py.h5d.open(file.id, name), path, name)
            if match and len(steps) > 1:
                columns = episodes.setdefault(int(match[1]), {})
                columns["/".join(steps[1:])] = declared
    return episodes


def hard_links(file: h5py.File, path: Path) -> list[bytes]:
    """Return the names of everything in a file; UnsafeDataError for a link that leads out of it."""
    links: list[tuple[bytes, int]] = []

    def collect(name: bytes, info: Any) -> None:
        links.append((name, info.type))

    # HDF5's own visit enters each group once and follows hard links only, so no cycle holds it.
    file.id.links.visit(collect, info=True)
    for name, kind in links:
        if kind != _HARD:
            what = "a soft link" if kind == _SOFT else "a link to another file"
            raise unsafe_column(path, name, what)
    return [name for name, _ in links]


def declared_column(column: h5py.h5d.DatasetID, path: Path, name: bytes) -> Declared:
    """Return the shape and type of a column, having read no value.

    Raises UnsafeDataError where its values lie elsewhere or would fill the memory, CorruptDataError
    for a compression that is not installed.
    """
    made = column.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL:
        raise unsafe_column(path, name, "a virtual dataset, whose values lie in other files")
    if made.get_external_count() > 0:
        raise unsafe_column(path, name, "stored outside the file")
    dtype = _dtype(column.get_type())
    if dtype is None:
        raise unsafe_column(path, name, "a reference to another object")
    for i in range(made.get_nfilters()):
        code, _, _, filter_name = made.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            shown = filter_name.decode("utf-8", "replace")
            raise CorruptDataError(
                f"{path}: {name.decode()} is compressed by the HDF5 filter {code} ({shown}),"
                " which is not installed.",
                "Try: pip install hdf5plugin, or write the dataset without that filter.",
            )
    shape = column.shape
    size = math.prod(shape) * dtype.itemsize
    if size > SMALL and size > MAX_INFLATION * column.get_storage_size():
        raise UnsafeDataError(
            f"{path}: {name.decode()} declares {size} bytes and holds {column.get_storage_size()}.",
            "It would fill the memory; write the dataset again.",
        )
    return Declared(shape, dtype)


_DTYPES: dict[bytes, np.dtype[Any] | None] = {}  # by HDF5's encoding of the type


def _dtype(kind: h5py.h5t.TypeID) -> np.dtype[Any] | None:
    """Return the type of a column, None for references; a file has few and many columns of each."""
    encoded = kind.encode()
    if encoded not in _DTYPES:
        if len(_DTYPES) > 1000:  # of a file that is made to fill memory
            _DTYPES.clear()
        _DTYPES[encoded] = None if kind.detect_class(h5py.h5t.REFERENCE) else kind.dtype
    return _DTYPES[encoded]


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
    seed = h5py.Group(group).attrs["seed"]
    return int(seed) if isinstance(seed, np.integer | int) else None


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


def unsafe_column(path: Path, name: bytes, what: str) -> UnsafeDataError:
    """The error for something in a file that leads out of it."""
    return UnsafeDataError(
        f"{path}: {name.decode('utf-8', 'replace')} is {what}.",
        "Nothing was read; get the dataset from someone you trust, as one plain file.",
    )


def unreadable_file(path: Path, error: Exception) -> CorruptDataError:
    """The error for a file that HDF5 cannot read."""
    state = "is missing" if not path.is_file() else f"({path.stat().st_size} bytes) is damaged"
    return CorruptDataError(f"{path} {state}: {error}.", REMEDY)

"""Episodes in Minari's Arrow storage: a folder per episode with one Arrow or Parquet table.

data/0/part-0.arrow      T+1 rows: observations, actions, rewards, terminations, truncations,
                         infos; the last row of all but observations and infos is padding
data/0/metadata.json     id, seed, total_steps
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium import spaces

from offrl.data.episode_store import REMEDY, EpisodeStore, inside, is_image, text_column
from offrl.data.episodes import Column, Episode, Fault
from offrl.data.images import decode_images
from offrl.data.json_files import read_object
from offrl.data.spec import Spec
from offrl.errors import CorruptDataError

_PADDED = ("actions", "rewards", "terminations", "truncations")
_READ_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, NotImplementedError)


class ArrowStore(EpisodeStore):
    """The episodes of a data folder in Arrow (`data_format` arrow) or Parquet storage."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        metadata: Mapping[str, Any],
        spec: Spec,
        counts: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(folder, metadata, spec, counts)
        self._data = data
        self._encoded = bool(metadata.get("jpeg_encoding", True))
        self._parquet = metadata["data_format"] == "parquet"

    @cached_property
    def _numbers(self) -> list[int]:
        """The numbers of the episodes, no file of which leads outside the dataset."""
        children = [child for child in self._data.iterdir() if child.name.isdecimal()]
        for child in children:
            for file in (child, *child.iterdir()) if child.is_dir() else (child,):
                inside(file, self.folder)
        names = (child.name for child in children if child.is_dir())
        return sorted(int(name) for name in names if str(int(name)) == name)

    def _structures(self) -> Sequence[Mapping[str, Column]]:
        return [self._structure(index) for index in range(len(self._numbers))]

    def own_faults(self) -> Iterator[tuple[int | None, Fault]]:
        """Yield gaps in the numbers of the episodes."""
        if self._numbers != list(range(len(self._numbers))):
            missing = next(i for i, number in enumerate([*self._numbers, -1]) if i != number)
            message = f"the folder of episode {missing} is missing"
            yield None, Fault("missing-episode", f"episode {missing}", message, REMEDY)

    def read(self, indices: Sequence[int], infos: Sequence[str] | None = None) -> Iterator[Episode]:
        """Yield the episodes with all infos, or only the named ones."""
        for index in indices:
            yield self._episode(index, infos)

    def _folder(self, index: int) -> Path:
        return self._data / str(self._numbers[index])

    def _table(self, index: int) -> Any:
        """The columns of one episode, each in one piece."""
        folder = self._folder(index)
        suffix = ".parquet" if self._parquet else ".arrow"
        files = sorted(path for path in folder.iterdir() if path.suffix == suffix)
        if not files:
            raise CorruptDataError(f"{folder} holds no {suffix} file.", REMEDY)
        try:
            tables = [pq.read_table(f) if self._parquet else _read_arrow(f) for f in files]
            return pa.concat_tables(tables).combine_chunks()
        except _READ_ERRORS as error:
            raise CorruptDataError(f"{files[0]} is damaged: {error}.", REMEDY) from error

    def _structure(self, index: int) -> dict[str, Column]:
        table = self._table(index)
        columns: dict[str, Column] = {}
        for name in _PADDED:
            if name in table.column_names:
                space = self.spec.action_space if name == "actions" else None
                columns[name] = self._column(index, name, table, space)
        for part, space in self.spec.obs_leaves:
            name = f"observations/{part.path}" if part.path else "observations"
            if _field(table, name) is not None:
                columns[name] = self._column(index, name, table, space)
        if (found := _field(table, "infos/behavior_log_prob")) is not None:
            columns["infos/behavior_log_prob"] = _info_column(*found)
        return columns

    def _column(
        self, index: int, name: str, table: Any, space: spaces.Space[Any] | None
    ) -> npt.NDArray[Any]:
        found = _field(table, name)
        if found is None:
            raise self.corrupt(index, name, "it is missing")
        values, _ = found
        if name in _PADDED:
            values = values[:-1]
        try:
            return self._decode(values, space)
        except _READ_ERRORS as error:
            raise self.corrupt(index, name, error) from error

    def _decode(self, values: Any, space: spaces.Space[Any] | None) -> npt.NDArray[Any]:
        if values.null_count:
            raise ValueError(f"{values.null_count} values are null")
        if isinstance(space, spaces.Text):
            return text_column(np.array(values.to_pylist(), dtype=object))
        if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
            if space is None or not (self._encoded and is_image(space)):
                raise ValueError("it holds bytes, where numbers are expected")
            return decode_images(values.to_pylist(), space.shape or ())
        if pa.types.is_fixed_size_list(values.type):
            width = values.type.list_size
            flat = values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), width)
            shape = (space.shape or ()) if space is not None else (width,)
            return flat.reshape(len(values), *shape) if width == np.prod(shape) else flat
        return values.to_numpy(zero_copy_only=False)

    def _episode(self, index: int, infos: Sequence[str] | None) -> Episode:
        table = self._table(index)
        described = self._folder(index) / "metadata.json"
        seed = read_object(described).get("seed") if described.is_file() else None
        nested: dict[str, Any] = {}
        if "infos" in table.column_names:
            try:
                nested = _infos(_whole(table.column("infos")), infos)
            except _READ_ERRORS as error:
                raise self.corrupt(index, "infos", error) from error
        return Episode(
            id=index,
            observations=self._observations(
                index, self.spec.observation_space, "observations", table
            ),
            actions=self._column(index, "actions", table, self.spec.action_space),
            rewards=self._column(index, "rewards", table, None),
            terminations=self._column(index, "terminations", table, None),
            truncations=self._column(index, "truncations", table, None),
            infos=nested,
            seed=seed if isinstance(seed, int) else None,
        )

    def _observations(self, index: int, space: spaces.Space[Any], name: str, table: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {
                key: self._observations(index, child, f"{name}/{key}", table)
                for key, child in space.spaces.items()
            }
        if isinstance(space, spaces.Tuple):
            return tuple(
                self._observations(index, child, f"{name}/{i}", table)
                for i, child in enumerate(space.spaces)
            )
        return self._column(index, name, table, space)


def _read_arrow(file: Path) -> Any:
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).read_all()


def _whole(column: Any) -> Any:
    """One array of a column that may be in pieces."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _field(table: Any, name: str) -> tuple[Any, Any] | None:
    """The array and field of a nested column by its path, None where it is missing."""
    first, *rest = name.split("/")
    if first not in table.column_names:
        return None
    values, field = _whole(table.column(first)), table.schema.field(first)
    for step in rest:
        if not pa.types.is_struct(values.type) or values.type.get_field_index(step) < 0:
            return None
        field = values.type.field(step)
        values = values.field(step)
    return values, field


def _infos(values: Any, wanted: Sequence[str] | None) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for i in range(values.type.num_fields):
        field = values.type.field(i)
        if wanted is not None and field.name not in wanted:
            continue
        child = values.field(i)
        if pa.types.is_struct(child.type):
            nested[field.name] = _infos(child, None)
        else:
            nested[field.name] = _info_column(child, field)
    return nested


def _info_column(values: Any, field: Any) -> npt.NDArray[Any]:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return text_column(np.array(values.to_pylist(), dtype=object))
    if not pa.types.is_fixed_size_list(values.type):
        return values.to_numpy(zero_copy_only=False)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    declared = (field.metadata or {}).get(b"shape")
    shape = (values.type.list_size,)
    if declared is not None:
        shape = tuple(int(size) for size in declared.split(b",") if size)
    return flat.reshape(len(values), *shape)

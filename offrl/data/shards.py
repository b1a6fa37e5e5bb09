"""Shards: a few episodes as one HDF5 image made in memory, in Minari's layout, and their manifest.

    <id>.incomplete/
        manifest.json       what is committed: files and episodes with SHA-256, settings
        lock                held while a process writes here
        shards/000000.hdf5  episode_0, episode_1, ...
        .final/             the finished dataset, until it is renamed to <id>

The image is built in memory because HDF5 can kill the process when a disk fills up while it writes;
writing finished bytes fails cleanly instead. Every number column carries a checksum: fletcher32 of
its own, or, where it is so short that it lies in its object's header, the header's.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import (
    h5a,  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and without stubs
    h5d,  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and without stubs
    h5g,  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and without stubs
    h5p,  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and without stubs
    h5s,
    h5t,
)

from offrl.data.durable import write_file
from offrl.data.episodes import Episode
from offrl.errors import ConfigError, CorruptDataError

MANIFEST = "manifest.json"
FORMAT = 1
# The formats of HDF5 1.8, which are an eighth of the older ones for small groups and checksum them.
LIBVER = ("v108", "latest")
_CHUNK_BYTES = 2**20
_TINY = 256  # bytes; a chunk with its index takes many times that
_TEXT = h5py.string_dtype(encoding="utf-8")
_SCALAR = h5s.create(h5s.SCALAR)


def image(episodes: Iterable[Episode]) -> bytes:
    """Return the bytes of an HDF5 file with one group per episode, named by its id."""
    # The name is never opened: a core file without backing store lives in memory only.
    with h5py.File(
        "offrl-shard",
        "w",
        driver="core",
        backing_store=False,
        block_size=2**20,  # by which the image grows, copied each time
        track_order=True,
        libver=LIBVER,
    ) as file:
        for episode in episodes:
            _write_episode(file.id, episode)
        file.flush()
        return file.id.get_file_image()


def _write_episode(file: Any, episode: Episode) -> None:
    # The library's own calls here and below: h5py's objects take four times as long, which tells
    # where an episode is a step and there are a million of them.
    group = h5g.create(file, f"episode_{episode.id}".encode())
    _write_number(group, b"id", episode.id)
    _write_number(group, b"total_steps", len(episode))
    if episode.seed is not None:
        _write_number(group, b"seed", episode.seed)
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        _write(group, name, getattr(episode, name))
    _write(group, "infos", episode.infos)  # empty too: without the group Minari reads None


def _write_number(group: Any, name: bytes, value: int) -> None:
    h5a.create(group, name, h5t.NATIVE_INT64, _SCALAR).write(np.array(value, np.int64))


def _write(group: Any, name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        child = h5g.create(group, name.encode())
        for key, part in value.items():
            _write(child, key, part)
    elif isinstance(value, tuple):
        child = h5g.create(group, name.encode())
        for i, part in enumerate(value):
            _write(child, f"_index_{i}", part)
    else:
        _write_column(group, name, np.asarray(value))


def _write_column(group: Any, name: str, column: npt.NDArray[Any]) -> None:
    text = column.dtype.kind in "OUS"
    if text or column.size == 0:
        # Text has its bytes elsewhere in the file, where a checksum of the column does not reach.
        shape = (None, *column.shape[1:]) if text else column.shape
        column = column.astype(object) if text else column
        h5py.Group(group).create_dataset(
            name, data=column, dtype=_TEXT if text else None, maxshape=shape
        )
        return
    column = np.ascontiguousarray(column)
    made = h5d.create(group, name.encode(), *_declaration(column.dtype, column.shape))
    made.write(h5s.ALL, h5s.ALL, column)


@lru_cache(maxsize=256)
def _declaration(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Return type, space and layout of a column."""
    kind, layout = h5t.py_create(dtype, logical=True), h5p.create(h5p.DATASET_CREATE)
    layout.set_obj_track_times(False)
    size = dtype.itemsize * math.prod(shape)
    if size <= _TINY:
        layout.set_layout(h5d.COMPACT)
        return kind, h5s.create_simple(shape), layout
    # An open first axis and chunks, as Minari makes them, so that Minari can append to a column.
    layout.set_chunk((max(1, min(shape[0], _CHUNK_BYTES // max(1, size // shape[0]))), *shape[1:]))
    layout.set_fletcher32()
    return kind, h5s.create_simple(shape, (h5s.UNLIMITED, *shape[1:])), layout


def check_infos(episode: Episode) -> None:
    """Raise ConfigError, naming the key, for infos that HDF5 cannot hold in Minari's layout."""
    _check_infos(episode.infos, "infos", episode.id)


def _check_infos(value: Any, path: str, number: int) -> None:
    if isinstance(value, Mapping):
        for key, child in value.items():
            if not isinstance(key, str) or not key or "/" in key or key in (".", ".."):
                raise ConfigError(
                    f"Episode {number}: {path} has the key {key!r}.",
                    "A key is text, and is not empty, '.', '..' or contains a '/'.",
                )
            _check_infos(child, f"{path}/{key}", number)
        return
    column = np.asarray(value)
    strings = column.dtype.kind == "O" and all(isinstance(t, str) for t in column.reshape(-1))
    if column.ndim == 0 or not (column.dtype.kind in "biufU" or strings):
        raise ConfigError(
            f"Episode {number}: {path} is {column.dtype} of shape {column.shape}.",
            "Infos are columns of numbers or text, one row per step, possibly in dictionaries.",
        )


def new_manifest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of a dataset without episodes."""
    return {
        "format": FORMAT, "complete": False, "settings": dict(settings), "files": [], "episodes": []
    }  # fmt: skip


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of a folder in one step."""
    write_file(folder / MANIFEST, json.dumps(manifest, allow_nan=False).encode())


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder, None where there is none.

    Raises CorruptDataError where it is not what `write_manifest` wrote.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorruptDataError(f"{path} is not JSON: {error}.", f"Remove {folder}.") from error
    wanted = {"format": int, "complete": bool, "settings": dict, "files": list, "episodes": list}
    for key, kind in wanted.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), kind):
            raise CorruptDataError(f"{path} has no valid '{key}'.", f"Remove {folder}.")
    if manifest["format"] != FORMAT:
        raise CorruptDataError(
            f"{path} has the format {manifest['format']}, this offrl reads {FORMAT}.",
            "Continue with the version that began it.",
        )
    return manifest


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise CorruptDataError naming the first file that is missing or not as it was written."""
    for entry in manifest["files"]:
        path = folder / entry["name"]
        found = path.stat().st_size if path.is_file() else None
        if found != entry["bytes"]:
            state = "is missing" if found is None else f"has {found} bytes"
            raise CorruptDataError(
                f"{path} {state}; {entry['bytes']} were written.", f"Remove {folder} to start anew."
            )
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise CorruptDataError(
                f"{path} is damaged: its SHA-256 is not the manifest's.",
                f"Remove {folder} to start anew.",
            )

"""What an HDF5 file declares, found without following a link out of it or reading a value."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and without stubs

from offrl.data.episode_store import REMEDY
from offrl.data.hdf5_runs import Run, plain_type, run_of
from offrl.errors import CorruptDataError, UnsafeDataError

MAX_DEPTH = 32
# A column that is 1000 times larger than its bytes in the file, and large, is made to fill memory.
MAX_INFLATION = 1000
SMALL = 2**28
_HARD, _SOFT = 0, 1  # H5L_TYPE_HARD and H5L_TYPE_SOFT; every other kind names another file
READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py may raise
_EPISODE = re.compile(r"episode_(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Declared:
    """A column as the file declares it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    run: Run | None = None  # where its bytes lie, if they are its values and lie together


def scan(path: Path) -> dict[int, dict[str, Declared]]:
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


def scan_apart(path: Path, n: int) -> tuple[dict[int, dict[str, Declared]], dict[int, str]]:
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
    parents: dict[bytes, Any] = {}
    for name in links:
        text = name.decode("utf-8")
        steps = text.split("/")
        if len(steps) > MAX_DEPTH:
            raise CorruptDataError(f"{path}: {text[:80]} is nested too deeply.", REMEDY)
        # From the group it lies in, where that is at hand: its path would be followed again.
        above, _, last = name.rpartition(b"/")
        near = parents.get(above)
        found = h5o.open(*((file.id, name) if near is None else (near, last)))
        match = _EPISODE.fullmatch(steps[0])
        if isinstance(found, h5py.h5g.GroupID):
            number = h5py.h5g.get_objinfo(found).objno
            if number in groups:
                raise unsafe_column(path, name, "a group that appears twice")
            groups.add(number)
            if not above or len(parents) > MAX_DEPTH:
                parents.clear()
            parents[name] = found
            if match and len(steps) == 1:
                episodes.setdefault(int(match[1]), {})
        elif isinstance(found, h5py.h5d.DatasetID):
            declared = declared_column(found, path, name)
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
    dtype, plain = _array_type(column.get_type())
    if dtype is None:
        raise unsafe_column(path, name, "a reference to another object")
    filters: list[int] = []
    for i in range(made.get_nfilters()):
        code, _, _, filter_name = made.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            shown = filter_name.decode("utf-8", "replace")
            raise CorruptDataError(
                f"{path}: {name.decode()} is compressed by the HDF5 filter {code} ({shown}),"
                " which is not installed.",
                "Try: pip install hdf5plugin, or write the dataset without that filter.",
            )
        filters.append(code)
    shape = column.shape
    size = math.prod(shape) * dtype.itemsize
    if size > SMALL and size > MAX_INFLATION * column.get_storage_size():
        raise UnsafeDataError(
            f"{path}: {name.decode()} declares {size} bytes and holds {column.get_storage_size()}.",
            "It would fill the memory; write the dataset again.",
        )
    run = run_of(column, made, filters, shape, dtype) if plain and size else None
    return Declared(shape, dtype, run)


_TYPES: dict[bytes, tuple[np.dtype[Any] | None, bool]] = {}  # by HDF5's encoding of the type


def _array_type(kind: h5py.h5t.TypeID) -> tuple[np.dtype[Any] | None, bool]:
    """The type of a column, None for references, and whether it holds the bytes of an array.

    A file has few types and many columns of each.
    """
    encoded = kind.encode()
    if encoded not in _TYPES:
        if len(_TYPES) > 1000:  # of a file that is made to fill memory
            _TYPES.clear()
        if kind.detect_class(h5py.h5t.REFERENCE):
            _TYPES[encoded] = None, False
        else:
            dtype = kind.dtype
            _TYPES[encoded] = dtype, bool(plain_type(dtype) == kind)
    return _TYPES[encoded]


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

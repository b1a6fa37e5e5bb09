"""What an HDF5 file declares, found without following a link out of it or reading a value."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and without stubs

from offrl.data.episode_store import REMEDY
from offrl.data.hdf5_headers import (
    ColumnHeader,
    column_header,
    is_group,
    read_messages,
    run_of_header,
)
from offrl.data.hdf5_runs import Run, plain_type, run_of
from offrl.data.manifest import Identity, identity
from offrl.errors import CorruptDataError, UnsafeDataError

MAX_DEPTH = 32
# A column that is 1000 times larger than its bytes in the file, and large, is made to fill memory.
MAX_INFLATION = 1000
SMALL = 2**28
_MOST_KINDS = 1000  # of columns; a file of more is made to fill memory
_HARD, _SOFT = 0, 1  # H5L_TYPE_HARD and H5L_TYPE_SOFT; every other kind names another file
READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py may raise
_EPISODE = re.compile(r"episode_(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Declared:
    """A column as the file declares it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    run: Run | None = None  # where its bytes lie, if they are its values and lie together


def scan(path: Path, vouched: Identity | None = None) -> dict[int, dict[str, Declared]]:
    """Return the columns of each episode by number, having followed no link and read no value.

    `vouched` is what the file was when every byte of it was found to be as written.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise unreadable_file(path, error) from error
    with file:
        try:
            return _scan_open(file, path, vouched)
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


def _scan_open(
    file: h5py.File, path: Path, vouched: Identity | None
) -> dict[int, dict[str, Declared]]:
    links = hard_links(file, path)
    known = _Known(file, path, vouched)
    low, high = h5py.h5g.get_objinfo(file.id).objno
    groups = {low | high << 32}
    episodes: dict[int, dict[str, Declared]] = {}
    parents: dict[bytes, Any] = {}
    for place, (name, address) in enumerate(links):
        text = name.decode("utf-8")
        steps = text.split("/")
        if len(steps) > MAX_DEPTH:
            raise CorruptDataError(f"{path}: {text[:80]} is nested too deeply.", REMEDY)
        match = _EPISODE.fullmatch(steps[0])
        # What holds something is a group: HDF5 visited it.
        holds = place + 1 < len(links) and links[place + 1][0].startswith(name + b"/")
        found = _GROUP if holds else known.object_at(name, address)
        if found is None:
            # From the group it lies in, where that is at hand: its path would be followed again.
            above, _, last = name.rpartition(b"/")
            if above and above not in parents:
                if len(parents) > MAX_DEPTH:
                    parents.clear()
                parents[above] = h5o.open(file.id, above)
            opened = h5o.open(parents[above], last) if above else h5o.open(file.id, name)
            if isinstance(opened, h5py.h5g.GroupID):
                found = _GROUP
            elif isinstance(opened, h5py.h5d.DatasetID):
                found = known.column(opened, name)
        if found is _GROUP:
            if address in groups:
                raise unsafe_column(path, name, "a group that appears twice")
            groups.add(address)
            if match and len(steps) == 1:
                episodes.setdefault(int(match[1]), {})
        elif isinstance(found, Declared) and match and len(steps) > 1:
            episodes.setdefault(int(match[1]), {})["/".join(steps[1:])] = found
    return episodes


_GROUP = object()


class _Known:
    """The kinds of columns that HDF5 has told of, and what others of those kinds are."""

    def __init__(self, file: h5py.File, path: Path, vouched: Identity | None) -> None:
        made = file.id.get_create_plist()
        # Addresses count from the start of the file, in 8 bytes, and are read where HDF5 reads.
        plain = file.driver == "sec2" and made.get_sizes() == (8, 8) and not file.userblock_size
        self._file = file.id.get_vfd_handle() if plain else None
        self._vouched = self._file is not None and vouched == identity(self._file)
        self._path = path
        self._types: dict[Any, tuple[np.dtype[Any], bool] | None] = {}
        self._asked: ColumnHeader | None = None  # the last that HDF5 must be asked about

    def object_at(self, name: bytes, address: int) -> Declared | object | None:
        """The column there, _GROUP for a group, None where HDF5 must be asked."""
        self._asked = None
        if self._file is None:
            return None
        messages = read_messages(self._file, address, vouched=self._vouched)
        if messages is None or is_group(messages):
            return None if messages is None else _GROUP
        header = column_header(messages)
        if header is None:
            return None
        if header.kind not in self._types:
            self._asked = header
            return None
        known = self._types[header.kind]
        return None if known is None else _declared(self._file, header, *known)

    def column(self, opened: h5py.h5d.DatasetID, name: bytes) -> Declared:
        """What HDF5 tells of a column; others like it are known from then on."""
        told, header = declared_column(opened, self._path, name), self._asked
        if self._file is not None and header is not None and len(self._types) < _MOST_KINDS:
            known = (told.dtype, told.run is not None and told.run.checked)
            # Both must agree on the one that both have seen, or HDF5 is asked about all of them.
            ours = _declared(self._file, header, *known)
            if ours is not None and header.within and _array_type(opened.get_type())[1]:
                ours = replace(ours, run=None)  # HDF5 does not say where in the header values lie
            self._types[header.kind] = known if ours == told else None
        return told


def _declared(
    file: int, header: ColumnHeader, dtype: np.dtype[Any], checked: bool
) -> Declared | None:
    run = run_of_header(file, header, dtype.itemsize, checked=checked)
    return None if run is None else Declared(header.shape, dtype, run)


def hard_links(file: h5py.File, path: Path) -> list[tuple[bytes, int]]:
    """Return the name and address of everything in a file.

    Raises UnsafeDataError for a link that leads out of it.
    """
    links: list[tuple[bytes, int, int]] = []

    def collect(name: bytes, info: Any) -> None:
        links.append((name, info.type, info.u))

    # HDF5's own visit enters each group once and follows hard links only, so no cycle holds it.
    file.id.links.visit(collect, info=True)
    for name, kind, _ in links:
        if kind != _HARD:
            what = "a soft link" if kind == _SOFT else "a link to another file"
            raise unsafe_column(path, name, what)
    return [(name, address) for name, _, address in links]


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

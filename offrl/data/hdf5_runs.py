"""Runs: columns whose chunks lie one after another in the file, read in one piece as plain bytes.

A column of 3 rows and 5 numbers in chunks of (2, 3), as Minari lays out an episode:

    in the file    [a a a a a a][b b b b b b][c c c c c c][d d d d d d]    a run of four chunks
    as a column    a a a b b .
                   a a a b b .        what lies beyond the column (.) is there and says nothing
                   c c c d d .
                   . . . . . .

HDF5 finds, checks and copies each chunk by itself, which for columns as small as an episode's costs
several times what the bytes cost. What is compressed, converted or scattered stays HDF5's work.
"""

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from h5py import (
    h5d,  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and without stubs
    h5t,
    h5z,  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and without stubs
)

_CHECKED = [h5z.FILTER_FLETCHER32]
CHECKSUM = 4  # bytes of fletcher32 after each chunk
_MOST_CHUNKS = 2**16
_MOST_CHECKED = 2**24  # bytes of a chunk whose sums stay within 64 bits
_MOST_UNUSED = 2**20  # bytes of the last chunks that lie beyond the column
_WORDS = 16  # of 16 bits: their weighted sum, at most 136 * 65535, is exact in float32
_WEIGHTS = np.stack([np.ones(_WORDS), np.arange(_WORDS, 0, -1)], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Run:
    """Where the chunks of a column lie in the file, and which shape each of them has."""

    offset: int  # bytes from the start of the file
    chunk: tuple[int, ...]
    checked: bool  # a checksum follows each chunk


def run_of(
    column: Any,  # h5d.DatasetID
    made: Any,  # its h5p.PropDCID
    filters: Sequence[int],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> Run | None:
    """Return the run that holds a column, None where its chunks are not one.

    `made`, `filters`, `shape` and `dtype` are properties of the column, known already, and its
    values are kept in the very type of an array of that dtype.
    """
    layout = made.get_layout()
    if layout == h5d.CONTIGUOUS and not filters:
        offset = column.get_offset()
        return None if offset is None else Run(offset, shape, checked=False)
    if layout != h5d.CHUNKED or (filters and filters != _CHECKED):
        return None
    chunk, checked = made.get_chunk(), bool(filters)
    count, size = run_size(shape, chunk, dtype.itemsize, checked)
    offset = _first_of(column, count, size) if count else None
    return None if offset is None else Run(offset, chunk, checked)


def plain_type(dtype: np.dtype[Any]) -> Any:
    """Return the HDF5 type (h5t.TypeID) whose values are the bytes of an array, None for text."""
    if dtype.kind not in "biuf" or dtype.metadata:
        return None
    return h5t.py_create(dtype, logical=True)


@lru_cache(maxsize=4096)
def run_size(
    shape: tuple[int, ...], chunk: tuple[int, ...], itemsize: int, checked: bool
) -> tuple[int, int]:
    """Return the number of chunks and the bytes of each; 0 chunks where they cannot be a run."""
    count, size = math.prod(_grid(shape, chunk)), math.prod(chunk) * itemsize
    unused = count * size - math.prod(shape) * itemsize
    if count > _MOST_CHUNKS or unused > _MOST_UNUSED or (checked and size > _MOST_CHECKED):
        return 0, 0
    return count, size + (CHECKSUM if checked else 0)


def _first_of(column: Any, count: int, size: int) -> int | None:
    """The place of the first chunk, where `count` chunks of `size` follow each other in order."""
    visit = getattr(column, "chunk_iter", None)  # absent where h5py was built with an older HDF5
    places: list[tuple[int, ...]] = []
    first = 0

    def follows(stored: Any) -> bool | None:
        nonlocal first
        if not places:
            first = stored.byte_offset
        expected = first + len(places) * size
        ordered = not places or stored.chunk_offset > places[-1]
        places.append(stored.chunk_offset)
        if ordered and (stored.byte_offset, stored.size) == (expected, size):
            return True if stored.filter_mask else None
        first = -1
        return True  # ends the visit

    if visit is None:
        return None
    try:
        visit(follows)
    except (OSError, RuntimeError, ValueError):
        return None  # a damaged index is told of by whoever reads the column
    return first if first > 0 and len(places) == count else None


@lru_cache(maxsize=1024)
def starts_of_chunks(shape: tuple[int, ...], chunk: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the place of the first value of each chunk, in the order of a run."""
    places = np.ndindex(_grid(shape, chunk))
    return [tuple(n * side for n, side in zip(place, chunk, strict=True)) for place in places]


def _grid(shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-rows // side) for rows, side in zip(shape, chunk, strict=True))


def read_run(
    file: io.RawIOBase, run: Run, shape: tuple[int, ...], dtype: np.dtype[Any], vouched: bool
) -> npt.NDArray[Any] | None:
    """Return the values of a column, None where a checksum differs, which HDF5 then tells of.

    `vouched`: these very bytes were compared with a SHA-256, so that the checksums can add nothing.
    Raises OSError where the file cannot be read to the end of the run.
    """
    if not run.checked and run.chunk[1:] == shape[1:]:
        values = np.empty(shape, dtype)
        _fill(file, run.offset, values)
        return values
    grid = _grid(shape, run.chunk)
    size = math.prod(run.chunk) * dtype.itemsize
    stored = np.empty((math.prod(grid), size + (CHECKSUM if run.checked else 0)), np.uint8)
    _fill(file, run.offset, stored)
    if run.checked and not vouched and not all(map(_is_whole, stored)):
        return None
    if run.chunk == shape:
        return stored[0, :size].view(dtype).reshape(shape)
    chunks = stored[:, :size].view(dtype).reshape(*grid, *run.chunk)
    # Rows of chunks and rows within one belong together: (g0, g1, c0, c1) to (g0, c0, g1, c1).
    axes = [axis for i in range(len(grid)) for axis in (i, len(grid) + i)]
    whole = [n * side for n, side in zip(grid, run.chunk, strict=True)]
    values = chunks.transpose(axes).reshape(whole)
    return np.ascontiguousarray(values[tuple(slice(rows) for rows in shape)])


def _fill(file: io.RawIOBase, offset: int, values: npt.NDArray[Any]) -> None:
    """Read bytes from a place in the file until the array is full."""
    view = values.reshape(-1).view(np.uint8).data
    end = offset + len(view)
    while view:
        # A damaged file may name a place that no file has, beyond what the system call takes.
        n = os.preadv(file.fileno(), [view], offset) if end < 2**63 else 0
        if n == 0:
            raise OSError(f"the file ends before byte {end}")
        view, offset = view[n:], offset + n


def _is_whole(stored: npt.NDArray[np.uint8]) -> bool:
    """Whether the last four bytes are the checksum of the others, as HDF5 stores it."""
    kept = int.from_bytes(stored[-CHECKSUM:].tobytes(), "little")
    return fletcher32(stored[:-CHECKSUM]) == kept


def fletcher32(data: npt.NDArray[np.uint8]) -> int:
    """Return HDF5's checksum: sums of big-endian words, and of those sums, modulo 65535."""
    if len(data) % 2:
        data = np.append(data, np.uint8(0))
    # Read as little-endian words; modulo 65535 that swaps the bytes of both sums and no more.
    words = data.view("<u2")
    many = len(words) // _WORDS * _WORDS
    blocks = (words[:many].reshape(-1, _WORDS).astype(np.float32) @ _WEIGHTS).astype(np.int64)
    after = many - _WORDS * np.arange(1, len(blocks) + 1)
    simple = int(blocks[:, 0].sum())
    double = int(blocks[:, 1].sum() + blocks[:, 0] @ after)
    for word in words[many:].tolist():
        simple += word
        double += simple
    return _folded(double) << 16 | _folded(simple)


def _folded(total: int) -> int:
    """A sum with its carries added until none is left, its two bytes swapped."""
    rest = (total - 1) % 65535 + 1 if total else 0
    return (rest & 0xFF) << 8 | rest >> 8

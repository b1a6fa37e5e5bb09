"""Headers of columns, read as plain bytes where HDF5 has told of one that is like them.

    header of a column      [dataspace: shape][type][fill value][filters][layout: chunk, address]
    index of its chunks     [TREE][size, mask, place in the column, address] for each chunk

A file of many episodes holds thousands of columns whose headers differ in shapes, chunks and
addresses alone (and in the values themselves, where these are few and lie in the header), and
opening one with HDF5 costs more than reading its values. So HDF5 opens the first of a kind; of the
others those three are read here, and only if their bytes are exactly what HDF5 writes for a column
whose values lie together. Everything else is left to HDF5. No byte here is trusted: at worst,
values come from another place of the same file.

Layout of the bytes: HDF5 File Format Specification 3.0, IV.A (headers) and III.A.1 (B-trees).
"""

import math
import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from offrl.data.hdf5_runs import Run, run_size, starts_of_chunks

_MOST_BYTES = 512  # of a header; that of a plain column takes about 280
_SPACE, _LAYOUT, _CONTINUED = 0x01, 0x08, 0x10
_SYMBOLS, _LINKS = 0x11, 0x02  # messages that only groups have
_COMPACT, _CONTIGUOUS, _CHUNKED = 0, 1, 2
_UNDEFINED = 2**64 - 1
_PREFIX = struct.Struct("<BxHIIxxxx")  # version, messages, links, bytes
_MESSAGE = struct.Struct("<HHBxxx")  # kind, bytes, flags
_PREFIX_2, _MESSAGE_2 = struct.Struct("<4sBB"), struct.Struct("<BHB")
_TREE = struct.Struct("<4sBBHQQ")  # mark, kind, level, entries, siblings
_MOST_ENTRIES = 2**10  # of a node; HDF5 makes them of 64

Message = tuple[int, int, bytes, int]  # kind, flags, content, place of the content in the file


@dataclass(frozen=True, slots=True)
class ColumnHeader:
    """What the header of one column says that those of its kind need not share."""

    kind: tuple[tuple[Any, ...], ...]  # everything else: HDF5 judges one of each
    shape: tuple[int, ...]
    chunk: tuple[int, ...] | None  # None where the values lie in one piece
    address: int  # of the values, or of the index of the chunks
    size: int  # bytes of the values in one piece, or of a number in a chunk
    within: bool = False  # the values lie in the header itself


def read_messages(file: int, address: int, *, vouched: bool) -> list[Message] | None:
    """Return the messages of the header of an object; None where HDF5 had better read it.

    `file` is a descriptor. A header of the second version ends in a checksum, which is not looked
    at: such headers are read only where the whole file is `vouched` for by a digest.
    """
    raw = os.pread(file, _MOST_BYTES, address) if address < 2**63 else b""
    try:
        second = vouched and raw[:4] == b"OHDR"
        return _messages_2(raw, address) if second else _messages(raw, address)
    except (struct.error, IndexError):
        return None


def _messages(raw: bytes, address: int) -> list[Message] | None:
    version, count, _, size = _PREFIX.unpack_from(raw)
    at, end = _PREFIX.size, _PREFIX.size + size
    if version != 1 or end > len(raw):
        return None
    found: list[Message] = []
    while at < end:
        kind, length, flags = _MESSAGE.unpack_from(raw, at)
        at += _MESSAGE.size
        if kind == _CONTINUED or at + length > end:
            return None
        found.append((kind, flags, raw[at : at + length], address + at))
        at += length
    return found if len(found) == count else None


def _messages_2(raw: bytes, address: int) -> list[Message] | None:
    _, version, flags = _PREFIX_2.unpack_from(raw)
    at = _PREFIX_2.size + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(raw[at : at + width], "little")
    at, ordered = at + width, 2 if flags & 4 else 0
    end = at + size
    if version != 2 or end > len(raw):
        return None
    found: list[Message] = []
    while at + _MESSAGE_2.size + ordered <= end:
        kind, length, flags = _MESSAGE_2.unpack_from(raw, at)
        at += _MESSAGE_2.size + ordered
        if kind == _CONTINUED or at + length > end:
            return None
        found.append((kind, flags, raw[at : at + length], address + at))
        at += length
    return found


def is_group(messages: list[Message]) -> bool:
    """Return whether only a group can have these messages."""
    kinds = {message[0] for message in messages}
    return bool(kinds & {_SYMBOLS, _LINKS}) and _LAYOUT not in kinds


def column_header(messages: list[Message]) -> ColumnHeader | None:
    """Return what the messages say of a column, None where its values may not lie together."""
    try:
        return _column_header(messages)
    except (struct.error, IndexError):
        return None


def _column_header(messages: list[Message]) -> ColumnHeader | None:
    kind: list[tuple[Any, ...]] = []
    shape = stored = None
    for message in messages:
        if message[0] == _SPACE and shape is None:
            shape = _shape(message[2])
            kind.append((_SPACE, message[1], message[2][0], len(shape or ())))
        elif message[0] == _LAYOUT and stored is None:
            stored = _stored(message[2], message[3])
            kind.append((_LAYOUT, message[1], *message[2][:2]))
        elif message[0]:  # 0: room that nothing fills
            kind.append(message[:3])
    if shape is None or stored is None or 0 in shape:
        return None
    chunk, address, size = stored
    if chunk is not None and (len(chunk) != len(shape) or 0 in chunk):
        return None
    within = (_LAYOUT, 0, 3, _COMPACT) in kind
    return ColumnHeader(tuple(kind), shape, chunk, address, size, within)


def _shape(body: bytes) -> tuple[int, ...] | None:
    version, rank, bounded = body[0], body[1], body[2]
    before = {1: 8, 2: 4}.get(version, 0)
    if not before or not rank or bounded > 1 or (version == 2 and body[3] != 1):
        return None
    sides = struct.unpack_from(f"<{rank * (1 + bounded)}Q", body, before)
    shape, most = sides[:rank], sides[rank:]
    return None if any(n > m for n, m in zip(shape, most, strict=False)) else shape


def _stored(body: bytes, place: int) -> tuple[tuple[int, ...] | None, int, int] | None:
    """Chunk, address and size, of a layout of the third version."""
    if body[0] != 3:
        return None
    if body[1] == _COMPACT:
        size = int.from_bytes(body[2:4], "little")
        return (None, place + 4, size) if 4 + size <= len(body) else None
    if body[1] == _CONTIGUOUS:
        address, size = struct.unpack_from("<QQ", body, 2)
        return None if address == _UNDEFINED else (None, address, size)
    if body[1] != _CHUNKED:
        return None
    address, *sides = struct.unpack_from(f"<Q{body[2]}I", body, 3)
    return None if address == _UNDEFINED else (tuple(sides[:-1]), address, sides[-1])


def run_of_header(file: int, header: ColumnHeader, itemsize: int, *, checked: bool) -> Run | None:
    """Return the run that holds a column, None where its chunks may not be one."""
    shape, chunk = header.shape, header.chunk
    if chunk is None:
        size = math.prod(shape) * itemsize
        sound = not checked and size == header.size and _is_inside(file, header.address, size)
        return Run(header.address, shape, checked=False) if sound else None
    count, size = run_size(shape, chunk, itemsize, checked)
    if header.size != itemsize or not 0 < count <= _MOST_ENTRIES or header.address >= 2**63:
        return None
    keys, after = _keys(shape, chunk, size)
    width, length = len(keys[0]) + 8, _TREE.size + count * (len(keys[0]) + 8)
    node = os.pread(file, length + after.size, header.address)
    if len(node) < length + after.size:
        return None
    first = int.from_bytes(node[_TREE.size + width - 8 : _TREE.size + width], "little")
    if not _is_inside(file, first, count * size):
        return None
    places = range(first, first + count * size, size)
    entries = [key + at.to_bytes(8, "little") for key, at in zip(keys, places, strict=True)]
    head = _TREE.pack(b"TREE", 1, 0, count, _UNDEFINED, _UNDEFINED)  # a leaf, and no other node
    if node[:length] != b"".join((head, *entries)):
        return None
    # The key after the last entry is one beyond it, where HDF5 looks for a chunk, and no more: it
    # depends on the order in which they came.
    nothing, mask, *place = after.unpack_from(node, length)
    sides, final = (*chunk, itemsize), [*starts_of_chunks(shape, chunk)[-1], 0]
    aligned = not any(n % side for n, side in zip(place, sides, strict=True))
    return Run(first, chunk, checked) if aligned and not nothing | mask and place > final else None


def _is_inside(file: int, address: int, size: int) -> bool:
    return 0 < address <= os.fstat(file).st_size - size


@lru_cache(maxsize=1024)
def _keys(
    shape: tuple[int, ...], chunk: tuple[int, ...], size: int
) -> tuple[list[bytes], struct.Struct]:
    """The key of each chunk in the index (bytes, no filter left out, its place), and its form."""
    form = struct.Struct(f"<II{len(shape) + 1}Q")
    return [form.pack(size, 0, *start, 0) for start in starts_of_chunks(shape, chunk)], form

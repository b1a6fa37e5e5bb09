"""RLlib's packed arrays, base64(lz4 frame(pickle(array))), read without unpickling anything.

A pickle is a program. This reader knows the dozen instructions that build one numpy array of
numbers, has two names it may call (numpy's `_frombuffer` and `dtype`), which it does by itself, and
refuses every other instruction and name before anything happens.
"""

import base64
import binascii
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.errors import UnsafeDataError

MAX_BYTES = 2**30  # of one array
_MAGIC = 0x184D2204
# The same function under its names in numpy 2 and numpy 1.
_FROM_BUFFER = {("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer")}
_DTYPE = ("numpy", "dtype")
_KINDS = {f"{kind}{size}" for kind, sizes in
          {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "b": (1,)}.items()
          for size in sizes}  # fmt: skip


def is_packed(value: object) -> bool:
    """Return whether a column of the JSON is a packed array: text that begins as an lz4 frame."""
    return isinstance(value, str) and value.startswith("BCJNG")


def unpack(text: str) -> npt.NDArray[Any]:
    """Return the array that a text packs.

    Raises ValueError where it is damaged, UnsafeDataError where it would do more than make an array
    of numbers.
    """
    try:
        packed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is not base64 ({error})") from error
    try:
        return _Reader(expand(packed)).array()
    except (IndexError, struct.error) as error:
        raise ValueError("it is cut") from error


def expand(frame: bytes) -> bytes:
    """Return what an lz4 frame holds; raises ValueError where it is damaged or too large."""
    magic, flags, _ = struct.unpack_from("<IBB", frame)
    if magic != _MAGIC or flags >> 6 != 1 or flags & 1:
        raise ValueError("it is not a plain lz4 frame")
    at, declared = 6, None
    if flags & 0b1000:
        declared = struct.unpack_from("<Q", frame, at)[0]
        at += 8
        if declared > min(MAX_BYTES, 256 * len(frame)):
            raise ValueError(f"it declares {declared} bytes and holds {len(frame)}")
    at += 1  # the checksum of the header
    out = bytearray()
    while (size := struct.unpack_from("<I", frame, at)[0]) != 0:
        at += 4
        stored, size = bool(size >> 31), size & 0x7FFFFFFF
        block = frame[at : at + size]
        if len(block) != size:
            raise ValueError("it is cut")
        at += size + (4 if flags & 0b10000 else 0)
        if stored:
            out += block
        else:
            _expand_block(block, out)
        if len(out) > MAX_BYTES:
            raise ValueError(f"it holds more than {MAX_BYTES} bytes")
    if declared is not None and len(out) != declared:
        raise ValueError(f"it holds {len(out)} bytes and declares {declared}")
    return bytes(out)


def _expand_block(block: bytes, out: bytearray) -> None:
    """Append the bytes of one block: runs of literals, each followed by a copy of earlier bytes."""
    at = 0
    while at < len(block):
        token = block[at]
        length, at = _length(block, at + 1, token >> 4)
        out += block[at : at + length]
        at += length
        if at >= len(block):
            return  # the last run has no copy
        offset = block[at] | block[at + 1] << 8
        length, at = _length(block, at + 2, token & 15)
        length += 4
        start = len(out) - offset
        if not offset or start < 0:
            raise ValueError("a copy reaches before its beginning")
        while length > 0:  # the copy may overlap what it makes
            piece = out[start : start + length]
            out += piece
            start, length = start + len(piece), length - len(piece)


def _length(block: bytes, at: int, nibble: int) -> tuple[int, int]:
    length = nibble
    if nibble == 15:
        while (more := block[at]) == 255:
            length, at = length + 255, at + 1
        length, at = length + more, at + 1
    return length, at


class _Name(tuple[str, str]):
    """A name that a pickle asked for; it is never looked up."""


class _Mark:
    """The beginning of a tuple on the stack."""


class _Kind:
    """A numpy dtype in the making: its letter and size, then its byte order."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"


class _Reader:
    """A pickle's instructions, read one by one."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.memo: list[Any] = []

    def array(self) -> npt.NDArray[Any]:
        """Follow the instructions to the end and return the array that they make."""
        do = self._instructions()
        while True:
            code = self.data[self.at]
            self.at += 1
            if code == ord("."):
                break
            if code not in do:
                raise UnsafeDataError(
                    f"A packed array holds the pickle instruction {code:#04x}, which no array of"
                    " numbers needs.",
                    "Nothing was run; get the log from someone you trust, with plain lists.",
                )
            do[code]()
        (made,) = self.stack
        if not isinstance(made, np.ndarray):
            raise ValueError(f"it makes a {type(made).__name__}, not an array")
        return made

    def _instructions(self) -> dict[int, Callable[[], None]]:
        push = self.stack.append
        return {
            0x80: lambda: self._skip(1),  # protocol
            0x95: lambda: self._skip(8),  # frame
            0x94: lambda: self.memo.append(self.stack[-1]),
            ord("h"): lambda: push(self.memo[self._number(1)]),
            ord("j"): lambda: push(self.memo[self._number(4)]),
            0x8C: lambda: push(self._bytes(self._number(1)).decode("utf-8")),
            ord("X"): lambda: push(self._bytes(self._number(4)).decode("utf-8")),
            ord("C"): lambda: push(self._bytes(self._number(1))),
            ord("B"): lambda: push(self._bytes(self._number(4))),
            0x8E: lambda: push(self._bytes(self._number(8))),
            0x96: lambda: push(self._bytes(self._number(8))),
            ord("K"): lambda: push(self._number(1)),
            ord("M"): lambda: push(self._number(2)),
            ord("J"): lambda: push(self._number(4, signed=True)),
            0x88: lambda: push(True),
            0x89: lambda: push(False),
            ord("N"): lambda: push(None),
            ord("("): lambda: push(_Mark()),
            ord(")"): lambda: push(()),
            0x85: lambda: self._tuple(1),
            0x86: lambda: self._tuple(2),
            0x87: lambda: self._tuple(3),
            ord("t"): self._marked_tuple,
            0x93: self._name,
            ord("R"): self._call,
            ord("b"): self._build,
        }

    def _skip(self, size: int) -> None:
        self._bytes(size)

    def _bytes(self, size: int) -> bytes:
        found = self.data[self.at : self.at + size]
        if len(found) != size:
            raise ValueError("it is cut")
        self.at += size
        return found

    def _number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._bytes(size), "little", signed=signed)

    def _tuple(self, size: int) -> None:
        items = tuple(self.stack[-size:])
        if len(items) != size:
            raise ValueError("it is damaged")
        self.stack[-size:] = [items]

    def _marked_tuple(self) -> None:
        marks = [i for i, item in enumerate(self.stack) if isinstance(item, _Mark)]
        if not marks:
            raise ValueError("it is damaged")
        self.stack[marks[-1] :] = [tuple(self.stack[marks[-1] + 1 :])]

    def _name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if (module, name) not in (*_FROM_BUFFER, _DTYPE):
            raise UnsafeDataError(
                f"A packed array asks for {module}.{name}, which no array of numbers needs.",
                "Nothing was run; get the log from someone you trust, with plain lists.",
            )
        self.stack.append(_Name((module, name)))

    def _call(self) -> None:
        given, name = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, _Name) and isinstance(given, tuple)):
            raise ValueError("it is damaged")
        if tuple(name) == _DTYPE:
            code = given[0] if given else None
            if code not in _KINDS:
                raise UnsafeDataError(
                    f"A packed array is of the type {code!r}, not of numbers.",
                    "Log plain numbers.",
                )
            self.stack.append(_Kind(code))
        else:
            self.stack.append(_made(given))

    def _build(self) -> None:
        state, kind = self.stack.pop(), self.stack[-1]
        if not (isinstance(kind, _Kind) and isinstance(state, tuple) and len(state) > 1):
            raise ValueError("it is damaged")
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"its byte order is {state[1]!r}")
        kind.order = state[1]


def _made(given: tuple[Any, ...]) -> npt.NDArray[Any]:
    if len(given) != 4:
        raise ValueError("it is damaged")
    content, kind, shape, order = given
    if not (isinstance(content, bytes) and isinstance(kind, _Kind) and isinstance(shape, tuple)):
        raise ValueError("it is damaged")
    if order not in ("C", "F") or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("it is damaged")
    dtype = np.dtype(kind.order + kind.code)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"it holds {len(content)} bytes for the shape {shape} of {dtype}")
    return np.frombuffer(content, dtype).reshape(shape, order=order)

"""Frames: what one process tells another, as one JSON header and the bytes of columns.

    8 bytes   length of the header
    header    {"episode": 3, "seed": 17, "columns": {...}, "size": 4096}, or {"error": ...}
    size      the columns' bytes, one after another

Nothing in a frame is run, and a column comes out with the type, shape and values it went in with.
"""

import json
import struct
from collections.abc import Mapping
from typing import IO, Any, BinaryIO

import numpy as np

from offrl.data.episodes import Episode

_LENGTH = struct.Struct(">Q")
_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations", "infos")


def write_message(stream: IO[bytes], header: Mapping[str, Any], body: bytes = b"") -> None:
    """Write one frame and flush it."""
    text = json.dumps({**header, "size": len(body)}).encode()
    stream.write(_LENGTH.pack(len(text)) + text + body)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Return the next frame's header and body, None where the stream ends before it is whole."""
    start = stream.read(_LENGTH.size)
    if len(start) < _LENGTH.size:
        return None
    text = stream.read(_LENGTH.unpack(start)[0])
    try:
        header = json.loads(text)
    except ValueError:  # cut off in the middle of the header
        return None
    body = stream.read(header["size"])
    return None if len(body) < header["size"] else (header, body)


def write_episode(stream: BinaryIO, episode: Episode) -> None:
    """Write an episode as one frame."""
    parts: list[bytes] = []
    columns = {name: described(getattr(episode, name), parts) for name in _FIELDS}
    header = {"episode": episode.id, "seed": episode.seed, "columns": columns}
    write_message(stream, header, b"".join(parts))


def episode_of(header: Mapping[str, Any], body: bytes) -> Episode:
    """Return the episode of a frame that `write_episode` wrote; its arrays are read-only."""
    position = [0]
    columns = {name: restored(header["columns"][name], body, position) for name in _FIELDS}
    return Episode(header["episode"], **columns, seed=header["seed"])


def described(value: Any, parts: list[bytes]) -> dict[str, Any]:
    """Return what a header says of a nested value; the bytes of its arrays are added to `parts`."""
    if isinstance(value, Mapping):
        return {"dict": {key: described(child, parts) for key, child in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [described(child, parts) for child in value]}
    column = np.asarray(value)
    if column.dtype.kind in "OUS":
        return {"text": column.tolist()}
    parts.append(np.ascontiguousarray(column).tobytes())
    return {"array": column.dtype.str, "shape": column.shape}


def restored(described: Mapping[str, Any], body: bytes | bytearray, position: list[int]) -> Any:
    """Return the value that was described, from `position[0]` of the body on, and move on there.

    Its arrays share the memory of the body, and can be written to where that can.
    """
    if "dict" in described:
        return {k: restored(child, body, position) for k, child in described["dict"].items()}
    if "tuple" in described:
        return tuple(restored(child, body, position) for child in described["tuple"])
    if "text" in described:
        return np.array(described["text"], object)
    kind, shape = np.dtype(described["array"]), tuple(described["shape"])
    count = int(np.prod(shape))
    column = np.frombuffer(body, kind, count, position[0]).reshape(shape)
    position[0] += count * kind.itemsize
    return column

"""Gymnasium spaces as Minari writes them in metadata.json: JSON text, read and never run.

A space in a file is a claim by whoever wrote the file, so its size and depth are limited, only
plain number types are accepted, and no environment is made to find a space that is missing.
"""

import json
import math
from collections import OrderedDict
from typing import Any

import numpy as np
from gymnasium import spaces

from offrl.errors import ConfigError, CorruptDataError

MAX_TEXT = 64 * 2**20  # characters of one serialised space
MAX_DEPTH = 32
MAX_ELEMENTS = 2**26  # of one Box: 67 million numbers
_SIZES = {"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64), "float": (16, 32, 64)}
NUMBER_TYPES = {"bool"} | {f"{kind}{bits}" for kind, sizes in _SIZES.items() for bits in sizes}
UNSUPPORTED = ("Graph", "Sequence", "OneOf")


def space_to_json(space: spaces.Space[Any]) -> str:
    """Return a space as the JSON text that Minari writes for it.

    Raises ConfigError for a space that Minari cannot write.
    """
    return json.dumps(_space_to_dict(space))


def _space_to_dict(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "dtype": str(space.dtype),
            "shape": list(space.shape),
            "low": space.low.tolist(),
            "high": space.high.tolist(),
        }
    if isinstance(space, spaces.Discrete):
        return {
            "type": "Discrete",
            "dtype": "int64",
            "start": int(space.start),
            "n": int(space.n),
        }
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "dtype": str(space.dtype),
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
        }
    if isinstance(space, spaces.MultiBinary):
        n = space.n
        return {"type": "MultiBinary", "n": n if isinstance(n, int) else [int(size) for size in n]}
    if isinstance(space, spaces.Text):
        return {
            "type": "Text",
            "max_length": space.max_length,
            "min_length": space.min_length,
            "charset": space.characters,
        }
    if isinstance(space, spaces.Dict):
        parts = {key: _space_to_dict(part) for key, part in space.spaces.items()}
        return {"type": "Dict", "subspaces": parts}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "subspaces": [_space_to_dict(part) for part in space.spaces]}
    raise ConfigError(
        f"A {type(space).__name__} space cannot be written to a Minari dataset.",
        "Describe it by Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple spaces.",
    )


def space_from_json(text: object, name: str) -> spaces.Space[Any]:
    """Return the space that Minari's JSON text describes; `name` is the key it was found under.

    Raises CorruptDataError where the text is not such a description or is beyond the limits, and
    ConfigError where it describes a space that offrl does not support.
    """
    if not isinstance(text, str):
        raise _corrupt(name, f"is {type(text).__name__}, not JSON text")
    if len(text) > MAX_TEXT:
        raise _corrupt(name, f"is {len(text)} characters long; at most {MAX_TEXT} are read")
    try:
        described = json.loads(text)
    except RecursionError as error:
        raise _corrupt(name, "is nested too deeply") from error
    except ValueError as error:
        raise _corrupt(name, f"is not JSON ({error})") from error
    return _space_from_dict(described, name, 0)


def _space_from_dict(described: object, name: str, depth: int) -> spaces.Space[Any]:
    if depth > MAX_DEPTH:
        raise _corrupt(name, f"is nested more than {MAX_DEPTH} deep")
    if not isinstance(described, dict):
        raise _corrupt(name, "is not an object with a 'type'")
    kind = described.get("type")
    if kind in UNSUPPORTED:
        raise ConfigError(
            f"{name} is a {kind} space, which offrl does not support.",
            "Convert the data to Box, Discrete, Dict or Tuple spaces first.",
        )
    build = _READERS.get(kind) if isinstance(kind, str) else None
    if build is None:
        raise _corrupt(name, f"has the unknown type {kind!r}")
    try:
        return build(described, name, depth)
    except KeyError as error:
        raise _corrupt(name, f"is a {kind} without the key {error}") from error
    except (TypeError, ValueError, AssertionError, OverflowError) as error:
        raise _corrupt(name, f"is not a valid {kind} ({error})") from error


def _box(described: dict[str, Any], name: str, depth: int) -> spaces.Box:
    dtype = _dtype(described, name)
    shape = _shape(described["shape"], name)
    low, high = (_bound(described[key], shape, dtype, f"{name} {key}") for key in ("low", "high"))
    if not np.all(low <= high):
        raise _corrupt(name, "has a low bound above its high bound, or one that is not a number")
    return spaces.Box(low=low, high=high, shape=shape, dtype=dtype.type)


def _bound(value: object, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Any:
    given = np.array(value)
    if given.dtype.kind not in "biuf" and given.size:
        raise _corrupt(name, "holds something that is not a number")
    if given.shape != shape:
        raise _corrupt(name, f"has the shape {given.shape}, where {shape} was declared")
    if dtype.kind in "iu" and given.size:
        limits = np.iinfo(dtype)
        if not (np.all(given >= limits.min) and np.all(given <= limits.max)):
            raise _corrupt(name, f"does not fit {dtype}")
    return given.astype(dtype)


def _discrete(described: dict[str, Any], name: str, depth: int) -> spaces.Discrete:
    n, start = _integer(described["n"], f"{name} n"), _integer(described["start"], f"{name} start")
    if not 1 <= n <= MAX_ELEMENTS:
        raise _corrupt(f"{name} n", f"is {n}, outside 1 .. {MAX_ELEMENTS}")
    return spaces.Discrete(n=n, start=start)


def _multi_discrete(described: dict[str, Any], name: str, depth: int) -> spaces.MultiDiscrete:
    dtype = _dtype(described, name)
    nvec = np.array(described["nvec"])
    start = np.array(described.get("start", np.zeros_like(nvec)))
    if nvec.dtype.kind not in "iu" or start.dtype.kind not in "iu" or nvec.shape != start.shape:
        raise _corrupt(name, "needs whole numbers in nvec and start, of one shape")
    if nvec.size == 0 or nvec.min() < 1 or int(nvec.sum()) > MAX_ELEMENTS:
        raise _corrupt(name, f"has an nvec outside 1 .. {MAX_ELEMENTS}")
    return spaces.MultiDiscrete(nvec=nvec, start=start, dtype=dtype.type)


def _multi_binary(described: dict[str, Any], name: str, depth: int) -> spaces.MultiBinary:
    n = described["n"]
    if isinstance(n, list):
        return spaces.MultiBinary(n=list(_shape(n, name)))
    size = _integer(n, f"{name} n")
    if not 1 <= size <= MAX_ELEMENTS:
        raise _corrupt(f"{name} n", f"is {size}, outside 1 .. {MAX_ELEMENTS}")
    return spaces.MultiBinary(n=size)


def _text(described: dict[str, Any], name: str, depth: int) -> spaces.Text:
    charset = described["charset"]
    if not isinstance(charset, str):
        raise _corrupt(f"{name} charset", "is not text")
    low = _integer(described["min_length"], f"{name} min_length")
    high = _integer(described["max_length"], f"{name} max_length")
    return spaces.Text(max_length=high, min_length=low, charset=charset)


def _dict(described: dict[str, Any], name: str, depth: int) -> spaces.Dict:
    parts = described["subspaces"]
    if not isinstance(parts, dict):
        raise _corrupt(name, "has subspaces that are not an object")
    # An OrderedDict keeps the order of the file; from a plain dict gymnasium would sort the keys.
    return spaces.Dict(
        OrderedDict(
            (key, _space_from_dict(part, f"{name}/{key}", depth + 1)) for key, part in parts.items()
        )
    )


def _tuple(described: dict[str, Any], name: str, depth: int) -> spaces.Space[Any]:
    parts = described["subspaces"]
    if not isinstance(parts, list):
        raise _corrupt(name, "has subspaces that are not a list")
    return spaces.Tuple(
        tuple(_space_from_dict(part, f"{name}/{i}", depth + 1) for i, part in enumerate(parts))
    )


_READERS = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Text": _text,
    "Dict": _dict,
    "Tuple": _tuple,
}


def _dtype(described: dict[str, Any], name: str) -> np.dtype[Any]:
    dtype = described["dtype"]
    if not isinstance(dtype, str) or dtype not in NUMBER_TYPES:
        raise _corrupt(name, f"has the dtype {dtype!r}, which is not a plain number type")
    return np.dtype(dtype)


def _shape(value: object, name: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _corrupt(f"{name} shape", "is not a list of whole numbers")
    shape = tuple(_integer(size, f"{name} shape") for size in value)
    if any(size < 1 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise _corrupt(f"{name} shape", f"is {list(shape)}, outside 1 .. {MAX_ELEMENTS} elements")
    return shape


def _integer(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _corrupt(name, f"is {value!r}, not a whole number")
    return value


def _corrupt(name: str, what: str) -> CorruptDataError:
    return CorruptDataError(
        f"metadata.json: {name} {what}.", "Download or write the dataset again."
    )

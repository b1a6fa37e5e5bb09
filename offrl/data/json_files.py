"""JSON files read strictly: limited size and depth, no repeated key, no NaN, an object on top."""

import json
from pathlib import Path
from typing import Any

from offrl.errors import CorruptDataError

MAX_BYTES = 64 * 2**20


def read_object(path: Path, remedy: str = "Download or write the dataset again.") -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises CorruptDataError naming the file where it is missing, empty, cut, too large or nested too
    deeply, is not UTF-8, repeats a key, holds NaN or infinity, or is not an object.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise CorruptDataError(f"{path} cannot be read: {error.strerror}.", remedy) from error
    if size > MAX_BYTES:
        raise CorruptDataError(f"{path} has {size} bytes; at most {MAX_BYTES} are read.", remedy)
    if not content.strip():
        raise CorruptDataError(f"{path} is empty.", remedy)
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{path} is not UTF-8 text.", remedy) from error
    except RecursionError as error:
        raise CorruptDataError(f"{path} is nested too deeply.", remedy) from error
    except ValueError as error:
        raise CorruptDataError(f"{path} is not valid JSON: {error}.", remedy) from error
    if not isinstance(value, dict):
        raise CorruptDataError(f"{path} holds a {type(value).__name__}, not an object.", remedy)
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{repeated}' appears twice")
    return made


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")

"""A user's own policy by path: `FILE.py:FUNCTION`, run because the user typed it."""

import hashlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offrl.errors import ConfigError, NotFoundError, WorkError, suggest


def split(reference: str) -> tuple[Path, str]:
    """Return the file and the name of `FILE.py:FUNCTION`."""
    file, _, name = reference.rpartition(":")
    return Path(file), name


def load_function(reference: str) -> Callable[..., Any]:
    """Import FILE.py and return FUNCTION.

    Raises NotFoundError where either is missing and WorkError where the import fails.
    """
    path, name = split(reference)
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.", "A policy is written FILE.py:FUNCTION.")
    spec = importlib.util.spec_from_file_location(f"offrl_policy_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file.", "A policy is written FILE.py:FUNCTION.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise WorkError(
            f"Importing {path} raised {type(error).__name__}: {error}", "Correct it and try again."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise NotFoundError(
            f"{path} has no function '{name}'.{suggest(name, names)}",
            "A policy is written FILE.py:FUNCTION.",
        )
    return found


def takes_rng(function: Callable[..., Any], name: str) -> bool:
    """Return whether a policy is a function of (obs, rng) rather than of obs alone.

    Raises ConfigError for any other number of required parameters.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C show no signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.default is p.empty and p.kind in positional]
    if len(required) not in (1, 2):
        raise ConfigError(
            f"The policy '{name}' takes {len(required)} parameters.",
            "Write it as a function of obs -> action, or of (obs, rng) -> (action, log_prob).",
        )
    return len(required) == 2


def source_of(reference: str) -> dict[str, str]:
    """Return the text of FILE.py and its SHA-256, kept with the data that it made."""
    text = split(reference)[0].read_bytes()
    return {"source": text.decode("utf-8"), "sha256": hashlib.sha256(text).hexdigest()}

"""Agents of Stable-Baselines3 as files: two members of a zip are read, and nothing is run.

data          JSON; the pickles that it quotes are left alone, the plain values beside them used
policy.pth    weights, by torch's reader of weights only
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.errors import ConfigError, CorruptDataError, NotFoundError, UnsafeDataError, suggest

_MEMBERS = 64
_BUDGET = {"data": 2**26, "policy.pth": 2**30}  # bytes once decompressed
_REMEDY = "Save the agent again with model.save, or copy it again."

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Archive:
    """What was read of an agent's zip."""

    path: Path
    data: dict[str, Any]
    weights: dict[str, Array]


class UnreadError(ConfigError):
    """An agent that cannot be had from plain values and weights alone."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(
            cause,
            "Name a function of yours that loads it, FILE.py:FUNCTION; or, if you trust its "
            "author, --trust has stable-baselines3 load it, which executes the Python that is "
            f"pickled in {path.name}.",
        )


def zip_path(path: Path) -> Path:
    """Return the file that a name stands for, with or without .zip; NotFoundError without one."""
    for candidate in (path, path.with_name(f"{path.name}.zip")):
        if candidate.is_file():
            return candidate
    near = [str(p) for p in path.parent.glob("*.zip")] if path.parent.is_dir() else []
    raise NotFoundError(
        f"There is no agent {path}.{suggest(str(path), near)}", "An agent is written sb3:FILE.zip."
    )


def statistics_path(path: Path) -> Path | None:
    """Return the VecNormalize file beside an agent's zip, by the names that are usual for it."""
    folder, stem = path.parent, path.name.removesuffix(".zip")
    names = (
        f"{stem}.vecnormalize.pkl", f"{stem}_vecnormalize.pkl", f"{stem}/vecnormalize.pkl",
        "vecnormalize.pkl", "vec_normalize.pkl",
    )  # fmt: skip
    return next((folder / name for name in names if (folder / name).is_file()), None)


def digests(path: Path) -> dict[str, Any]:
    """Return the SHA-256 of an agent's zip and of the statistics beside it."""
    found = zip_path(path)
    digest = {"sha256": hashlib.sha256(found.read_bytes()).hexdigest()}
    statistics = statistics_path(found)
    if statistics is not None:
        digest["statistics"] = statistics.name
        digest["statistics_sha256"] = hashlib.sha256(statistics.read_bytes()).hexdigest()
    return digest


def read_zip(path: Path) -> Archive:
    """Read an agent's zip.

    Raises NotFoundError, CorruptDataError for a file that is no such zip or is damaged,
    UnsafeDataError for one whose members exceed a budget or whose weights are more than weights.
    """
    found = zip_path(path)
    try:
        with zipfile.ZipFile(found) as archive:
            _refuse_excess(found, archive.infolist())
            for name in _BUDGET:
                if name not in archive.namelist():
                    raise CorruptDataError(
                        f"{found} has no '{name}': it is not an agent, or is cut off.", _REMEDY
                    )
            data, weights = (archive.read(name) for name in _BUDGET)
        page = json.loads(data)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError) as error:
        raise CorruptDataError(f"{found} cannot be read: {error}.", _REMEDY) from error
    except (ValueError, RecursionError, NotImplementedError, RuntimeError) as error:
        raise CorruptDataError(f"{found}: a member cannot be read: {error}.", _REMEDY) from error
    if not isinstance(page, dict):
        raise CorruptDataError(f"{found}: 'data' is not a JSON object.", _REMEDY)
    return Archive(found, page, _tensors(found, weights))


def _refuse_excess(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(names) > _MEMBERS or len(set(names)) < len(names):
        raise UnsafeDataError(
            f"{path} has {len(names)} members, some more than once or too many for an agent.",
            "Do not use this file.",
        )
    for member in members:
        limit = _BUDGET.get(member.filename)
        if limit is not None and member.file_size > limit:
            raise UnsafeDataError(
                f"{path}: '{member.filename}' has {member.file_size} bytes; {limit} is the limit.",
                "Do not use this file.",
            )


def _tensors(path: Path, content: bytes) -> dict[str, Array]:
    import torch

    inner = io.BytesIO(content)
    if zipfile.is_zipfile(inner):
        with zipfile.ZipFile(inner) as nested:
            declared = sum(member.file_size for member in nested.infolist())
        if declared > _BUDGET["policy.pth"]:
            raise UnsafeDataError(
                f"{path}: the weights take {declared} bytes.", "Do not use this file."
            )
    inner.seek(0)
    try:
        # weights_only is said here: an environment variable can turn the default off.
        state = torch.load(inner, map_location="cpu", weights_only=True)
    except Exception as error:
        kind = UnsafeDataError if "Weights only" in str(error) else CorruptDataError
        raise kind(
            f"{path}: 'policy.pth' is not weights alone: {str(error).splitlines()[0]}",
            "Do not use this file, or save the agent again with model.save.",
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise CorruptDataError(f"{path}: 'policy.pth' is not a table of weights.", _REMEDY)
    arrays = {name: np.asarray(tensor.float().numpy()) for name, tensor in state.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CorruptDataError(
                f"{path}: the weights '{name}' are not all finite.", "Use an earlier agent."
            )
    return arrays

"""The manifest beside a published dataset: what its files and episodes were when written."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl.data.json_files import read_object
from offrl.errors import CorruptDataError, IncompatibleVersionError

NAME = "manifest.json"
FORMAT = 1
REMEDY = "Restore the dataset from a copy, or collect or download it again."


@dataclass(frozen=True)
class Listed:
    """One file of a dataset as it was written."""

    path: Path
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of a dataset, the digest and length of each episode, and the fingerprint."""

    files: tuple[Listed, ...]
    episodes: tuple[str, ...]  # SHA-256 of each episode's columns
    steps: tuple[int, ...]
    fingerprint: str

    def require_sizes(self) -> None:
        """Raise CorruptDataError for a file that is missing or has another size."""
        for file in self.files:
            found = file.path.stat().st_size if file.path.is_file() else None
            if found is None:
                raise CorruptDataError(f"{file.path} is missing; the manifest lists it.", REMEDY)
            if found != file.size:
                raise CorruptDataError(
                    f"{file.path} has {found} bytes, where {file.size} were written.", REMEDY
                )

    def damaged(self) -> Iterator[Path]:
        """Yield the files whose contents are not what was written; every byte is read."""
        for file in self.files:
            try:
                with file.path.open("rb") as content:
                    found = hashlib.file_digest(content, "sha256").hexdigest()
            except OSError:
                found = None  # missing or unreadable: not what was written either
            if found != file.sha256:
                yield file.path


def read_published(folder: Path) -> Manifest | None:
    """Return the manifest of a dataset folder, None where there is none (Minari writes none).

    Raises CorruptDataError naming the key that is missing or malformed, and
    IncompatibleVersionError for a manifest of a later format.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    content = read_object(path, REMEDY)
    form = content.get("format")
    if isinstance(form, int) and not isinstance(form, bool) and form > FORMAT:
        raise IncompatibleVersionError(
            f"{path} has the format {form}; this version of offrl reads {FORMAT}.",
            "Install a newer one: pip install --upgrade offrl",
        )
    for key, kind in (("format", int), ("files", list), ("episodes", list), ("fingerprint", str)):
        if not isinstance(content.get(key), kind) or isinstance(content[key], bool):
            raise CorruptDataError(f"{path}: '{key}' is missing or malformed.", REMEDY)
    if content.get("complete") is not True:
        raise CorruptDataError(
            f"{path}: the dataset is not complete.", "Continue it: offrl collect --resume"
        )
    files = tuple(_listed(path, folder, entry) for entry in content["files"])
    steps = tuple(_value(path, "episodes", entry, "steps", int) for entry in content["episodes"])
    shas = tuple(_value(path, "episodes", entry, "sha256", str) for entry in content["episodes"])
    return Manifest(files, shas, steps, content["fingerprint"])


def _listed(path: Path, folder: Path, entry: Any) -> Listed:
    name = _value(path, "files", entry, "name", str)
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise CorruptDataError(f"{path}: 'files' names {name!r}, outside the dataset.", REMEDY)
    return Listed(
        file,
        _value(path, "files", entry, "bytes", int),
        _value(path, "files", entry, "sha256", str),
    )


def _value(path: Path, table: str, entry: Any, key: str, kind: type) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CorruptDataError(f"{path}: '{table}' has an entry without a valid '{key}'.", REMEDY)
    return value

"""The manifest beside a published dataset: what its files and episodes were when written.

Its last key is the SHA-256 of everything before that key, so that it vouches for itself.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl.data.json_files import read_object
from offrl.errors import CorruptDataError, IncompatibleVersionError

NAME = "manifest.json"
FORMAT = 1
REMEDY = "Restore the dataset from a copy, or collect or download it again."
_SEAL = re.compile(rb', "sha256": "([0-9a-f]{64})"\}\Z')


Identity = tuple[int, ...]


def identity(file: Path | int) -> Identity | None:
    """Return what changes when a file is replaced or written to, None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass(frozen=True)
class Listed:
    """One file of a dataset as it was written."""

    path: Path
    size: int  # bytes
    sha256: str

    def is_whole(self) -> bool:
        """Return whether the file holds what was written; every byte is read."""
        try:
            with self.path.open("rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest() == self.sha256
        except OSError:
            return False  # missing or unreadable: not what was written either


@dataclass(frozen=True)
class Manifest:
    """The files of a dataset, the digest and length of each episode, and the fingerprint."""

    files: tuple[Listed, ...]
    episodes: tuple[str, ...]  # SHA-256 of each episode's columns
    steps: tuple[int, ...]
    fingerprint: str
    metadata: Listed | None = None  # metadata.json, which people may edit

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

    def identity_of(self, file: Path) -> Identity | None:
        """Return what a file of the manifest is at this moment, None where it is not of them.

        Asked for before the contents are compared, it tells whether those are still the ones.
        """
        return identity(file) if any(listed.path == file for listed in self.files) else None

    def damaged(self) -> Iterator[Path]:
        """Yield the files whose contents are not what was written; every byte is read."""
        for file in self.files:
            if not file.is_whole():
                yield file.path

    def require_whole(self) -> None:
        """Raise CorruptDataError for a file whose contents are not what was written.

        A library that reads damaged structures may not come back, so none is asked before this.
        """
        for path in self.damaged():
            raise CorruptDataError(
                f"{path} is damaged: its SHA-256 is not the manifest's.",
                "Restore the file, or go on with the episodes that are whole: offrl data filter"
                " REF --skip-corrupt --out ID",
            )


def sealed(content: bytes) -> bytes:
    """Return a manifest, as JSON, with the digest of itself as its last key."""
    digest = hashlib.sha256(content).hexdigest()
    return content.removesuffix(b"}") + b', "sha256": "' + digest.encode() + b'"}'


def is_sealed(raw: bytes) -> bool:
    """Return whether the last key of some JSON is the digest of everything before it."""
    seal = _SEAL.search(raw)
    if seal is None:
        return False
    return hashlib.sha256(raw[: seal.start()] + b"}").hexdigest().encode() == seal[1]


def _require_seal(path: Path, content: dict[str, Any]) -> None:
    """Raise CorruptDataError where the manifest is not what was sealed; early ones have no seal."""
    if "metadata" not in content and "sha256" not in content:
        return
    if not is_sealed(path.read_bytes()):
        raise CorruptDataError(f"{path} is not as it was written.", REMEDY)


def read_published(folder: Path) -> Manifest | None:
    """Return the manifest of a dataset folder, None where there is none (Minari writes none).

    Raises CorruptDataError naming the key that is missing or malformed, and
    IncompatibleVersionError for a manifest of a later format.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    content = read_object(path, REMEDY)
    _require_seal(path, content)
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
    described = content.get("metadata")
    metadata = None if described is None else _listed(path, folder, described)
    return Manifest(files, shas, steps, content["fingerprint"], metadata)


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

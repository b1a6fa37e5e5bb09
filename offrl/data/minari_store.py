"""Minari folders: which files they have, what their metadata claims, and how they are opened.

    <root>/<id>/
        manifest.json        written by offrl only: size and SHA-256 of each file and episode
        data/
            metadata.json    ids, counts, spaces, environment; all of it is data, nothing is made
            main_data.hdf5   one group per episode; or, in Arrow storage, a folder per episode

Minari's own loader is never used to open a folder: it makes the environment that the metadata
names where a space is missing, and follows HDF5 links into other files.
"""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offrl.data.cache import kept
from offrl.data.episode_store import REMEDY, EpisodeStore, inside
from offrl.data.json_files import read_object
from offrl.data.manifest import Identity, read_published
from offrl.data.spec import Spec
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    IncompatibleVersionError,
    UnsafeDataError,
)

FORMATS = ("hdf5", "arrow", "parquet")
_REQUIRED: dict[str, type] = {
    "dataset_id": str,
    "minari_version": str,
    "data_format": str,
    "total_episodes": int,
    "total_steps": int,
    "observation_space": str,
    "action_space": str,
}
_OPTIONAL: dict[str, tuple[type, ...]] = {
    "env_spec": (str,),
    "eval_env_spec": (str,),
    "jpeg_encoding": (bool,),
    "author": (list, str),
    "author_email": (list, str),
    "algorithm_name": (str,),
    "code_permalink": (str,),
    "description": (str,),
    "requirements": (list,),
    "dataset_size": (int, float),
    "ref_min_score": (int, float),
    "ref_max_score": (int, float),
    "offrl": (dict,),
}


def data_folder(folder: Path) -> Path | None:
    """Return the folder with metadata.json, inside or at `folder`; None where there is none."""
    for candidate in (folder / "data", folder):
        if (candidate / "metadata.json").is_file():
            return candidate
    return None


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of a dataset folder, every key that offrl reads checked.

    Raises CorruptDataError naming the file and the key, UnsafeDataError where only making an
    environment could tell a space, IncompatibleVersionError for a layout of another version.
    """
    data = data_folder(folder)
    if data is None:
        raise CorruptDataError(f"{folder / 'data' / 'metadata.json'} is missing.", REMEDY)
    path = data / "metadata.json"
    inside(path, folder)
    metadata = read_object(path)
    for key, kind in _REQUIRED.items():
        if key not in metadata:
            raise _missing(path, key, metadata)
        if not isinstance(metadata[key], kind) or isinstance(metadata[key], bool):
            raise _wrong(path, key, metadata[key])
    for key, kinds in _OPTIONAL.items():
        value = metadata.get(key)
        if value is not None and not isinstance(value, kinds):
            raise _wrong(path, key, value)
    for key in ("total_episodes", "total_steps"):
        if metadata[key] < 0:
            raise CorruptDataError(f"{path}: '{key}' is {metadata[key]}, below 0.", REMEDY)
    if metadata["data_format"] not in FORMATS:
        raise CorruptDataError(
            f"{path}: 'data_format' is {metadata['data_format']!r}, not one of"
            f" {', '.join(FORMATS)}.",
            REMEDY,
        )
    # The id becomes part of other paths, a run folder for example.
    if not re.fullmatch(r"[\w-]+(/[\w-]+)*", metadata["dataset_id"]):
        raise CorruptDataError(f"{path}: 'dataset_id' is not the id of a dataset.", REMEDY)
    _check_version(path, metadata)
    return metadata


def _missing(path: Path, key: str, metadata: Mapping[str, Any]) -> Exception:
    if key.endswith("_space") and metadata.get("env_spec") is not None:
        return UnsafeDataError(
            f"{path}: the key '{key}' is missing, and only making the environment that the file"
            " names could tell it.",
            "That would run code the dataset chose; get a version of the dataset with its spaces.",
        )
    return CorruptDataError(f"{path}: the key '{key}' is missing.", REMEDY)


def _wrong(path: Path, key: str, value: object) -> CorruptDataError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    return CorruptDataError(
        f"{path}: '{key}' is {shown}, which has the wrong type ({type(value).__name__}).", REMEDY
    )


def _check_version(path: Path, metadata: Mapping[str, Any]) -> None:
    """Layouts of Minari 0.4 and 0.5 are read; older sets name the version as a specifier."""
    written = metadata["minari_version"]
    number = re.fullmatch(r"(?:[~=<>!]=?|===?)?\s*v?(\d+)\.(\d+)(?:[.\w,<>=!~ *+-]*)", written)
    if number is None:
        raise _wrong(path, "minari_version", written)
    if (int(number[1]), int(number[2])) not in ((0, 4), (0, 5)):
        raise IncompatibleVersionError(
            f"{path}: written in the layout of Minari {written}; 0.4 and 0.5 are read.",
            "Install a version of offrl that reads it: pip install --upgrade offrl",
        )
    own = metadata.get("offrl")
    form = own.get("format") if isinstance(own, dict) else 1
    if not isinstance(form, int) or isinstance(form, bool):
        raise _wrong(path, "offrl.format", form)
    if form > 1:
        raise IncompatibleVersionError(
            f"{path}: written in offrl's format {form}; this version reads format 1.",
            "Install a newer one: pip install --upgrade offrl",
        )


def env_id_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the id of the environment that the metadata names, or None; nothing is made."""
    described = env_spec_of(metadata)
    named = described.get("id") if described else None
    return named if isinstance(named, str) else None


def env_spec_of(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the metadata says of the environment as plain data, None where it says nothing.

    Raises CorruptDataError where that is not a JSON object.
    """
    text = metadata.get("env_spec")
    if not isinstance(text, str):
        return None
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"metadata.json: env_spec is not JSON ({error}).", REMEDY) from error
    if not isinstance(described, dict):
        raise CorruptDataError("metadata.json: env_spec is not an object.", REMEDY)
    return described


def open_store(
    folder: Path, *, thorough: bool = False, vouched: Identity | None = None
) -> EpisodeStore:
    """Return the episodes of a dataset folder, whose files are looked at when they are needed.

    Each file must be as the manifest beside the data says, where there is one: its size always, its
    contents unless columns of these very files are kept. `thorough` leaves that to the caller and
    looks at files that were found sound before, too; `vouched` is then what the HDF5 file was when
    the caller found its contents to be as written.
    Raises CorruptDataError where a file is missing or damaged, UnsafeDataError where it lies
    outside the folder, ConfigError where Arrow storage needs a package that is not installed.
    """
    metadata = read_metadata(folder)
    manifest = None if thorough else read_published(folder)
    if manifest is not None:
        manifest.require_sizes()
        if manifest.metadata is not None and not manifest.metadata.is_whole():
            warnings.warn(
                f"{manifest.metadata.path} is not as it was written; offrl data check says more.",
                stacklevel=3,
            )
    own = metadata.get("offrl")
    columns = own.get("columns") if isinstance(own, dict) else None
    spec = Spec.from_json({**metadata, "columns": columns})
    env_spec_of(metadata)
    counts = (metadata["total_episodes"], metadata["total_steps"])
    known = None if thorough or not kept(folder, spec, *counts) else counts
    data = data_folder(folder)
    if data is None:  # removed since the metadata was read
        raise CorruptDataError(f"{folder} is gone.", REMEDY)
    file = data / "main_data.hdf5"
    if manifest is not None and known is None:
        vouched = manifest.identity_of(file)  # first: what is written meanwhile is not vouched for
        manifest.require_whole()
    if metadata["data_format"] == "hdf5":
        from offrl.data.hdf5_store import Hdf5Store  # each format loads its library only when met

        inside(file, folder)
        return Hdf5Store(folder, file, metadata, spec, known, vouched)
    try:
        from offrl.data.arrow_store import ArrowStore
    except ImportError as error:
        raise ConfigError(
            f"{folder} is in Arrow storage, and pyarrow is not installed.",
            "Install it: pip install 'offrl[arrow]'",
        ) from error
    return ArrowStore(folder, data, metadata, spec, known)

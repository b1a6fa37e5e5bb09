"""Minari's benchmark datasets by name: listed and downloaded through Minari's own remote code.

A download is made beside the datasets, in a folder that no listing shows, looked into there, and
renamed into place when it holds; what is cut off stays there and the next call goes on with it:

    <root>/.offrl-download/<id, "/" as "@">/   root/<id>/data/...   parts/...   lock
    <root>/<id>/data/{main_data.hdf5, metadata.json}                 the dataset, whole or absent

`MINARI_REMOTE` and `HF_ENDPOINT` name another remote or another hub, as they do for Minari.
"""

import fcntl
import json
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from offrl.data.catalogue import dataset_path, datasets_root, refuse_links
from offrl.data.dataset import Dataset, load
from offrl.data.durable import swap_folders, sync_folder
from offrl.data.hub_child import Progress, Told, is_id, run
from offrl.data.shards import MANIFEST
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    LockedError,
    NotFoundError,
    OffrlError,
    UnsafeDataError,
)

STAGING = ".offrl-download"
DEFAULT_REMOTE = "hf://farama-minari"
NAMESPACE_FILE = "namespace_metadata.json"
MAX_NAMESPACE_BYTES = 1 << 20


def list_remote(prefix: str | None = None, *, timeout: float = 30.0) -> list[dict[str, Any]]:
    """List the datasets of the remote whose id begins with `prefix`, sorted by id.

    A row holds dataset, episodes, steps, megabytes, env, algorithm, minari_version and `local`,
    whether it is here. An entry that the remote cannot show is left out with a warning. Raises
    OffrlError where the remote cannot be reached or is silent for `timeout` seconds.
    """
    remote = _remote()
    with tempfile.TemporaryDirectory(prefix="offrl-hub-") as folder:
        request = {"do": "list", "prefix": prefix}
        done = run(request, Path(folder), timeout, Told("the list of datasets", remote))
    root = datasets_root()
    rows = [
        {**row, "local": (root / row["dataset"] / "data").is_dir()}
        for row in done["datasets"]
        if is_id(row["dataset"]) and row["dataset"].startswith(prefix or "")
    ]
    return sorted(rows, key=lambda row: row["dataset"])


def download(
    id: str,
    *,
    root: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Dataset:
    """Fetch a dataset of the remote by its id, check what came, and return it.

    A dataset that is here already is returned as it is, with a warning, unless `overwrite`: then
    the new one takes its place in one step, once it is whole. `progress` is called with bytes done
    and bytes in all. What an earlier call left is used, large files from the byte they stopped at.

    Raises NotFoundError (naming the nearest) for an unknown id, CorruptDataError for files that
    differ from what was announced or do not hold a dataset, UnsafeDataError for files that would
    read others, LockedError while another process downloads the same id, and OffrlError where the
    hub fails, cannot be reached, or sends nothing for `timeout` seconds. After an error nothing of
    it is under the id, and what was there before is as it was.
    """
    id = id.removeprefix("minari:")
    folder = Path(root).expanduser() if root is not None else datasets_root()
    target = dataset_path(id, folder)
    remote = _remote()
    refuse_links(folder, target)
    if not overwrite and _holds(target):
        warnings.warn(f"'{id}' is already here: {target}", stacklevel=2)
        return load(target)
    try:
        with _staging(folder, id) as staging:
            request = {"do": "download", "id": id, "staging": str(staging)}
            done = run(request, staging, timeout, Told(f"'{id}'", remote), progress)
            _look_into(staging, id, verified=done["verified"])
            _publish(staging, folder, id)
            shutil.rmtree(staging / "root")
    except OSError as error:
        raise OffrlError(
            f"'{id}' could not be written to {folder}: {error.strerror or error}.",
            "Free some space or name another folder (MINARI_DATASETS_PATH), then call again.",
        ) from error
    return load(target)


# ---------------------------------------------------------------------------- on disk


@contextmanager
def _staging(root: Path, id: str) -> Iterator[Path]:
    """The folder in which one id is downloaded, held by this process alone."""
    staging = root / STAGING / id.replace("/", "@")
    refuse_links(root, staging)
    staging.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(staging / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LockedError(
                f"Another process is downloading '{id}' into {root}.",
                "Wait until it has finished, then call again.",
            ) from error
        try:
            yield staging
        finally:
            _tidy(staging)
    finally:
        os.close(descriptor)


def _tidy(staging: Path) -> None:
    """Remove what the next call has no use for, and the folders that nothing is left in."""
    shutil.rmtree(staging / "cache", ignore_errors=True)
    held = [*(staging / "parts").glob("*"), *(staging / "root").glob("**/data/*")]
    if not held:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):
            staging.parent.rmdir()


def _look_into(staging: Path, id: str, *, verified: bool) -> None:
    """Open what came with the reader that runs nothing; throw it away where it does not hold."""
    folder = staging / "root" / id
    try:
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        _refuse_special(folder)
        data = load(folder)
        named = data.metadata.get("dataset_id")
        if named != id:
            raise CorruptDataError(f"It calls itself {named!r}, not '{id}'.")
        if not verified:  # no digest was announced: look at every value that was sent
            for _ in data:
                pass
    except (CorruptDataError, UnsafeDataError) as error:
        shutil.rmtree(staging / "root")
        raise type(error)(
            f"What was sent for '{id}' is no dataset to use: {error.cause}",
            "Nothing of it was kept; tell its authors, or try another version.",
        ) from error


def _refuse_special(folder: Path) -> None:
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UnsafeDataError(f"{path.name} is neither a file nor a folder.")


def _holds(target: Path) -> bool:
    """Whether a dataset that opens is at `target`; the remains of a broken download do not count.

    Raises the reader's error for a damaged dataset that offrl wrote: a download may not replace it
    unasked.
    """
    if not (target / "data").is_dir():
        return False
    try:
        load(target)
    except NotFoundError:
        return False
    except CorruptDataError:
        if (target / MANIFEST).exists():
            raise
        return False
    return True


def _publish(staging: Path, root: Path, id: str) -> None:
    """Rename the dataset into place; what was there is exchanged in one step, then removed."""
    new, target = staging / "root" / id, root / id
    for parent in reversed(Path(id).parents[:-1]):
        (root / parent).mkdir(exist_ok=True)
        _publish_namespace(staging / "root" / parent / NAMESPACE_FILE, root / parent)
    refuse_links(root, target)
    if not target.exists():
        new.rename(target)
        sync_folder(target.parent)
        return
    inner = [path for path in target.rglob("metadata.json") if path.parent != target / "data"]
    if not target.is_dir() or inner:
        raise ConfigError(
            f"{target} holds more than the dataset '{id}'.", "Move what else it holds elsewhere."
        )
    swap_folders(new, target)


def _publish_namespace(source: Path, folder: Path) -> None:
    """Keep a namespace's description where there is none yet, and where it is one."""
    if (folder / NAMESPACE_FILE).exists():
        return
    with suppress(OSError, ValueError, RecursionError):
        if source.stat().st_size <= MAX_NAMESPACE_BYTES and not source.is_symlink():
            text = source.read_text(encoding="utf-8")
            if isinstance(json.loads(text), dict):
                source.rename(folder / NAMESPACE_FILE)


def _remote() -> str:
    """The remote as MINARI_REMOTE names it."""
    remote = os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE)
    kind, separator, name = remote.partition("://")
    if not separator or kind not in ("hf", "gcp") or not name:
        raise ConfigError(
            f"MINARI_REMOTE is {remote!r}, which names no remote.",
            "Set it to hf://OWNER or gcp://BUCKET, or unset it for hf://farama-minari.",
        )
    return remote

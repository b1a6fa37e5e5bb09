"""The flat columns of a large dataset, kept as plain arrays that are mapped instead of read.

    <dataset>/.offrl-cache/<key>/       or below the user's cache folder, where that is read-only
        observations.npy, action.npy, ...   as in Transitions
        about.json                          format, key, what one pass over the episodes found

The key follows from the size and time of every file of the dataset, so a changed dataset is read
anew. The columns are written one episode at a time: a dataset larger than memory needs no more of
it than one episode. Processes that map the same columns share them.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from offrl.data.episode_store import LEARNING_INFOS, EpisodeStore
from offrl.data.episodes import Episode
from offrl.data.json_files import read_object
from offrl.data.spec import Spec
from offrl.data.totals import Totals
from offrl.data.transitions import COLUMNS, Transitions, flat_columns
from offrl.errors import CorruptDataError

FORMAT = 1
KEPT_FROM = 2**25  # bytes of columns; fewer are built as quickly as they are mapped
_LOG = logging.getLogger("offrl")


def columns_of_store(
    store: EpisodeStore, require: Callable[[Transitions], None]
) -> tuple[Transitions, Totals] | None:
    """Return the columns from the cache, made first where needed; None for a small dataset.

    `require` judges new columns before they are kept, and its error goes through. None is also
    returned where no folder can be written or has the space: the caller then builds in memory.
    """
    spec, n, e = store.spec, store.n_steps, len(store)
    if not _large(spec, e, n):
        return None
    found = _find(store.folder, spec, e, n)
    if found is not None:
        return found
    key = _key(store.folder, spec)
    for place in _places(store.folder):
        if not _writable(place):
            continue
        try:
            return _make(place, key, store, require)
        except OSError as error:
            _LOG.info("the columns of %s cannot be kept in %s: %s", store.id, place, error)
    return None


def kept(folder: Path, spec: Spec, episodes: int, steps: int) -> bool:
    """Return whether columns of these very files are kept, so that their structure is sound."""
    return _large(spec, episodes, steps) and _find(folder, spec, episodes, steps) is not None


def _large(spec: Spec, episodes: int, steps: int) -> bool:
    row = spec.obs_dim * 4 + (8 if spec.discrete else spec.action_dim * 4) + 8 + 8 + 2
    return steps * row + episodes * spec.obs_dim * 4 >= KEPT_FROM


def _find(folder: Path, spec: Spec, e: int, n: int) -> tuple[Transitions, Totals] | None:
    key = _key(folder, spec)
    for place in _places(folder):
        if (place / key).is_dir():
            found = _map(place / key, spec, key, n, e)
            if found is not None:
                return found
            shutil.rmtree(place / key, ignore_errors=True)  # it can be made anew
    return None


def _key(folder: Path, spec: Spec) -> str:
    """A digest of what the columns are made from and of how."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and ".offrl-cache" not in path.parts
    )
    sha = hashlib.sha256(json.dumps([FORMAT, spec.to_json()]).encode())
    for path in files:
        stat = path.stat()
        name = path.relative_to(folder).as_posix()
        sha.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return sha.hexdigest()[:32]


def _places(folder: Path) -> tuple[Path, Path]:
    """Where columns may lie, the best first."""
    named = os.environ.get("XDG_CACHE_HOME")
    home = Path(named) if named else Path.home() / ".cache"
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    return folder / ".offrl-cache", home / "offrl" / place


def _writable(place: Path) -> bool:
    """Whether a folder can be made there; root may write what is marked read-only, and does not."""
    parent = next(path for path in (place, *place.parents) if path.is_dir())
    return os.access(parent, os.W_OK) and bool(parent.stat().st_mode & 0o200)


def _map(folder: Path, spec: Spec, key: str, n: int, e: int) -> tuple[Transitions, Totals] | None:
    """The kept columns; None where they are not whole, for they can be made again."""
    try:
        about = read_object(folder / "about.json")
        if about.get("format") != FORMAT or about.get("key") != key:
            return None
        totals = Totals(**about["totals"])
        arrays = {
            # Copy-on-write: torch wants arrays that could be written; no write reaches the file.
            name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
            for name in COLUMNS
        }
        starts = np.concatenate([[0], np.cumsum(totals.steps)]).astype(np.int64)
    except (CorruptDataError, OSError, ValueError, TypeError, KeyError) as error:
        _LOG.info("the columns kept in %s are not whole: %s", folder, error)
        return None
    sound = all(
        arrays[name].shape == shape and arrays[name].dtype == dtype
        for name, (shape, dtype) in _layout(spec, n, e).items()
    )
    if not sound or len(totals.steps) != e or len(totals.digests) != e or starts[-1] != n:
        return None
    return Transitions(spec=spec, starts=starts, **arrays), totals


def _layout(spec: Spec, n: int, e: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    action = ((n,), np.dtype("<i8")) if spec.discrete else ((n, spec.action_dim), np.dtype("<f4"))
    return {
        "observations": ((n + e, spec.obs_dim), np.dtype("<f4")),
        "action": action,
        "reward": ((n,), np.dtype("<f8")),
        "terminated": ((n,), np.dtype("?")),
        "truncated": ((n,), np.dtype("?")),
        "behavior_log_prob": ((n,), np.dtype("<f8")),
    }


def _make(
    place: Path, key: str, store: EpisodeStore, require: Callable[[Transitions], None]
) -> tuple[Transitions, Totals] | None:
    """Write the columns beside their place, judge them, and give them their name."""
    place.mkdir(parents=True, exist_ok=True)
    needed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in _sizes(store))
    if shutil.disk_usage(place).free < needed * 1.1:
        return None
    made = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=place))
    try:
        totals = _write(made, store)
        about = {"format": FORMAT, "key": key, "totals": asdict(totals)}
        with (made / "about.json").open("w") as file:
            json.dump(about, file)
            _sync(file)
        built = _map(made, store.spec, key, store.n_steps, len(store))
        if built is None:
            return None
        require(built[0])
        # Another process may have been first; its columns are the same, and ours stay mapped.
        with contextlib.suppress(OSError):
            made.rename(place / key)
        for old in place.iterdir():
            if old.is_dir() and old.name != key and "." not in old.name:
                shutil.rmtree(old, ignore_errors=True)
        return built
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sizes(store: EpisodeStore) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    return list(_layout(store.spec, store.n_steps, len(store)).values())


def _write(folder: Path, store: EpisodeStore) -> Totals:
    """Write every column from first to last; written so, a full disk is an OSError."""
    totals = Totals()
    layout = _layout(store.spec, store.n_steps, len(store))
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for name, (shape, dtype) in layout.items():
            files[name] = stack.enter_context((folder / f"{name}.npy").open("wb"))
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)

        def keep(episode: Episode) -> None:
            for name, column in flat_columns(episode, store.spec).items():
                files[name].write(_bytes(column, layout[name][1]))
            totals.add(episode)

        # Digests and writes leave the interpreter free, so they go on beside the reading of HDF5.
        behind: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1) as thread:
            for episode in store.read(range(len(store)), LEARNING_INFOS):
                behind.append(thread.submit(keep, episode))
                if len(behind) > 4:  # a few episodes in memory, not the dataset
                    behind.popleft().result()
            for one in behind:
                one.result()
        for file in files.values():
            _sync(file)
    return totals


def _bytes(column: npt.NDArray[Any], dtype: np.dtype[Any]) -> bytes:
    return np.ascontiguousarray(column, dtype=dtype).tobytes()


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())

"""The flat columns of a large dataset, kept as plain arrays that are mapped instead of read.

    <dataset>/.offrl-cache/<key>/       or below the user's cache folder, where that is read-only
        observations.npy, action.npy, ...   as in Transitions
        about.json                          format, key, what one pass over the episodes found, the
                                            sizes and times of the columns; sealed by its SHA-256

The key follows from the size and times of every file of the dataset, so a changed dataset is read
anew; so it is where something was written to the columns after they were made. They are written a
few episodes at a time: a dataset larger than memory needs no more of it than those. Processes that
map the same columns share them.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from offrl.data.episode_store import LEARNING_INFOS, EpisodeStore
from offrl.data.episodes import Episode
from offrl.data.json_files import read_object
from offrl.data.manifest import is_sealed, sealed
from offrl.data.spec import Spec
from offrl.data.totals import Totals
from offrl.data.transitions import COLUMNS, Transitions, flat_columns
from offrl.errors import CorruptDataError

FORMAT = 2
FOLDER = ".offrl-cache"
KEPT_FROM = 2**25  # bytes of columns; fewer are built as quickly as they are mapped
_BATCH_STEPS = 2**15  # steps that are written at once
_SYNC_BYTES = 2**25  # of a file that go to the disk while the next ones are read
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


def forget(folder: Path) -> None:
    """Remove the columns that were kept of a folder, wherever they lie; no link is followed."""
    for place in _places(folder):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)


def own_files(folder: Path) -> list[Path]:
    """The files of a dataset, sorted; those kept for it, which others may be changing, aside."""
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != FOLDER]
        files += [path for name in names if (path := Path(parent, name)).is_file()]
    return sorted(files)


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
    sha = hashlib.sha256(json.dumps([FORMAT, spec.to_json()]).encode())
    for path in own_files(folder):
        stat = path.stat()
        name = path.relative_to(folder).as_posix()
        times = (
            f"{stat.st_mtime_ns}\0{stat.st_ctime_ns}"  # a copied or forged mtime has its own ctime
        )
        sha.update(f"{name}\0{stat.st_size}\0{times}\0".encode())
    return sha.hexdigest()[:32]


def _places(folder: Path) -> tuple[Path, Path]:
    """Where columns may lie, the best first."""
    named = os.environ.get("XDG_CACHE_HOME")
    home = Path(named) if named else Path.home() / ".cache"
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    return folder / FOLDER, home / "offrl" / place


def _writable(place: Path) -> bool:
    """Whether a folder can be made there; root may write what is marked read-only, and does not."""
    parent = next(path for path in (place, *place.parents) if path.is_dir())
    return os.access(parent, os.W_OK) and bool(parent.stat().st_mode & 0o200)


def _map(folder: Path, spec: Spec, key: str, n: int, e: int) -> tuple[Transitions, Totals] | None:
    """The kept columns; None where they are not whole, for they can be made again."""
    try:
        about = read_object(folder / "about.json")
        if not is_sealed((folder / "about.json").read_bytes()):
            raise ValueError("about.json is not as it was written")
        if about.get("format") != FORMAT or about.get("key") != key:
            return None
        if about["files"] != _times(folder):
            raise ValueError("a file was written to")
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


def _times(folder: Path) -> dict[str, list[int]]:
    """What changes of a file of columns whenever a byte of it is written, or it is copied."""
    found = {name: (folder / f"{name}.npy").stat() for name in COLUMNS}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in found.items()}


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
    with contextlib.ExitStack() as until_built:
        with _locked(place):  # so that no other finds a new folder before it is locked
            _sweep(place)
            if shutil.disk_usage(place).free < needed * 1.1:
                return None
            made = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=place))
            until_built.callback(shutil.rmtree, made, ignore_errors=True)
            until_built.enter_context(_locked(made))
        totals = _write(made, store)
        about = {"format": FORMAT, "key": key, "totals": vars(totals), "files": _times(made)}
        with (made / "about.json").open("wb") as file:
            file.write(sealed(json.dumps(about).encode()))
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


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder, which ends with the process; False where another has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        held = True
    except OSError:  # or the file system has no locks: then nothing is swept
        held = False
    try:
        yield held
    finally:
        os.close(descriptor)


def _sweep(place: Path) -> None:
    """Remove folders of builds that were killed: a living one holds the lock of its folder."""
    for folder in place.iterdir():
        if "." in folder.name and folder.is_dir() and not folder.is_symlink():
            with contextlib.suppress(OSError), _locked(folder, wait=False) as dead:
                if dead:
                    shutil.rmtree(folder, ignore_errors=True)


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

        unsynced, syncs = dict.fromkeys(layout, 0), list[Future[None]]()

        def keep(columns: Mapping[str, npt.NDArray[Any]]) -> None:
            for name, column in columns.items():
                files[name].write(column.data)
                unsynced[name] += column.nbytes
                if unsynced[name] > _SYNC_BYTES:
                    unsynced[name] = 0
                    files[name].flush()
                    syncs.append(syncing.submit(os.fsync, files[name].fileno()))

        behind: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1) as syncing, ThreadPoolExecutor(1) as writing:
            for batch in _batches(store.read(range(len(store)), LEARNING_INFOS)):
                parts = [flat_columns(episode, store.spec) for episode in batch]
                for episode in batch:
                    totals.add(episode)
                columns = {
                    name: np.concatenate([part[name] for part in parts], dtype=dtype)
                    for name, (_, dtype) in layout.items()
                }
                behind.append(writing.submit(keep, columns))
                if len(behind) > 2:  # a few batches in memory, not the dataset
                    behind.popleft().result()
            for one in behind:
                one.result()
            for file in files.values():
                file.flush()
                syncs.append(syncing.submit(os.fsync, file.fileno()))
            for one in syncs:
                one.result()
    return totals


def _batches(episodes: Iterable[Episode]) -> Iterator[list[Episode]]:
    batch: list[Episode] = []
    steps = 0
    for episode in episodes:
        batch.append(episode)
        steps += len(episode)
        if steps >= _BATCH_STEPS:
            yield batch
            batch, steps = [], 0
    if batch:
        yield batch


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())

"""The child process that talks to the hub: one JSON request in, a line of JSON an event out.

It is a process of its own because the hub's client reads its settings once, at import, retries
without saying so, and sets no limit on how long a request may last: the parent (hub.py) gives it a
clean environment, watches what it reports, and ends it when nothing comes any more.

All but small files are fetched first, by ranges, into `parts` (hub_files.py), because the hub's own
client throws away what it had of a file when it is interrupted; Minari's code then fetches the rest
and finds those files whole.
"""

import contextlib
import ctypes
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from offrl.data.hub_failures import (
    Notes,
    TransferError,
    explain,
    say,
    take_standard_output,
)
from offrl.data.hub_files import (
    PAUSE,
    PIECE,
    SLOW_DISK,
    SMALL,
    fetch,
    has_digest,
    is_whole,
    limit_file_size,
    tell_client,
    url_of,
)


def main() -> None:
    """Do what the second argument asks; the last event is `done` or `failed`."""
    take_standard_output()
    _end_with_parent()
    request = json.loads(sys.argv[2])
    try:
        if request["do"] == "list":
            say("done", datasets=_list(request["prefix"]))
        else:
            say("done", **_download(request["id"], Path(request["staging"])))
    except Exception as error:
        failure = explain(error)
        say("failed", kind=failure.kind, detail=failure.detail, names=failure.names)


def _end_with_parent() -> None:
    """Ask the system to end this process with its parent, where it can: nobody else would."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _storage() -> Any:
    """Minari's remote storage, as MINARI_REMOTE names it."""
    from minari.storage.remotes import get_cloud_storage

    logger = logging.getLogger("huggingface_hub")
    logger.handlers, logger.propagate = [Notes()], False
    storage = get_cloud_storage()
    say("begun")  # what came before was this machine's doing
    return storage


def _with_patience(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Call, once more after a pause where the hub failed or could not be reached."""
    for attempt in range(2):
        try:
            return call(*args, **kwargs)
        except Exception as error:
            kind = explain(error).kind
            if attempt or kind not in ("failing", "unreachable", "slow", "cut"):
                raise
            time.sleep(PAUSE)
    raise AssertionError("unreachable")


# ---------------------------------------------------------------------------- listing


def _list(prefix: str | None) -> list[dict[str, Any]]:
    """The metadata of every dataset the remote lists; one it cannot give is left out, and said."""
    storage = _storage()
    if _on_the_hub():
        _with_patience(_knock, storage.name)
    ids = _ids(storage, prefix)
    found: list[dict[str, Any]] = []

    def metadata(dataset: str) -> dict[str, Any] | None:
        try:
            raw = storage.get_dataset_metadata(dataset)
            return _row(dataset, raw) if isinstance(raw, dict) else None
        except (Exception, RecursionError) as error:
            say("skipped", dataset=dataset, detail=explain(error).detail)
            return None
        finally:
            say("alive")

    with ThreadPoolExecutor(max_workers=8) as pool:
        found.extend(row for row in pool.map(metadata, ids) if row is not None)
    return found


def _knock(owner: str) -> None:
    """Raise at once where nobody answers: the client's own listing retries for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = f"{HfApi().endpoint}/api/datasets"
    wanted = {"author": owner, "limit": 1}
    answer = get_session().get(url, params=wanted, headers=build_hf_headers(), timeout=20)
    hf_raise_for_status(answer)


def _on_the_hub() -> bool:
    return os.environ.get("MINARI_REMOTE", "hf://").startswith("hf://")


def _ids(storage: Any, prefix: str | None) -> list[str]:
    ids: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for dataset in storage.list_datasets(prefix=prefix):
            ids.append(str(dataset))
            say("alive")
    for warning in caught:
        say("skipped", dataset="", detail=str(warning.message)[:200])
    # A repository that is one dataset is listed with its owner's name before it.
    owner = f"{storage.name}/" if hasattr(storage, "name") else "/"
    return sorted({i.removeprefix(owner) for i in ids})


def _row(dataset: str, raw: dict[str, Any]) -> dict[str, Any]:
    def text(table: Any, key: str) -> str | None:
        value = table.get(key) if isinstance(table, dict) else None
        return "".join(filter(str.isprintable, value))[:200] if isinstance(value, str) else None

    def number(key: str) -> float | None:
        value = raw.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    env: Any = None
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        env = json.loads(raw.get("env_spec") or "null")
    return {
        "dataset": dataset,
        "episodes": number("total_episodes"),
        "steps": number("total_steps"),
        "megabytes": number("dataset_size"),
        "env": text(env, "id"),
        "algorithm": text(raw, "algorithm_name"),
        "minari_version": text(raw, "minari_version"),
    }


# ---------------------------------------------------------------------------- downloading


def _download(dataset: str, staging: Path) -> dict[str, Any]:
    """Fetch one dataset into `<staging>/root/<id>`; the fields of `done` say what was verified."""
    storage = _storage()
    root = staging / "root"
    root.mkdir(parents=True, exist_ok=True)
    files: list[Any] = []
    if _on_the_hub():
        limit_file_size(SMALL)
        files = _on_hub(storage, dataset, staging)
    _digests_follow(root)
    _fetch_rest(storage, dataset, root, announced=bool(files))
    _digests_follow(root)
    for file in files:
        if not is_whole(root / _local(dataset, file.path), file):
            path = root / _local(dataset, file.path)
            found = path.stat().st_size if path.is_file() else 0
            path.unlink(missing_ok=True)
            detail = f"'{file.path}' is not what the hub announced"
            if found != file.size:
                detail = f"'{file.path}' has {found:,} bytes where {file.size:,} were announced"
            raise TransferError("damaged", detail)
    _fetch_namespaces(storage, dataset, root)
    return {"verified": bool(files) and all(has_digest(file) for file in files)}


def _digests_follow(root: Path) -> None:
    """Say how long taking the digests of what is there may last."""
    held = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    say("alive", seconds=held / SLOW_DISK)


@contextlib.contextmanager
def _announced() -> Iterator[None]:
    """A file that is missing inside was announced, so it is the hub that is wrong."""
    try:
        yield
    except Exception as error:
        if explain(error).kind == "missing":
            raise TransferError("damaged", "the hub lists a file that it does not have") from error
        raise


def _fetch_rest(storage: Any, dataset: str, root: Path, *, announced: bool) -> None:
    """Let Minari's own code fetch whatever is not there yet, and report while the folder grows."""
    ended = threading.Event()

    def watch() -> None:
        most = 0
        while not ended.wait(0.5):
            with contextlib.suppress(OSError):  # a file that is renamed while it is looked at
                size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
                if size >= most + PIECE:
                    most = size
                    say("alive")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with _announced() if announced else contextlib.nullcontext():
            storage.download_dataset(dataset, root)
    finally:
        ended.set()
        watcher.join()
    say("alive")


def _fetch_namespaces(storage: Any, dataset: str, root: Path) -> None:
    """Fetch what describes the namespaces above; without it only a description is lost."""
    parts = dataset.split("/")[:-1]
    for i in range(len(parts)):
        folder = root / "/".join(parts[: i + 1])
        folder.mkdir(parents=True, exist_ok=True)
        try:
            storage.download_namespace_metadata("/".join(parts[: i + 1]), root)
        except Exception as error:
            say("note", text=explain(error).detail)
        say("alive")


def _repository(storage: Any, dataset: str) -> tuple[str, str]:
    name, _, inside = dataset.partition("/")
    return f"{storage.name}/{name}", inside


def _local(dataset: str, path: str) -> str:
    """A file's path under the root, where its repository is the first folder."""
    return f"{dataset.partition('/')[0]}/{path}"


def _on_hub(storage: Any, dataset: str, staging: Path) -> list[Any]:
    """The dataset's files as the hub announces them, all but the small ones fetched."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    repository, inside = _repository(storage, dataset)
    try:
        info = _with_patience(
            api.repo_info, repository, repo_type="dataset", revision="main", timeout=20
        )
        say("alive")
        tree = api.list_repo_tree(
            repository, recursive=True, revision=info.sha, repo_type="dataset"
        )
        prefix = f"{inside}/" if inside else ""
        files = [f for f in tree if isinstance(f, RepoFile) and f.path.startswith(prefix)]
    except Exception as error:
        failure = explain(error)
        if failure.kind != "missing":
            raise
        raise TransferError("missing", "no such repository", names=_names(storage)) from error
    say("alive")
    if f"{prefix}data/metadata.json" not in {file.path for file in files}:
        raise TransferError("missing", "no such dataset", names=_names(storage))
    for file in files:
        # The path is the hub's word: it must not lead out of the dataset's folder.
        if "\\" in file.path or not {"", ".", ".."}.isdisjoint(file.path.split("/")):
            raise TransferError("unsafe", f"the hub names a file {file.path!r}")
    root = staging / "root"
    total = sum(file.size for file in files)
    _digests_follow(root)
    missing = [file for file in files if not is_whole(root / _local(dataset, file.path), file)]
    for file in missing:
        # Left by an earlier call: the hub's client would keep it without looking into it.
        (root / _local(dataset, file.path)).unlink(missing_ok=True)
    to_come = sum(file.size for file in missing)
    _look_for_room(staging, to_come)
    limit_file_size(max(file.size for file in files))
    done = total - to_come
    say("total", bytes=total)
    for file in missing:
        if file.size > PIECE:
            url = url_of(repository, info.sha, file.path)
            with _announced():
                fetch(url, file, staging, root / _local(dataset, file.path), done)
            tell_client(root, repository.rpartition("/")[2], info.sha, file)
        done += file.size
        say("progress", bytes=done)
    return files


def _look_for_room(staging: Path, to_come: int) -> None:
    held = sum(part.stat().st_size for part in (staging / "parts").glob("*"))
    free = shutil.disk_usage(staging).free
    if to_come - held > free:
        raise TransferError("room", f"{to_come - held:,} bytes are to come, {free:,} are free")


def _names(storage: Any) -> list[str]:
    """Every name the remote lists, for a suggestion; none where it does not tell."""
    with contextlib.suppress(Exception):
        return _ids(storage, None)
    return []

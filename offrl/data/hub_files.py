"""Files as the hub announces them: whether they are whole, and data fetched by ranges."""

import contextlib
import errno
import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offrl.data.hub_failures import OUT_OF_ROOM, TransferError, explain, say

PIECE = 16 * 1024  # bytes that count as progress
SMALL = 64 * 1024 * 1024  # bytes; nothing whose size was not announced may grow larger
SLOW_DISK = 50e6  # bytes per second; taking a digest may last as long as this
PAUSE = 0.5  # seconds before another try
ATTEMPTS = 3  # in a row, without progress


def limit_file_size(announced: int) -> None:
    """No file of this process may grow beyond what was announced."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        limit = max(announced, SMALL)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def has_digest(file: Any) -> bool:
    """Whether the hub announced a digest: a SHA-256 for large-file storage, else git's SHA-1."""
    return file.lfs is not None or (
        bool(re.fullmatch("[0-9a-f]{40}", str(file.blob_id))) and set(file.blob_id) != {"0"}
    )


def is_whole(path: Path, file: Any) -> bool:
    """Whether a file is there with the size and the digest that the hub announced."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.lfs is not None:
        return _digest(path, hashlib.sha256()) == file.lfs.sha256
    if not has_digest(file):
        return True
    git = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    # A mirror of the hub may number a small file by its plain SHA-1 instead of git's.
    plain = hashlib.sha1(usedforsecurity=False)
    return file.blob_id in (_digest(path, git), _digest(path, plain))


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def url_of(repository: str, revision: str, path: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, path, repo_type="dataset", revision=revision)


def fetch(url: str, file: Any, staging: Path, target: Path, before: int) -> None:
    """Fetch one file into its part, from where the part ends; rename it when it is whole.

    The part is named by all that was announced, so that bytes of two versions never mix.
    """
    announced = (file.path, file.size, file.blob_id, file.lfs.sha256 if file.lfs else None)
    part = staging / "parts" / hashlib.sha256(repr(announced).encode()).hexdigest()
    part.parent.mkdir(exist_ok=True)
    failures = 0
    while (have := part.stat().st_size if part.is_file() else 0) != file.size:
        if have > file.size:
            part.unlink()
            continue
        try:
            for held in _pieces(url, part, have, file.size):
                say("progress", bytes=before + held)
        except TransferError:
            part.unlink(missing_ok=True)
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (*OUT_OF_ROOM, errno.EFBIG):
                raise
            say("note", text=explain(error).detail)
            # A server without ranges begins again each time: only a longer part is progress.
            grown = part.is_file() and part.stat().st_size >= have + PIECE
            failures = 0 if grown else failures + 1
            if failures >= ATTEMPTS or explain(error).kind in ("missing", "access"):
                raise
            time.sleep(PAUSE)
    say("alive", seconds=file.size / SLOW_DISK)
    if not is_whole(part, file):
        part.unlink()
        raise TransferError("damaged", f"'{file.path}' has another digest than the hub announced")
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)


def tell_client(root: Path, repository: str, commit: str, file: Any) -> None:
    """Note, as the hub's client does, that a file is of this commit, so that it is not fetched.

    The client's layout: .cache/huggingface/download/<path>.metadata with commit, digest and time.
    Were it to change, the client would only take the digest, or fetch the file, once more.
    """
    folder = root / repository / ".cache" / "huggingface" / "download"
    note = folder / f"{file.path}.metadata"
    note.parent.mkdir(parents=True, exist_ok=True)
    digest = file.lfs.sha256 if file.lfs is not None else file.blob_id
    note.write_text(f"{commit}\n{digest}\n{time.time()}\n", encoding="utf-8")


def _pieces(url: str, part: Path, have: int, size: int) -> Iterator[int]:
    """Append to a part what the hub sends; the bytes held, each time that progress was made."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    session = get_session()
    with session.stream("GET", url, headers=headers, follow_redirects=True, timeout=10) as answer:
        hf_raise_for_status(answer)
        fresh = answer.status_code != 206
        # Unbuffered: what came is kept however this process ends.
        with part.open("wb" if fresh else "ab", buffering=0) as stream:
            held = reported = 0 if fresh else have
            at = 0.0
            for piece in answer.iter_bytes():
                held += len(piece)
                if held > size:
                    raise TransferError(
                        "damaged", f"{url} sends more than the {size:,} bytes announced"
                    )
                stream.write(piece)
                if held - reported >= PIECE and time.monotonic() > at + 0.1:
                    reported, at = held, time.monotonic()
                    yield held
    if held < size:
        raise ConnectionResetError(f"the hub stopped after {held:,} of {size:,} bytes")

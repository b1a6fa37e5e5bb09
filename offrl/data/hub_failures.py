"""What the process that talks to the hub reports: events, and what went wrong in one word each."""

import errno
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import TextIO

OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT)

_out: TextIO = sys.stdout
_saying = threading.Lock()


def take_standard_output() -> None:
    """Keep standard output for events: what anything else prints goes to standard error."""
    global _out
    _out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


class TransferError(Exception):
    """What went wrong: a kind that the parent has a remedy for, and a detail."""

    def __init__(self, kind: str, detail: str, names: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.names = list(names)  # what there is instead


def say(event: str, **fields: object) -> None:
    """Write one event; a parent that is gone ends this process here, by BrokenPipeError."""
    with _saying:
        _out.write(json.dumps({"event": event, **fields}) + "\n")
        _out.flush()


class Notes(logging.Handler):
    """What the hub's client logs: the reason of a stall, for the parent to name."""

    def emit(self, record: logging.LogRecord) -> None:
        say("note", text=record.getMessage()[:300])


def explain(error: BaseException) -> TransferError:
    """Name what went wrong, from the error or from whatever caused it."""
    if isinstance(error, TransferError):
        return error
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    names = {base.__name__ for e in chain for base in type(e).__mro__}
    statuses = [getattr(getattr(e, "response", None), "status_code", 0) for e in chain]
    status = next((s for s in statuses if s), 0)
    text = " ".join(str(chain[-1] if str(chain[-1]) else error).split())[:200]
    numbers = {e.errno for e in chain if isinstance(e, OSError)}
    if isinstance(error, ImportError):
        return TransferError("package", text)
    if "OfflineModeIsEnabled" in names:
        return TransferError("offline", "HF_HUB_OFFLINE is set")
    if numbers & set(OUT_OF_ROOM):
        return TransferError("room", "the disk is full")
    if errno.EFBIG in numbers:
        return TransferError("damaged", "a file is larger than the hub announced")
    if numbers & {errno.EACCES, errno.EROFS} and isinstance(error, PermissionError):
        return TransferError("write", text)
    missing = "RepositoryNotFoundError" in names and "GatedRepoError" not in names
    if status == 404 or missing:
        return TransferError("missing", f"the hub answered {status}")
    if status in (401, 403):
        return TransferError("access", f"the hub answered {status}")
    if status:
        return TransferError("failing", f"the hub answered {status}")
    if "TimeoutException" in names or "TimeoutError" in names:
        return TransferError("slow", "the hub took too long to answer")
    if "ConnectError" in names or "gaierror" in names:
        return TransferError("unreachable", text)
    if names & {"RemoteProtocolError", "NetworkError", "ConnectionError"}:
        return TransferError("cut", text)
    if "Consistency check failed" in str(error):
        return TransferError("damaged", "a file has another size than the hub announced")
    return TransferError("other", f"{type(error).__name__}: {text}")

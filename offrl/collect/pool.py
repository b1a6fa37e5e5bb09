"""Episodes from several processes, in the order and with the bits of one.

Every process has one environment and plays whole episodes by number, each drawing from
(seed, number) alone, so it does not matter who plays which. The parent hands out numbers, keeps
what comes too early, and yields in order.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from offrl import errors
from offrl.collect import worker
from offrl.data.episodes import Episode
from offrl.data.frames import episode_of, read_message
from offrl.errors import NotFoundError, OffrlError, WorkError

_AHEAD = 2  # numbers that a process holds, so that it never waits for the next
_EARLY = 4  # finished episodes per process that wait here for one before them
_GRACE = 5.0  # seconds in which a process ends once its input is closed
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Message = tuple[dict[str, Any], bytes] | None


def pooled(
    request: Mapping[str, Any], workers: int, *, first: int, stop: int | None
) -> Iterator[Episode]:
    """Yield episodes `first`, `first + 1`, ... up to `stop`, played by several processes.

    Raises what an episode raised when its turn comes, and WorkError where a process was killed.
    Closing the iterator ends the processes.
    """
    arrived: queue.Queue[tuple[int, Message]] = queue.Queue()
    processes = [_start(request) for _ in range(workers)]
    try:
        for k, process in enumerate(processes):
            threading.Thread(
                target=_listen, args=(process.stdout, k, arrived), daemon=True
            ).start()  # fmt: skip
        yield from _ordered(processes, arrived, first, stop)
    finally:
        for process in processes:
            with suppress(OSError):
                if process.stdin:
                    process.stdin.close()
        for process in processes:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:  # stuck inside an environment
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()


def _ordered(
    processes: list["subprocess.Popen[bytes]"],
    arrived: "queue.Queue[tuple[int, Message]]",
    first: int,
    stop: int | None,
) -> Iterator[Episode]:
    holding = [0] * len(processes)  # numbers that each process has and has not played
    early: dict[int, tuple[dict[str, Any], bytes]] = {}
    failed: set[int] = set()  # processes that ended on an error; it is raised in its turn
    wanted = following = first
    while stop is None or wanted < stop:
        for depth in range(_AHEAD):
            for k, process in enumerate(processes):
                near = following < wanted + _EARLY * len(processes)
                if holding[k] <= depth and near and (stop is None or following < stop):
                    _hand(process, following)
                    holding[k] += 1
                    following += 1
        k, message = arrived.get()
        if message is None:
            if k in failed:
                continue
            raise _ended(processes[k])
        header, _ = message
        if header["episode"] is None:
            raise _unmade(header)
        if "error" in header:
            failed.add(k)
        holding[k] -= 1
        early[header["episode"]] = message
        while wanted in early:
            header, body = early.pop(wanted)
            if "error" in header:
                raise _told(header)
            yield episode_of(header, body)
            wanted += 1


def _start(request: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
    # Our own file run by our own interpreter; -P: no module beside it is picked up. A group of
    # its own: Ctrl-C in a terminal reaches the parent alone, which closes the input.
    process = subprocess.Popen(
        [sys.executable, "-P", worker.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **_ONE_THREAD},
        process_group=0,
    )
    line = json.dumps({**request, "path": [os.path.abspath(entry) for entry in sys.path]})
    _send(process, line)
    return process


def _hand(process: "subprocess.Popen[bytes]", number: int) -> None:
    _send(process, str(number))


def _send(process: "subprocess.Popen[bytes]", line: str) -> None:
    if process.stdin is None:
        raise ValueError("the process has no input")
    # One that has ended is noticed where its output ends.
    with suppress(BrokenPipeError):
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()


def _listen(
    stream: BinaryIO | None, k: int, arrived: "queue.Queue[tuple[int, Message]]"
) -> None:  # fmt: skip
    message = None
    with suppress(OSError, ValueError):  # closed by the parent, which is done
        while stream is not None and (message := read_message(stream)) is not None:
            arrived.put((k, message))
    arrived.put((k, None))


def _told(header: Mapping[str, Any]) -> OffrlError:
    kind = getattr(errors, header["error"], OffrlError)
    return kind(header["cause"], header["remedy"])


def _unmade(header: Mapping[str, Any]) -> OffrlError:
    """Return why another process could not make what this one has made already."""
    told = _told(header)
    if isinstance(told, NotFoundError):
        told.remedy = "What this process registered others lack: give module:Id-v0, or workers=1."
    return told


def _ended(process: "subprocess.Popen[bytes]") -> WorkError:
    code = process.wait()
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    return WorkError(
        f"A collecting process {how}.",
        "Finished episodes are kept; go on with --resume (fewer --workers need less memory).",
    )

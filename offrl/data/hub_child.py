"""Runs the process that talks to the hub, follows what it reports, and names what went wrong."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from offrl.data.catalogue import check_id
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    NotFoundError,
    OffrlError,
    UnsafeDataError,
    suggest,
)

# The child is started with no folder of the caller's on its path, then finds this very package.
CHILD = "import sys; sys.path.append(sys.argv[1]); from offrl.data.hub_fetch import main; main()"

STARTING = 60.0  # seconds more for the first event, to import what talks to the hub

Progress = Callable[[int, int | None], object]


def is_id(name: str) -> bool:
    """Whether a name can be the id of a dataset."""
    try:
        check_id(name)
    except ConfigError:
        return False
    return True


class Told:
    """Turns a kind of failure into the error that names it and what to do."""

    def __init__(self, what: str, remote: str) -> None:
        self.what = what
        self.remote = remote
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        self.place = f"{remote} ({endpoint})" if remote.startswith("hf://") else remote

    def error(self, kind: str, detail: str, names: list[str]) -> OffrlError:
        if kind == "missing":
            wanted = self.what.strip("'")
            near = suggest(wanted, [name for name in names if is_id(name)])
            remedy = f"{near.strip()} `offrl data list remote` lists what there is.".strip()
            return NotFoundError(f"There is no dataset {self.what} on {self.place}.", remedy)
        if kind == "damaged":
            return CorruptDataError(
                f"{self.what} came damaged from {self.place}: {detail}.",
                "Call again to fetch that file anew; nothing of it was kept under the id.",
            )
        if kind == "unsafe":
            return UnsafeDataError(
                f"{self.what} would leave its folder: {detail}.",
                "Do not use it, and tell whoever runs the hub.",
            )
        if kind == "package":
            extra = "hf" if self.remote.startswith("hf://") else "gcs"
            return ConfigError(
                f"Reaching {self.remote} needs a package that is not installed: {detail}.",
                f'Install it with: pip install "minari[{extra}]"',
            )
        causes = {
            "offline": (f"{self.place} was not asked: {detail}.", "Unset it, then call again."),
            "access": (
                f"{self.place} does not give {self.what}: {detail}.",
                "Log in with `hf auth login`, or set HF_TOKEN to a token that may read it.",
            ),
            "room": (
                f"There is no room for {self.what}: {detail}.",
                "Free some space or name another folder (MINARI_DATASETS_PATH), then call again.",
            ),
            "write": (f"{self.what} could not be written: {detail}.", "Name another folder."),
            "unreachable": (
                f"{self.place} cannot be reached: {detail}.",
                "Check the connection, HF_ENDPOINT and the proxy settings, then call again.",
            ),
            "slow": (
                f"{self.place} stopped giving {self.what}: {detail}.",
                "Call again later: it goes on from what came.",
            ),
            "cut": (
                f"{self.what} was cut off on its way from {self.place}: {detail}.",
                "Call again: it goes on from what came.",
            ),
        }
        cause, remedy = causes.get(
            kind,
            (
                f"{self.place} failed to give {self.what}: {detail}.",
                "Call again later: it goes on from what came.",
            ),
        )
        return OffrlError(cause, remedy)


def run(
    request: Mapping[str, object],
    folder: Path,
    timeout: float,
    told: Told,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the child on a request and return its `done` event; every failure is an OffrlError."""
    home = str(Path(__file__).parents[2])
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as complaints, os.fdopen(reading, "rb") as events:
        with os.fdopen(writing, "wb") as answers:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD, home, json.dumps(request)],
                stdin=subprocess.DEVNULL,
                stdout=answers,
                stderr=complaints,
                env=_environment(folder),
            )
        try:
            done = _follow(events.fileno(), timeout, told, progress)
            if done is not None:
                return done
            status = process.wait(timeout=5)
        finally:
            process.kill()
            process.wait()
        complaints.seek(0)
        last = complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
        raise told.error("other", last[:200] or f"its process ended with {status}", [])


def _environment(folder: Path) -> dict[str, str]:
    """The caller's environment, with the hub's client kept to plain, quiet, resumable transfers."""
    return {
        **os.environ,
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_XET": "1",
        "MINARI_DATASETS_PATH": str(folder / "root"),
        "PYTHONWARNINGS": "ignore",
    }


def _follow(
    events: int, timeout: float, told: Told, progress: Progress | None
) -> dict[str, Any] | None:
    """Follow the child's events; its `done`, or None where it ended without a word."""
    total: int | None = None
    reason = ""
    for event in _events(events, timeout):
        match event["event"]:
            case "done":
                return event
            case "failed":
                raise told.error(event["kind"], event["detail"], event["names"])
            case "note":
                reason = " ".join(event["text"].split())[:160]
            case "skipped":
                name = repr(event["dataset"]) if event["dataset"] else "an entry"
                warnings.warn(f"{name} is left out: {event['detail']}", stacklevel=4)
            case "total":
                total = event["bytes"]
            case "progress" if progress is not None:
                progress(event["bytes"], total)
            case "silent":
                detail = f"nothing came for {timeout:g} s" + (f" ({reason})" if reason else "")
                raise told.error("slow", detail, [])
            case _:
                pass
    return None


def _events(events: int, timeout: float) -> Iterator[dict[str, Any]]:
    """Yield the child's events; `silent` when none but notes came for `timeout` seconds."""
    rest = b""
    heard = time.monotonic() + STARTING
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, heard + timeout - time.monotonic())):
                yield {"event": "silent"}
                return
            piece = os.read(events, 1 << 16)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["event"] != "note":
                    heard = time.monotonic() + event.get("seconds", 0.0)
                yield event

"""A headless Chromium that a test drives over a pipe, in the browser's own DevTools protocol.

No driver and no package: messages are JSON ended by a zero byte, in on descriptor 3 and out on 4.
"""

import base64
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PATIENCE = 120.0  # seconds; the machine is shared and slow at times


def chromium() -> str:
    """The browser's path; skips where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is here: apt-get install chromium")
    return found


class Browser:
    """One page, and everything it asked for or complained of."""

    def __init__(self, out: int, into: int, pid: int) -> None:
        self._write, self._read, self.pid = out, into, pid
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return what came of it."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)
        raise AssertionError(f"{method} took more than {PATIENCE:g} s")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            assert part, "the browser ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def start(self) -> None:
        """Attach to a page and listen to what it does."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        made = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = made["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file and wait until its charts are drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.until(
            "document.readyState === 'complete' && (!document.getElementById('drawing')"
            " || document.documentElement.dataset.drawn !== undefined)"
        )

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript, waiting for a promise, and return its value."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until JavaScript is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.run(expression):
            assert time.monotonic() < deadline, (expression, self.complaints)
            assert not self.complaints, self.complaints
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and let go of a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if kind == "keyDown" and text else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **more)

    def picture(self, *, whole: bool = False) -> bytes:
        """A PNG of what is seen, or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def pdf(self) -> bytes:
        """The page as it prints."""
        found = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(found["data"])

    @property
    def asked_for(self) -> list[str]:
        """Every address that was requested since the page was opened, the page's own left out."""
        sent = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if one["type"] != "Document"]

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions, and what the policy blocked."""
        found: list[str] = []
        for event in self.events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"]))
            if event["method"] == "Runtime.consoleAPICalled":
                found.append(f"{params['type']}: {json.dumps(params['args'])}")
            if event["method"] == "Log.entryAdded":
                found.append(json.dumps(params["entry"]))
        return found


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser of its own profile; everything of it is gone afterwards."""
    path = chromium()
    profile = tempfile.mkdtemp(prefix="offrl-browser-")
    theirs, ours = os.pipe()
    back, answers = os.pipe()
    # As high as no descriptor of Chromium's: 3 and 4 must be free to be copied to.
    ends = [os.dup(end) for end in (theirs, answers)]
    words = [
        path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb",
        "--remote-debugging-pipe", f"--user-data-dir={profile}",
    ]  # fmt: skip
    pid = os.posix_spawn(
        path,
        words,
        {**os.environ, "HOME": profile},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, ends[0], 103),
            (os.POSIX_SPAWN_DUP2, ends[1], 104),
            (os.POSIX_SPAWN_DUP2, 103, 3),
            (os.POSIX_SPAWN_DUP2, 104, 4),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setpgroup=0,
    )
    for end in (theirs, answers, *ends):
        os.close(end)
    browser = Browser(ours, back, pid)
    try:
        browser.start()
        yield browser
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ours)
        os.close(back)
        shutil.rmtree(profile, ignore_errors=True)

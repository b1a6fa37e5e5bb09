"""Ctrl-C and SIGTERM end a command with 130 and 143 and a line that says how to go on."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from offrl.stops import Undropped

INTERRUPTED = 130
TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; a KeyboardInterrupt, so that whatever tidies up after Ctrl-C does so too."""


class Stopped(BaseException):
    """The work was stopped from outside; `go_on` is what to type to continue it."""

    def __init__(self, exit_code: int, go_on: str) -> None:
        super().__init__(go_on)
        self.exit_code = exit_code
        self.go_on = go_on


@contextmanager
def going_on(command: str) -> Iterator[None]:
    """Let a stop inside the block name `command` as the way to continue."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Stopped(exit_code(stop), command) from stop


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit status that a shell gives to the signal behind `stop`."""
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` inside the block; signals belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    def number(stop: KeyboardInterrupt) -> signal.Signals:
        return signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT

    before, hook = signal.signal(signal.SIGTERM, terminate), sys.unraisablehook
    sys.unraisablehook = Undropped(number)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)

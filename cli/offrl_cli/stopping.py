"""Ctrl-C and SIGTERM end a command with 130 and 143 and a line that says how to go on."""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

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

    def dropped(fault: Any) -> None:
        # Python drops a stop that falls into a callback of the garbage collector: it comes again.
        if isinstance(fault.exc_value, KeyboardInterrupt):
            late = isinstance(fault.exc_value, Terminated)
            _thread.start_new_thread(again, (signal.SIGTERM if late else signal.SIGINT,))
        else:
            hook(fault)

    def again(number: signal.Signals) -> None:
        time.sleep(0.01 + time.monotonic() % 0.05)
        _thread.interrupt_main(number)

    before, hook = signal.signal(signal.SIGTERM, terminate), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)

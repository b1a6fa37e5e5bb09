"""Stops that Python would drop come again.

An exception that is raised while a callback of the garbage collector runs is printed and dropped
by Python, a KeyboardInterrupt like any other: the program would go on as if nobody had stopped it.
"""

import _thread
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


class Undropped:
    """A `sys.unraisablehook` by which a dropped KeyboardInterrupt comes again as a signal.

    `number` says as which signal; everything else goes to the hook that was there before.
    """

    def __init__(self, number: Callable[[KeyboardInterrupt], signal.Signals]) -> None:
        self.number = number
        self.before = sys.unraisablehook

    def __call__(self, fault: Any) -> None:
        """Take what Python drops."""
        if isinstance(fault.exc_value, KeyboardInterrupt):
            again(self.number(fault.exc_value))
        else:
            self.before(fault)


def is_dropping(frame: FrameType | None) -> bool:
    """Whether `Undropped` is at work at `frame`: what is raised there is dropped for good."""
    while frame is not None and frame.f_code is not Undropped.__call__.__code__:
        frame = frame.f_back
    return frame is not None


def again(number: signal.Signals) -> None:
    """Let the signal reach the main thread in a moment."""
    _thread.start_new_thread(_later, (number,))  # not by `threading`: a stop could meet its locks


def _later(number: signal.Signals) -> None:
    # At no fixed beat, or it could fall into the same callback again and again.
    time.sleep(0.01 + time.monotonic() % 0.05)
    _thread.interrupt_main(number)

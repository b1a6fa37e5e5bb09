"""Interrupts a run at a line of offrl: what Ctrl-C does, where it hurts most or anywhere."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import offrl

_HOME = str(Path(offrl.__file__).parent)


class Lines:
    """Counts the lines of offrl that `run` executes; KeyboardInterrupt at number `at`."""

    def __init__(self, run: Callable[[], Any], at: int = -1) -> None:
        self.count, self.at, self.where, self.interrupted = 0, at, "", False
        before, gradients = sys.gettrace(), torch.is_grad_enabled()
        sys.settrace(self._called)
        try:
            run()
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            sys.settrace(before)
            # A stop may fall on the line of a `with torch.no_grad()` that is being left.
            torch.set_grad_enabled(gradients)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(_HOME) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count == self.at:
                sys.settrace(None)
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line

"""The errors offrl raises: one cause, one remedy, one exit status.

OffrlError                     1  the work failed
├── ConfigError                2  the words were off; nothing was written
│   └── NotFoundError          2  a named thing does not exist
├── CorruptDataError           1  a file or a column does not hold what it must
├── UnsafeDataError            1  data that would run code or read another file
├── IncompatibleVersionError   1  written by a version this one cannot read
├── LockedError                1  another process is using it
├── NumericsError              1  a loss or a gradient stopped being finite
├── FloorError                 1  a policy that acts fell below its floor
├── EnvError                   1  an environment cannot be made or does not fit
└── WorkError                  1  a policy or an environment of the user raised
"""

import difflib
from collections.abc import Iterable


class OffrlError(Exception):
    """An error with a cause and a remedy, each one sentence."""

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause} {remedy}".strip())
        self.cause = cause
        self.remedy = remedy


class ConfigError(OffrlError):
    """What was asked for makes no sense; nothing was written."""

    exit_code = 2


class NotFoundError(ConfigError):
    """A dataset, run, algorithm, environment or file that was named does not exist."""


class CorruptDataError(OffrlError):
    """A file or a column does not hold what it must."""


class UnsafeDataError(OffrlError):
    """Reading this data would run code or read another file."""


class IncompatibleVersionError(OffrlError):
    """The file was written by a version that this one cannot read."""


class LockedError(OffrlError):
    """Another process is working in the same folder."""


class NumericsError(OffrlError):
    """A loss or a gradient stopped being finite."""


class FloorError(OffrlError):
    """A policy that acts fell below the floor it was given, and was rolled back."""


class EnvError(OffrlError):
    """An environment cannot be made or does not fit the data."""


class WorkError(OffrlError):
    """A policy or an environment raised while working."""


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest choice, or "" where none is near."""
    written = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), written, n=1, cutoff=0.5)
    return f" Did you mean '{written[near[0]]}'?" if near else ""

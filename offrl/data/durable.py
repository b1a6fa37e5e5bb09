"""Files that are whole or absent after a crash: temporary name, fsync, rename, folder fsync."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from offrl.errors import OffrlError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_file(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds the old bytes or the new ones, never a part.

    Raises OSError (no space, no permission) with the old file whole and no temporary left.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def keep_file(path: Path, content: bytes, remedy: str) -> None:
    """Do as `write_file` does, and raise OffrlError with `remedy` where the disk refuses."""
    try:
        write_file(path, content)
    except OSError as error:
        raise OffrlError(
            f"{path} could not be written: {error.strerror or error}.", remedy
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def swap_folders(new: Path, old: Path) -> None:
    """Exchange two folders in one step, so that `old` is at no moment missing.

    Where the system has no such call the old folder is moved away first and put back if the
    second rename fails. Raises OSError with both folders whole.
    """
    if not _exchange(new, old):
        aside = old.with_name(f".{old.name}.replaced-{os.getpid()}")
        old.rename(aside)
        try:
            new.rename(old)
        except OSError:
            aside.rename(old)
            raise
        aside.rename(new)
    sync_folder(old.parent)


def _exchange(new: Path, old: Path) -> bool:
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux, glibc 2.28 and later
    if rename is None:
        return False
    return rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0

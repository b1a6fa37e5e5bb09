"""Copies shards into Minari's one HDF5 file; run as a program of its own by `writer`.

HDF5 can kill the process that is writing when the disk fills up, so this one is expendable: it
reads one JSON object from standard input, {"shards": [{"path", "sha256"}], "target"}, and imports
nothing of offrl. It ends with 0 and a synced file, or with another status and a sentence on
standard error.
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import h5py


def consolidate(shards: list[dict[str, str]], target: Path) -> None:
    """Copy every episode group of the shards, in order, into `target`.

    Raises ValueError naming a shard whose bytes are not those that were written.
    """
    with h5py.File(target, "w", track_order=True, libver=("v108", "latest")) as out:
        for shard in shards:
            path = Path(shard["path"])
            if hashlib.sha256(path.read_bytes()).hexdigest() != shard["sha256"]:
                raise ValueError(f"{path} is damaged: its SHA-256 is not the manifest's")
            with h5py.File(path, "r") as source:
                for name in source:
                    source.copy(source[name], out, name)
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _end_with_parent() -> None:
    """Ask the system to end this process with its parent: the next one writes the same file.

    As `hub_fetch` does, which cannot be asked: nothing of offrl is imported here.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> int:
    """Consolidate what standard input asks for and return the exit status."""
    _end_with_parent()
    request = json.load(sys.stdin)
    try:
        consolidate(request["shards"], Path(request["target"]))
    except OSError as error:
        sys.stderr.write(f"{os.strerror(error.errno) if error.errno else error}\n")
        return 1
    except (ValueError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

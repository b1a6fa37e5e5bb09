"""A child process that damages copies of a dataset, one after the other, and says what came of it.

    python mutations.py FOLDER SCRATCH FIRST STOP flips|mutations

For each number a line: the number, the file, what `load` did, and the codes that the check gave.
"""

import json
import resource
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np

from offrl.data.checks import check_folder
from offrl.data.dataset import load
from offrl.errors import OffrlError

FILES = ("data/main_data.hdf5", "data/main_data.hdf5", "data/metadata.json", "manifest.json")
SECONDS = 5.0  # of processor time for one damaged copy


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with one bit changed."""
    changed = bytearray(content)
    changed[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes overwritten, cut, lengthened, or with a block moved, doubled or missing."""
    size = len(content)
    start = int(rng.integers(size))
    block = content[start : start + int(rng.integers(1, 64))]
    rest = content[start + len(block) :]
    kind = int(rng.integers(8))
    if kind == 0:
        return content[:start] + rng.bytes(len(block)) + rest
    if kind == 1:
        return content[:start] + bytes(len(block)) + rest
    if kind == 2:
        return content[:start] + b"\xff" * len(block) + rest
    if kind == 3:
        return content[:start]
    if kind == 4:
        return content + rng.bytes(len(block))
    if kind == 5:
        return content[:start] + rest
    if kind == 6:
        return content[:start] + block + block + rest
    changed = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(size, size=int(rng.integers(2, 9)))
    changed[places] = rng.integers(256, size=len(places))
    return changed.tobytes()


def damage(source: Path, copy: Path, number: int, kind: str) -> str:
    """Make the damaged copy of this number and return the name of its damaged file."""
    rng = np.random.default_rng([number, len(kind)])
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    name = FILES[number % len(FILES)]
    content = (copy / name).read_bytes()
    (copy / name).write_bytes((flipped if kind == "flips" else mutated)(content, rng))
    return name


def loaded(copy: Path, whole: tuple[str, str]) -> str:
    """Load and flatten a copy: an error of ours, a warning, the data as it was, or silence."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = load(copy)
            found = data.fingerprint, json.dumps(data.spec.to_json())
            _ = data.transitions
        except OffrlError as error:
            return type(error).__name__
    if caught:
        return "warned"
    return "same" if found == whole else "silent"


def checked(copy: Path) -> list[str]:
    """The codes of the errors that the check gives, or the name of the error that it raises."""
    try:
        return [p.code for p in check_folder(copy, "copy").problems if p.severity == "error"]
    except OffrlError as error:
        return [type(error).__name__]


def main(source: Path, copy: Path, first: int, stop: int, kind: str) -> None:
    """Go through the numbers; a hang ends the process by a signal."""
    data = load(source)
    whole = data.fingerprint, json.dumps(data.spec.to_json())
    resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for number in range(first, stop):
        name = damage(source, copy, number, kind)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcome = loaded(copy, whole)
        found = checked(copy)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([number, name, outcome, found]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])

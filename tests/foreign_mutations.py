"""A child process that damages copies of a D4RL file and imports them, and says what came of it.

    python foreign_mutations.py FILE SCRATCH FIRST STOP

For each number a line: the number, and an error of ours, the data as it was, or other data. HDF5
can crash or hang on such a file, which ends this process by a signal and nobody else.
"""

import json
import resource
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
from mutations import flipped, mutated

import offrl
from offrl.errors import OffrlError

SECONDS = 5.0  # of processor time for one damaged copy


def damaged(content: bytes, number: int) -> bytes:
    """Return the file with the damage of this number."""
    rng = np.random.default_rng([number, 7])
    return (flipped if number % 3 == 0 else mutated)(content, rng)


def outcome(path: Path, whole: str) -> str:
    """Import a file and look at all of it."""
    try:
        data = offrl.import_file(path, format="d4rl")
        found = data.fingerprint
        _ = data.transitions
    except OffrlError as error:
        return type(error).__name__
    return "same" if found == whole else "other"


def main(file: Path, copy: Path, first: int, stop: int) -> None:
    """Go through the numbers."""
    whole = offrl.import_file(file, format="d4rl").fingerprint
    content = file.read_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    for number in range(first, stop):
        copy.write_bytes(damaged(content, number))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        found = outcome(copy, whole)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([number, found]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

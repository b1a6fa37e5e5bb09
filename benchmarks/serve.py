"""A process that waits to be timed, so that many can take turns within one run."""

import sys
import time
from collections.abc import Callable


def serve(advance: Callable[[int], None]) -> None:
    """Print `ready`; then for each line N on standard input do N updates and print the seconds."""
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        advance(int(line))
        print(time.perf_counter() - start, flush=True)

"""A process that waits to be timed, so that many can take turns within one run.

With one thread processor time is what counts: it is the wall clock of an idle core, and it does not
stop for whatever else the machine is doing. Several threads are timed by the wall clock.
"""

import sys
import time
from collections.abc import Callable


def serve(advance: Callable[[int], None], threads: int = 1) -> None:
    """Print `ready`; then for each line N on standard input do N updates and print the seconds."""
    clock = time.process_time if threads == 1 else time.perf_counter
    print("ready", flush=True)
    for line in sys.stdin:
        start = clock()
        advance(int(line))
        print(clock() - start, flush=True)

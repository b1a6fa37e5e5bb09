"""A process that waits to be timed, so that many can take turns within one run.

Processor time is what counts: with one thread it is the wall clock of an idle core, and it does not
stop for whatever else the machine is doing.
"""

import sys
import time
from collections.abc import Callable


def serve(advance: Callable[[int], None]) -> None:
    """Print `ready`; then for each line N on standard input do N updates and print the seconds."""
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.process_time()
        advance(int(line))
        print(time.process_time() - start, flush=True)

"""A core to a thread: what every process that is timed does first."""

import os


def stay_on_one_core() -> None:
    """Bind this process to one core where the system can, and torch to one thread."""
    stay_on_cores(1)


def stay_on_cores(n: int) -> None:
    """Bind this process to `n` cores where the system can, and torch to as many threads."""
    import torch

    torch.set_num_threads(n)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-n:])

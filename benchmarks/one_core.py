"""One core, one thread: what every process that is timed does first."""

import os


def stay_on_one_core() -> None:
    """Bind this process to one core where the system can, and torch to one thread."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

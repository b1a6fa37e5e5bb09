"""Batches of 256 transitions per second from memory, on one core."""

import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
BATCHES = 5000


def measure(rounds: int) -> dict[str, object]:
    """Batches per second over `rounds`, in a process of its own that keeps to one core."""
    command = [sys.executable, "-m", "benchmarks.batches", str(rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    rates = [float(line) for line in done.stdout.split()]
    print(
        f"\nbatches of 256 per second: median {median(rates):.0f} "
        f"(min {min(rates):.0f}, max {max(rates):.0f}, n = {len(rates)} x {BATCHES})"
    )
    return {"rates": rates, "batches": BATCHES}


def main(rounds: int) -> None:
    """Print the rate of each round, by processor time as in `serve`."""
    import time

    from benchmarks.one_core import stay_on_one_core
    from benchmarks.workload import BATCH, logs
    from offrl.batch import Table
    from offrl.data.dataset import Dataset
    from offrl.sampler import Sampler

    sampler = Sampler(Table.of(Dataset.from_arrays(*logs()).transitions), 0, BATCH)
    stay_on_one_core()
    for step in range(200):
        sampler[step]
    for turn in range(rounds):
        start = time.process_time()
        for step in range(turn * BATCHES, (turn + 1) * BATCHES):
            sampler[step]
        print(BATCHES / (time.process_time() - start))


if __name__ == "__main__":
    main(int(sys.argv[1]))

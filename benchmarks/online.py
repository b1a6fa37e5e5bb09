"""Environment steps per second with an update after each, beside Stable-Baselines3's `learn`.

Both act in one Hopper-v5 with the same networks, batches of 256 and equal exploration, and take
turns: on one core, and with two threads where the machine has two cores.
"""

import os
import sys
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median

ENV = "Hopper-v5"
ALGOS = ("td3", "sac")
FORMS = ("eager", "compiled", "compiled-bf16")
WIDTHS = (256, 64)
THREADS = (1, 2)
BATCH, LR, NOISE = 256, 3e-4, 0.1
WARMUP, CHUNK = 1000, 500  # steps of random actions, and of one measurement
PEER_PYTHON = Path(__file__).parent.parent / ".venv-sb3" / "bin" / "python"


def measure(rounds: int, peer: str | Path = PEER_PYTHON) -> list[dict[str, object]]:
    """Rates of every contender over `rounds`, each also as a ratio to the peer's in its round."""
    rows: list[dict[str, object]] = []
    for width, threads in product(WIDTHS, THREADS):
        if threads > (os.cpu_count() or 1):
            continue
        print(f"\nsteps in {ENV} per second, an update after each, 2x{width}, batch {BATCH}")
        print("one core, processor time" if threads == 1 else f"{threads} threads, wall clock")
        print(f"{'':34}{'median':>8}{'min':>8}{'max':>8}   ratio to the peer's: median (min-max)")
        for algo in ALGOS:
            rates = _take_turns(algo, width, threads, rounds, peer)
            theirs = next(iter(rates.values()))
            for name, found in rates.items():
                ratios = [a / b for a, b in zip(found, theirs, strict=True)]
                row = {"name": name, "width": width, "threads": threads}
                rows.append({**row, "rates": found, "ratios": ratios})
                print(
                    f"{name:34}{median(found):8.0f}{min(found):8.0f}{max(found):8.0f}"
                    f"   {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                    flush=True,
                )
    return rows


def _take_turns(
    algo: str, width: int, threads: int, rounds: int, peer: str | Path
) -> dict[str, list[float]]:
    from benchmarks.updates import Contender  # the peers that import this module need not have it

    with ExitStack() as stack:
        size = str(width), str(threads)
        theirs = Contender(peer, "contender_sb3_online", algo, *size, threads=threads)
        contenders = {f"Stable-Baselines3 {algo}": stack.enter_context(theirs)}
        for form in FORMS:
            said = ("contender_online", algo, form, *size)
            mine = Contender(sys.executable, *said, threads=threads)
            contenders[f"{algo} {form}"] = stack.enter_context(mine)
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                rates[name].append(contender.updates_per_second(CHUNK))
    return rates

"""Updates per second beside d3rlpy's of the same algorithm, taking turns on one core."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import IO

ROOT = Path(__file__).parent.parent
PEER_PYTHON = ROOT / ".venv-d3rlpy" / "bin" / "python"
WIDTHS = (256, 64)
# d3rlpy's algorithm, those of ours that stand beside it, and updates in one measurement.
GROUPS = (
    ("bc", ("bc-deterministic", "bc", "awr"), 1000),
    ("td3-bc", ("td3-bc",), 400),
    ("iql", ("iql",), 400),
    ("cql", ("cql",), 100),
    ("dqn", ("dqn",), 400),
)
FORMS = ("eager", "compiled", "compiled-bf16")


class Contender:
    """A process that makes updates when asked, started ready."""

    def __init__(self, python: str | Path, module: str, *arguments: str, threads: int = 1) -> None:
        n = str(threads)
        environment = {**os.environ, "OMP_NUM_THREADS": n, "MKL_NUM_THREADS": n}
        self.process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self.asking, self.answers = self._pipes()
        while self._read() != "ready":
            pass  # what a library says of itself while it starts

    def updates_per_second(self, steps: int) -> float:
        """Ask for `steps` updates and return how many it made a second."""
        self.asking.write(f"{steps}\n")
        self.asking.flush()
        return steps / float(self._read())

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        asking, answers = self.process.stdin, self.process.stdout
        if asking is None or answers is None:
            raise RuntimeError("Popen was not asked for pipes")
        return asking, answers

    def _read(self) -> str:
        line = self.answers.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return line.strip()

    def __enter__(self) -> "Contender":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.asking.close()
        self.process.wait(timeout=60)


def measure(rounds: int, only: Sequence[str] = ()) -> list[dict[str, object]]:
    """Rates of every contender over `rounds`, each also as a ratio to the peer's in its round.

    `only` names some of d3rlpy's algorithms.
    """
    rows: list[dict[str, object]] = []
    print("\nupdates per second, batch 256, 17 observations, 6 actions")
    print(f"{'':34}{'median':>8}{'min':>8}{'max':>8}   ratio to d3rlpy's: median (min-max)")
    for theirs, ours, steps in GROUPS:
        if only and theirs not in only:
            continue
        for width in WIDTHS:
            rates = _take_turns(theirs, ours, width, steps, rounds)
            peer = next(iter(rates.values()))
            for name, found in rates.items():
                ratios = [a / b for a, b in zip(found, peer, strict=True)]
                rows.append({"name": name, "width": width, "rates": found, "ratios": ratios})
                label = f"{name}, 2x{width}"
                print(
                    f"{label:34}{median(found):8.0f}{min(found):8.0f}{max(found):8.0f}"
                    f"   {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                    flush=True,
                )
    return rows


def _take_turns(
    theirs: str, ours: Sequence[str], width: int, steps: int, rounds: int
) -> dict[str, list[float]]:
    with ExitStack() as stack:
        peer = Contender(PEER_PYTHON, "contender_d3rlpy", theirs, str(width))
        contenders = {f"d3rlpy {theirs}": stack.enter_context(peer)}
        for algorithm in ours:
            for form in FORMS:
                mine = Contender(sys.executable, "contender_offrl", algorithm, str(width), form)
                contenders[f"{algorithm} {form}"] = stack.enter_context(mine)
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                rates[name].append(contender.updates_per_second(steps))
    return rates

"""Updates per second of BC and AWR, beside d3rlpy's BC, taking turns on one core."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import IO

ROOT = Path(__file__).parent.parent
PEER_PYTHON = ROOT / ".venv-d3rlpy" / "bin" / "python"
PEER = "d3rlpy bc"
WIDTHS = (256, 64)
ALGORITHMS = ("bc-deterministic", "bc", "awr")
FORMS = ("eager", "compiled", "compiled-bf16")
STEPS = 1000


class Contender:
    """A process that makes updates when asked, one thread, started ready."""

    def __init__(self, python: str | Path, module: str, *arguments: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
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


def measure(rounds: int) -> list[dict[str, object]]:
    """Rates of every contender over `rounds`, each also as a ratio to the peer's in its round."""
    rows: list[dict[str, object]] = []
    print(f"\nupdates per second, batch 256, 17 observations, 6 actions, {STEPS} a measurement")
    print(f"{'':34}{'median':>8}{'min':>8}{'max':>8}   ratio to {PEER}: median (min-max)")
    for width in WIDTHS:
        rates = _take_turns(width, rounds)
        for name, found in rates.items():
            ratios = [a / b for a, b in zip(found, rates[PEER], strict=True)]
            rows.append({"name": name, "width": width, "rates": found, "ratios": ratios})
            label = f"{name}, 2x{width}"
            print(
                f"{label:34}{median(found):8.0f}{min(found):8.0f}{max(found):8.0f}"
                f"   {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            )
    return rows


def _take_turns(width: int, rounds: int) -> dict[str, list[float]]:
    with ExitStack() as stack:
        peer = Contender(PEER_PYTHON, "contender_d3rlpy", str(width))
        contenders = {PEER: stack.enter_context(peer)}
        for algorithm in ALGORITHMS:
            for form in FORMS:
                ours = Contender(sys.executable, "contender_offrl", algorithm, str(width), form)
                contenders[f"{algorithm} {form}"] = stack.enter_context(ours)
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                rates[name].append(contender.updates_per_second(STEPS))
    return rates

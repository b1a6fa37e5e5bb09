"""What executes trials: one small interface, and local processes."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from offrl.sweeps.worker import keep, outcome_of
from offrl.workers import GRACE, SAVING

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Report:
    """Trial `number` has begun, or has ended with an outcome, or begins again after a death."""

    number: int
    outcome: Mapping[str, Any] | None = None  # None: it has begun
    note: str = ""


class Executor(Protocol):
    """Whatever calls `worker.perform` with every request, here or on other machines."""

    def execute(self, requests: Sequence[Mapping[str, Any]]) -> Generator[Report]:
        """Report each request's begin and end, in any order, and exactly one end of each.

        A trial whose process or machine dies ends as failed, with how it died. Closing the
        generator stops the trials that run, each of which saves where it stands.
        """
        ...


class LocalProcesses:
    """Processes of this machine, each with one thread, which take trials in turn."""

    def __init__(self, workers: int | None = None, *, retries: int = 1) -> None:
        """`workers` processes, one a core by default; a trial whose process is killed is begun
        again `retries` times, from its last checkpoint."""
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count()
        self.workers, self.retries = workers or cores or 1, retries

    def execute(self, requests: Sequence[Mapping[str, Any]]) -> Generator[Report]:
        """As `Executor` says."""
        waiting = deque(range(len(requests)))
        deaths = [0] * len(requests)
        arrived: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
        workers = [_Worker(arrived) for _ in range(min(self.workers, len(requests)))]
        held: dict[_Worker, int] = {}
        try:
            for worker in workers:
                held[worker] = waiting.popleft()
                worker.hand(requests[held[worker]])
                yield Report(held[worker])
            while held:
                worker, line = arrived.get()
                if worker not in held:
                    continue  # it was told to end
                number = held.pop(worker)
                if line is not None:
                    yield Report(number, json.loads(line))
                else:
                    workers.remove(worker)
                    how = worker.fate()
                    deaths[number] += 1
                    if deaths[number] <= self.retries:
                        waiting.appendleft(number)
                        yield Report(number, note=f"{how} Going on from its last checkpoint.")
                    else:
                        request = requests[number]
                        said = f"{how} It was tried {deaths[number]} times."
                        yield Report(
                            number, keep(request, outcome_of(request, "failed", error=said))
                        )
                    if waiting:
                        worker = _Worker(arrived)
                        workers.append(worker)
                if waiting and worker in workers:
                    held[worker] = waiting.popleft()
                    worker.hand(requests[held[worker]])
                    yield Report(held[worker])
        finally:
            for worker in workers:
                worker.close()
            for worker in workers:
                worker.wait()


class _Worker:
    """A process that performs trials, and the thread that listens to it."""

    def __init__(self, arrived: "queue.Queue[tuple[_Worker, str | None]]") -> None:
        # A group of its own: Ctrl-C in a terminal reaches the parent alone, which closes the input.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "offrl.sweeps.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **_ONE_THREAD},
            process_group=0,
        )
        self.arrived = arrived
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        if self.process.stdout:
            with self.process.stdout as stream:
                for line in stream:
                    self.arrived.put((self, line))
        self.arrived.put((self, None))

    def hand(self, request: Mapping[str, Any]) -> None:
        """Give it a trial; that it has died shows as the end of its output."""
        with suppress(OSError):
            if self.process.stdin:
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()

    def fate(self) -> str:
        """How the process ended, in a sentence."""
        self.close()
        code = self.process.wait()
        if code >= 0:
            return f"The trial's process ended with status {code}."
        name = signal.Signals(-code).name
        hint = ", as it is where memory runs out" if -code == signal.SIGKILL else ""
        return f"The trial's process was ended by signal {-code} ({name}){hint}."

    def close(self) -> None:
        """Close its input: it saves where it stands and ends."""
        with suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()

    def wait(self) -> None:
        """Wait for its end, and end it where it is stuck."""
        try:
            self.process.wait(GRACE + SAVING + 2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.listener.join()

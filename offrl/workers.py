"""Seeds in processes of their own: one thread each, so every seed has the bits of a lone run.

A worker is `python -m offrl.training RUN ALGO SEED...`: it opens the run that its parent resolved,
trains those seeds and prints one JSON event a line. When its standard input closes, because the
parent stops or was killed, it saves where it stands and ends.
"""

import _thread
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from types import FrameType
from typing import IO

from offrl import errors
from offrl.errors import OffrlError
from offrl.events import Event, Started, from_dict, to_dict
from offrl.plan import Plan, resolve

SPREAD_FROM = 20_000  # steps of all seeds together that pay for starting processes
GRACE = 8.0  # seconds in which a worker saves and ends once its parent is gone


def how_many(plan: Plan) -> int:
    """Processes worth starting for a run: 1 where only this one has its data."""
    settings = plan.run.settings
    together = settings.steps * len(settings.seeds)
    if not plan.reopens or settings.device != "cpu" or together < SPREAD_FROM:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(len(settings.seeds), (cores or 1) // settings.threads))


def spread(plan: Plan, n: int) -> Generator[Event]:
    """The events of all seeds, from n processes as they come.

    A process that dies takes only its own seeds along; raises OffrlError once the others are done.
    """
    seeds = plan.run.settings.seeds
    lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
    shares = [seeds[k::n] for k in range(n)]
    processes = [_start(plan, share) for share in shares]
    readers = [
        threading.Thread(target=_forward, args=(process.stdout, k, lines), daemon=True)
        for k, process in enumerate(processes)
    ]
    for reader in readers:
        reader.start()
    faults: list[OffrlError] = []
    try:
        running, told = n, set[str]()  # every process has the same notes; once is enough
        while running:
            k, line = lines.get()
            if line is None:
                running -= 1
                faults += _fault(processes[k], shares[k], faults)
            elif "error" in (message := json.loads(line)):
                kind = getattr(errors, message["error"], OffrlError)
                faults.append(kind(message["cause"], message["remedy"]))
            else:
                event = from_dict(message)
                if isinstance(event, Started):
                    fresh = tuple(note for note in event.notes if note not in told)
                    event, told = replace(event, notes=fresh), told | set(fresh)
                yield event
    finally:
        for process in processes:
            if process.stdin:
                process.stdin.close()  # the worker saves where it stands and ends
        for process, reader in zip(processes, readers, strict=True):
            process.wait()
            reader.join()
    if faults:
        raise faults[0]


def _start(plan: Plan, seeds: tuple[int, ...]) -> "subprocess.Popen[str]":
    words = [str(plan.dir), plan.run.settings.algo, *map(str, seeds)]
    return subprocess.Popen(
        [sys.executable, "-m", "offrl.training", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _forward(stream: IO[str], k: int, lines: "queue.Queue[tuple[int, str | None]]") -> None:
    with stream:
        for line in stream:
            lines.put((k, line))
    lines.put((k, None))


def _fault(
    process: "subprocess.Popen[str]", seeds: tuple[int, ...], known: list[OffrlError]
) -> list[OffrlError]:
    code = process.wait()
    if code == 0 or known:
        return []
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    names = ", ".join(map(str, seeds))
    return [OffrlError(f"The process of seed {names} {how}.", "Go on with --resume.")]


def work(words: list[str], train_seeds: Callable[[Plan, tuple[int, ...]], Iterator[Event]]) -> int:
    """Train the seeds named by RUN ALGO SEED...; the exit status."""
    folder, algo, seeds = words[0], words[1], tuple(int(s) for s in words[2:])
    _stop_with_parent()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints must not be read as an event
    try:
        plan = resolve(algo, out=folder, resume=True)
        for event in train_seeds(plan, seeds):
            print(json.dumps(to_dict(event)), file=events, flush=True)
    except OffrlError as error:
        kind = type(error).__name__
        fault = {"error": kind, "cause": error.cause, "remedy": error.remedy}
        print(json.dumps(fault), file=events, flush=True)
        return error.exit_code
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


def _stop_with_parent() -> None:
    """Raise KeyboardInterrupt in the main thread, once, when standard input closes.

    Ctrl-C in a terminal reaches every process of it; it is left to the parent, which closes our
    input, so that one stop cannot interrupt the saving that another began.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would be held when the process ends
            pass
        _thread.interrupt_main(signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch, daemon=True).start()

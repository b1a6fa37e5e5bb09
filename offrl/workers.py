"""Seeds in processes of their own: one thread each, so every seed has the bits of a lone run.

A worker is `python -m offrl.training RUN ALGO SEED...`: it opens the run that its parent resolved,
trains those seeds and prints one JSON event a line. It ends as soon as its standard input closes,
so a parent that is killed leaves nobody behind who writes into the run.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO

from offrl import errors
from offrl.errors import OffrlError
from offrl.events import Event, Started, from_dict, to_dict
from offrl.plan import Plan, resolve

SPREAD_FROM = 20_000  # steps of all seeds together that pay for starting processes


def how_many(plan: Plan) -> int:
    """Processes worth starting for a run: 1 where its data exist only in this one."""
    settings = plan.run.settings
    together = settings.steps * len(settings.seeds)
    if plan.dataset.path is None or settings.device != "cpu" or together < SPREAD_FROM:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(len(settings.seeds), (cores or 1) // settings.threads))


def spread(plan: Plan, n: int) -> Iterator[Event]:
    """The events of all seeds, from n processes as they come.

    A process that dies takes only its own seeds along; raises OffrlError once the others are done.
    """
    seeds = plan.run.settings.seeds
    lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
    shares = [seeds[k::n] for k in range(n)]
    processes = [_start(plan, share) for share in shares]
    for k, process in enumerate(processes):
        threading.Thread(target=_forward, args=(process.stdout, k, lines), daemon=True).start()
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
        for process in processes:
            process.wait()
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


def _forward(stream: IO[str] | None, k: int, lines: "queue.Queue[tuple[int, str | None]]") -> None:
    for line in stream or ():
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
    threading.Thread(target=_end_with_parent, daemon=True).start()
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


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)

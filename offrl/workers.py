"""Seeds in processes of their own: one thread each, so every seed has the bits of a lone run.

A worker is `python -m MODULE ALGO RUN SEED [RUN SEED ...]`, MODULE being `offrl.training` or
`offrl.online.training`: it opens the runs that its parent resolved, trains those seeds and prints
one JSON event a line. When its standard input closes, because the parent stops or was killed, it
saves where it stands and ends.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

from offrl import errors
from offrl.errors import OffrlError
from offrl.events import Event, Started, from_dict, to_dict
from offrl.run import Run
from offrl.stops import Undropped, again, is_dropping

SPREAD_FROM = 20_000  # steps of all seeds together that pay for starting processes
GRACE = 8.0  # seconds in which a worker takes the stop, once its parent is gone
SAVING = 120.0  # and those in which it then saves and ends: replay memories can be large


class Planned(Protocol):
    """A resolved run, whatever it learns from."""

    @property
    def run(self) -> Run:
        """What was decided of it."""
        ...

    @property
    def dir(self) -> Path:
        """Its folder."""
        ...

    @property
    def resumed(self) -> bool:
        """Whether it goes on with what its folder holds."""
        ...

    @property
    def reopens(self) -> bool:
        """Whether another process can open what it learns from."""
        ...


Job = tuple[Any, int]  # one seed of a Planned


def how_many(*plans: Planned) -> int:
    """Processes worth starting for runs together: 1 where only this one has their data."""
    plan, settings = plans[0], plans[0].run.settings
    jobs = sum(len(one.run.settings.seeds) for one in plans)
    together = settings.steps * jobs
    if not plan.reopens or settings.device != "cpu" or together < SPREAD_FROM:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(jobs, (cores or 1) // settings.threads))


def spread(
    shares: Sequence[Sequence[Job]], module: str, words: Sequence[str] = ()
) -> Generator[tuple[Planned, Event]]:
    """The events of all jobs, as they come, from a process for each share of them.

    `module` is the program of the processes; `words` come before those that name the jobs.

    A process that dies takes only its own jobs along; raises OffrlError once the others are done.
    """
    lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
    processes = [_start(share, module, words) for share in shares]
    readers = [
        threading.Thread(target=_forward, args=(process.stdout, k, lines), daemon=True)
        for k, process in enumerate(processes)
    ]
    for reader in readers:
        reader.start()
    faults: list[OffrlError] = []
    try:
        running, told = len(shares), set[str]()  # every process has the same notes; once is enough
        while running:
            k, line = lines.get()
            if line is None:
                running -= 1
                faults += _fault(processes[k], shares[k], faults)
            elif "error" in (message := json.loads(line)):
                kind = getattr(errors, message["error"], OffrlError)
                faults.append(kind(message["cause"], message["remedy"]))
            else:
                plan, _ = shares[k][message.pop("job")]
                event = from_dict(message)
                if isinstance(event, Started):
                    fresh = tuple(note for note in event.notes if note not in told)
                    event, told = replace(event, notes=fresh), told | set(fresh)
                yield plan, event
    finally:
        for process in processes:
            if process.stdin:
                process.stdin.close()  # the worker saves where it stands and ends
        for process, reader in zip(processes, readers, strict=True):
            process.wait()
            reader.join()
    if faults:
        raise faults[0]


def _start(share: Sequence[Job], module: str, words: Sequence[str]) -> "subprocess.Popen[str]":
    pairs = [(str(plan.dir), str(seed)) for plan, seed in share]
    named = [share[0][0].run.settings.algo, *(word for pair in pairs for word in pair)]
    return subprocess.Popen(
        [sys.executable, "-m", module, *words, *named],
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
    process: "subprocess.Popen[str]", share: Sequence[Job], known: list[OffrlError]
) -> list[OffrlError]:
    code = process.wait()
    if code == 0 or known:
        return []
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    names = ", ".join(str(seed) for seed in dict.fromkeys(seed for _, seed in share))
    return [OffrlError(f"The process of seed {names} {how}.", "Go on with --resume.")]


def work(
    words: list[str],
    opened: Callable[[str, list[str]], Mapping[str, Any]],
    train_jobs: Callable[[Sequence[Job]], Iterator[tuple[int, Event]]],
) -> int:
    """Train what ALGO RUN SEED [RUN SEED ...] names; the exit status.

    `opened` gives the runs of an algorithm by their folders.
    """
    algo, folders, seeds = words[0], words[1::2], words[2::2]
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints must not be read as an event
    try:
        stop_with_parent()
        plans = opened(algo, list(dict.fromkeys(folders)))
        jobs = [(plans[folder], int(seed)) for folder, seed in zip(folders, seeds, strict=True)]
        for job, event in train_jobs(jobs):
            print(json.dumps({"job": job, **to_dict(event)}), file=events, flush=True)
    except OffrlError as error:
        kind = type(error).__name__
        fault = {"error": kind, "cause": error.cause, "remedy": error.remedy}
        print(json.dumps(fault), file=events, flush=True)
        return error.exit_code
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


def stop_with_parent(
    take: Callable[[bytes | None], None] | None = None, busy: Callable[[], bool] = lambda: True
) -> None:
    """Raise KeyboardInterrupt in the main thread, once, when standard input closes.

    Lines that arrive before go to `take`, then None; a worker that is not busy ends by that.
    Ctrl-C in a terminal reaches every process of it; it is left to the parent, which closes our
    input, so that one stop cannot interrupt the saving that another began.
    """

    taken, main = False, threading.get_ident()

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal taken
        if is_dropping(frame):
            again(signal.SIGTERM)
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        taken = True
        raise KeyboardInterrupt

    def afresh(_: KeyboardInterrupt) -> signal.Signals:
        nonlocal taken
        taken = False
        signal.signal(signal.SIGTERM, stop)
        return signal.SIGTERM

    def watch() -> None:
        rest = b""
        while chunk := os.read(0, 65536):  # not sys.stdin: its lock would be held at the end
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if take:
                    take(line)
        if take:
            take(None)
        if busy():
            end = time.monotonic() + GRACE
            while not taken and time.monotonic() < end:
                # A signal also wakes what sleeps or waits for a socket; one just before does not.
                signal.pthread_kill(main, signal.SIGTERM)
                time.sleep(0.5)
            if taken:
                time.sleep(SAVING)
            os._exit(1)

    sys.unraisablehook = Undropped(afresh)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch, daemon=True).start()

"""What runs of every kind have in common: their folders, locks, processes and results."""

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import filelock

from offrl.algos import source_of
from offrl.data.durable import write_file
from offrl.errors import ConfigError, LockedError, OffrlError
from offrl.events import Event, Warned
from offrl.run import Run
from offrl.workers import Job, Planned, how_many, spread

P = TypeVar("P", bound=Planned)
WAIT = 10.0  # seconds for a lock: a worker of a killed run needs a moment to save and end


class Told(Protocol):
    """What becomes of a run's events, and its result.json."""

    worked: bool

    def take(self, event: Event) -> Warned | None:
        """Count one event; what follows from it, where that must be said."""
        ...

    def write(self, shares: Sequence[Sequence[int]]) -> None:
        """Write result.json; `shares` are the seeds that took turns."""
        ...


class How(NamedTuple):
    """How runs of one kind are trained: here, in other processes, and what comes of them."""

    jobs: Callable[[Sequence[Job]], Generator[tuple[int, Event]]]
    told: Callable[[Any], Told]
    module: str  # the program of other processes
    words: tuple[str, ...] = ()  # that come first on its command line


def drive(plans: Sequence[P], how: How) -> Generator[tuple[P, Event]]:
    """Train every seed of runs of one kind, in this process or in several, and write their folders.

    Raises LockedError where another process trains in one of them.
    """
    with ExitStack() as locks:
        for plan in plans:
            locks.enter_context(locked(plan.dir))
            write_run(plan.run, plan.dir, plan.resumed)
        jobs = [(plan, seed) for plan in plans for seed in plan.run.settings.seeds]
        n = how_many(*plans)
        shares = [jobs[k::n] for k in range(n)]  # each is taken in turn by one process
        outcomes = {plan.dir: how.told(plan) for plan in plans}
        run: Generator[tuple[Any, Event]] = (
            spread(shares, how.module, how.words) if n > 1 else _named(jobs, how)
        )
        with closing(run):
            for plan, event in run:
                warned = outcomes[plan.dir].take(event)
                yield plan, event
                if warned is not None:
                    yield plan, warned
        for plan in plans:
            if outcomes[plan.dir].worked or not (plan.dir / "result.json").exists():
                mine = [[seed for one, seed in share if one is plan] for share in shares]
                outcomes[plan.dir].write(mine)


def _named(jobs: Sequence[Job], how: How) -> Generator[tuple[Any, Event]]:
    with closing(how.jobs(jobs)) as events:
        for job, event in events:
            yield jobs[job][0], event


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made where it is not there, for this process alone; else LockedError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        lock.acquire(timeout=WAIT)
    except filelock.Timeout:
        raise LockedError(
            f"Another process is training in {folder}.", "Wait for it, or give another --out."
        ) from None
    except OSError as error:
        raise OffrlError(
            f"{folder} cannot be written: {error.strerror or error}.", "Give another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def write_run(run: Run, folder: Path, resumed: bool) -> None:
    """Write run.toml, and a copy of the user's algorithm, into a folder that has none yet."""
    if resumed:
        return
    if (folder / "run.toml").exists():  # another run took the folder since it was looked at
        raise ConfigError(f"The folder {folder} is occupied.", "Give another --out.")
    if source := source_of(run.settings.algo):
        shutil.copyfile(source, folder / "algorithm.py")
    write_file(folder / "run.toml", run.to_toml().encode())

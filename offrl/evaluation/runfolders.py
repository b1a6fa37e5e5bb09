"""Runs by folder, glob or name, and in what state each of their seeds is."""

import glob
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from offrl.checkpoint import TrainedRun, folders, load_run
from offrl.errors import ConfigError, NotFoundError, OffrlError

Named = str | Path | TrainedRun | Iterable[str | Path | TrainedRun]


@dataclass
class Found:
    """Runs, each with the seeds that were asked for, and what was left aside, a sentence each."""

    runs: list[TrainedRun] = field(default_factory=list[TrainedRun])
    left_out: list[str] = field(default_factory=list[str])


def find(named: Named) -> Found:
    """Return the runs that folders or globs name, those below a folder that is none, sorted.

    `RUN/seed_3` names one seed. A folder whose run.toml cannot be read is left aside and told.
    Raises NotFoundError where a name leads to no folder, or none of them to a run.
    """
    names = [named] if isinstance(named, str | Path | TrainedRun) else list(named)
    if not names:
        raise ConfigError("No run is named.", "Give a folder, or a glob such as 'runs/**'.")
    found, seeds = Found(), dict[Path, tuple[TrainedRun, set[int]]]()

    def add(run: TrainedRun) -> None:
        known = seeds.setdefault(run.dir.resolve(), (run, set()))
        known[1].update(run.seeds)

    for name in names:
        if isinstance(name, TrainedRun):
            add(name)
            continue
        for folder in _folders(str(name)):
            try:
                add(load_run(folder))
            except OffrlError as error:
                if str(folder) not in "".join(found.left_out):
                    found.left_out.append(f"{folder} was left aside: {error.cause}")
    found.runs = [
        replace(run, seeds=tuple(sorted(wanted)))
        for run, wanted in sorted(seeds.values(), key=lambda one: str(one[0].dir))
    ]
    if not found.runs:
        said = " ".join(found.left_out)
        raise NotFoundError(
            f"There is no run in {', '.join(str(name) for name in names)}. {said}".strip(),
            "Name folders that hold run.toml, such as the one `offrl train` printed.",
        )
    return found


def _folders(name: str) -> Iterator[Path]:
    """The folders of runs, and of single seeds of them, that a name leads to."""
    name = name.removeprefix("run:")
    literal = Path(name)
    if literal.exists() or not glob.has_magic(name):
        if not literal.is_dir():
            what = "is no folder" if literal.exists() else "is not there"
            raise NotFoundError(
                f"{name} {what}.", "Name a run's folder, or a glob in quotes: 'runs/**'."
            )
        if _is_run(literal):
            yield literal
        else:
            # Not by rglob, which fails where a run that is being trained renames a folder.
            yield from sorted(Path(at) for at, _, names in os.walk(literal) if "run.toml" in names)
        return
    matches = sorted(Path(path) for path in glob.glob(name, recursive=True))
    runs = {path for path in matches if path.is_dir() and (path / "run.toml").is_file()}
    for path in matches:
        if path in runs or (path.parent not in runs and path.is_dir() and _is_run(path)):
            yield path


def _is_run(path: Path) -> bool:
    """Whether a folder is a run, or one seed of a run."""
    seed = path.name.startswith("seed_") and (path.parent / "run.toml").is_file()
    return (path / "run.toml").is_file() or seed


def state_of(run: TrainedRun, seed: int) -> str:
    """Return finished, unfinished, diverged, rolled back or failed: how far a seed came."""
    folder = run.dir / f"seed_{seed}"
    if (folder / "diverged.toml").exists():
        return "diverged"
    if str(seed) in (page(run.dir / "result.json").get("rolled_back") or ()):
        return "rolled back"
    if max(folders(folder), default=-1) >= run.run.settings.steps:
        return "finished"
    # A sweep keeps what came of a trial beside its run.
    beside = page(run.dir.with_name(f"{run.dir.name}.json"))
    return "failed" if beside.get("status") == "failed" else "unfinished"


def page(path: Path) -> dict[str, Any]:
    """Return a JSON object of ours; an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""The trials of a sweep, each held against its data before anything runs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from offrl.algorithm import configure
from offrl.algos import get
from offrl.data.dataset import Dataset, load
from offrl.environments import env_for, make_env
from offrl.errors import ConfigError, NotFoundError
from offrl.grid import point_name, product
from offrl.plan import Plan, check_fits, resolve
from offrl.run import SETTINGS
from offrl.sweeps.file import Judging, SweepFile


def outcome_path(run: str | Path) -> Path:
    """Where the outcome of a trial is: beside its run, which may not even have begun."""
    return Path(run).with_name(f"{Path(run).name}.json")


@dataclass(frozen=True)
class Trial:
    """One algorithm with one set of settings on one dataset with one seed."""

    algo: str
    dataset: str  # its id
    seed: int
    point: str  # the settings that vary, "temperature=0.3"; "" where none does
    plan: Plan
    judging: Judging

    @property
    def name(self) -> str:
        """The trial as a person reads it."""
        point = f" ({self.point})" if self.point else ""
        return f"{self.algo}{point} on {self.dataset}, seed {self.seed}"

    @property
    def request(self) -> dict[str, Any]:
        """All that a process somewhere needs to perform the trial, as JSON can carry it."""
        settings = asdict(self.plan.run.settings)
        return {
            "out": str(self.plan.dir.absolute()),
            "algo": settings.pop("algo"),
            "dataset": settings.pop("dataset"),
            "settings": settings,
            "hyperparameters": self.plan.run.config,
            "evaluation": asdict(self.judging),
        }

    @property
    def outcome(self) -> dict[str, Any]:
        """What its own file says; nothing where it has not ended, or is to be judged anew."""
        if not self.plan.resumed:
            return {}  # a file without its run
        try:
            page = json.loads(outcome_path(self.plan.dir).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        fits = isinstance(page, dict) and page.get("evaluation") == asdict(self.judging)
        return page if fits else {}

    @property
    def finished(self) -> bool:
        """Whether it was trained and judged."""
        return self.outcome.get("status") == "finished"


def trials_of(
    file: SweepFile, out: Path, *, skip_absent: bool = False
) -> tuple[list[Trial], list[str]]:
    """Every trial of a sweep, datasets first, seeds last, and notes on what was left out.

    Raises ConfigError for what makes no sense anywhere, also for a trial whose run is there and
    was started with other settings.
    """
    datasets, notes = _datasets(file, skip_absent)
    trials: list[Trial] = []
    for data in datasets:
        _check_environment(file.judging, data)
        fitting: dict[str, Any] = {}  # what is found of the first run on this data
        for algo in file.algos:
            try:
                check_fits(get(algo), data)
            except ConfigError as error:
                notes.append(f"Left out: {error.cause}")
                continue
            fixed, axes = file.axes(algo)
            for point in product(axes):
                trials += _seeds(file, out, algo, data, {**fixed, **point}, point, fitting)
    working = {trial.plan.run.settings.algo for trial in trials}
    if idle := [algo for algo in file.algos if algo not in working]:
        raise ConfigError(
            f"No dataset of the sweep fits {', '.join(idle)}.", "Leave it out, or add data for it."
        )
    return trials, notes


def _datasets(file: SweepFile, skip_absent: bool) -> tuple[list[Dataset], list[str]]:
    found: list[Dataset] = []
    notes: list[str] = []
    drop = "drop-episode" if file.of_a_run.get("allow_nonfinite") else None
    for ref in file.datasets:
        try:
            found.append(
                load(
                    ref,
                    allow_nonfinite=drop,
                    clip_actions=bool(file.of_a_run.get("clip_actions", False)),
                )
            )
        except NotFoundError as error:
            if not skip_absent:
                raise
            notes.append(f"Skipped: {error.cause} {error.remedy}".strip())
    if not found:
        raise ConfigError("None of the sweep's datasets is here.", " ".join(notes))
    ids = [data.id for data in found]
    if len(set(ids)) < len(ids):
        raise ConfigError("Two datasets of the sweep have one id.", "Give one another id.")
    return found, notes


def _check_environment(judging: Judging, data: Dataset) -> None:
    if not judging.episodes:
        return
    if judging.env is not None:
        make_env(judging.env).close()
    elif data.env_id is None:
        raise ConfigError(
            f"{data.id} names no environment to evaluate in.",
            "Name one as env of [evaluation], or set episodes = 0 there.",
        )
    else:
        env_for(data).close()


def _seeds(
    file: SweepFile,
    out: Path,
    algo: str,
    data: Dataset,
    settings: Mapping[str, Any],
    point: Mapping[str, Any],
    fitting: dict[str, Any],
) -> list[Trial]:
    """The trials of one set of settings, one a seed."""
    algorithm = get(algo)
    configure(algorithm.Config, dict(settings), also=SETTINGS)  # named before any folder is
    name = point_name(point)
    parent = out / "runs" / algorithm.name / data.id.strip("/") / (name or "default")
    found: list[Trial] = []
    for seed in file.seeds:
        folder = parent / f"seed={seed}"
        plan = _one(
            folder,
            lambda folder=folder, seed=seed: resolve(
                algo,
                data,
                out=folder,
                resume=True,
                hyperparameters=dict(settings),
                seeds=(seed,),
                **{**file.of_a_run, **fitting},
            ),
        )
        fitting["holdout"] = plan.run.settings.holdout  # of all runs on this data
        found.append(Trial(algorithm.name, data.id, seed, name, plan, file.judging))
    return found


def _one(folder: Path, resolved: Callable[[], Plan]) -> Plan:
    try:
        return resolved()
    except ConfigError as error:
        if not (folder / "run.toml").is_file():
            raise
        raise ConfigError(
            error.cause, "Give the sweep's file its old values back, or name another --out."
        ) from error

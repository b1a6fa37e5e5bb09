"""`sweep`: perform the trials of a file that are not finished, and put all into one table."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl.driving import locked
from offrl.errors import ConfigError
from offrl.sweeps.executor import Executor, LocalProcesses, Report
from offrl.sweeps.file import read_sweep
from offrl.sweeps.table import RESULTS, require_pyarrow, row_of, summary_of, write_table
from offrl.sweeps.trials import Trial, trials_of


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to: a row a trial, as the Parquet file at `table` has them."""

    dir: Path
    table: Path
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rows of trials that did not finish."""
        return [row for row in self.rows if row["status"] != "finished"]

    @property
    def summary(self) -> list[dict[str, Any]]:
        """Means over seeds with 95 % intervals, one a dataset, algorithm and set of settings."""
        return summary_of(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the rows as JSON can carry it; the rows are in the table."""
        named = ("algo", "dataset", "point", "seed", "status", "error", "run")
        return {
            "sweep": str(self.dir),
            "table": str(self.table),
            "trials": len(self.rows),
            "finished": len(self.rows) - len(self.failed),
            "failed": [{name: row[name] for name in named} for row in self.failed],
            "summary": self.summary,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class SweepPlan:
    """The trials of a sweep, decided against their data, and what was left out."""

    dir: Path
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]


def plan_sweep(
    source: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    skip_absent: bool = False,
    code: Sequence[str] = (),
) -> SweepPlan:
    """Decide everything about a sweep; write nothing. Raises ConfigError for what is off."""
    require_pyarrow()
    file = read_sweep(source, code)
    if out is None and isinstance(source, Mapping):
        raise ConfigError("A sweep that is no file has no usual folder.", "Give out='DIR'.")
    folder = Path(out) if out is not None else Path("sweeps") / Path(str(source)).stem
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file.", "Give a folder as --out.")
    trials, notes = trials_of(file, folder, skip_absent=skip_absent)
    return SweepPlan(folder, tuple(trials), tuple(notes))


def sweep(
    source: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    skip_absent: bool = False,
    code: Sequence[str] = (),
    on_report: Callable[[Trial, Report], None] | None = None,
) -> SweepResult:
    """Train and evaluate every trial of a TOML file, or of a mapping like one; `offrl sweep`.

    Called again it goes on: finished trials are kept, broken off ones resume, failed ones are
    tried again. A trial that fails is recorded and raises nothing: look at `failed`. `executor`
    performs the trials, by default `workers` local processes; `skip_absent` leaves out datasets
    that are not here; `code` names again the algorithms of a file that are code of the user.
    Raises ConfigError before anything is written, LockedError where the sweep is running already.
    """
    plan = plan_sweep(source, out=out, skip_absent=skip_absent, code=code)
    return perform_sweep(plan, executor or LocalProcesses(workers), on_report)


def perform_sweep(
    plan: SweepPlan,
    executor: Executor,
    on_report: Callable[[Trial, Report], None] | None = None,
) -> SweepResult:
    """Perform the trials of a plan that are not finished; as `sweep` does."""
    table = plan.dir / RESULTS
    with locked(plan.dir):
        waiting = [trial for trial in plan.trials if not trial.finished]
        ended: dict[Path, Mapping[str, Any]] = {}
        try:
            if waiting:
                requests = [trial.request for trial in waiting]
                with closing(executor.execute(requests)) as reports:
                    for report in reports:
                        trial = waiting[report.number]
                        if report.outcome is not None:
                            ended[trial.plan.dir] = report.outcome
                        if on_report:
                            on_report(trial, report)
        finally:  # also where it is stopped: the table says how far it came
            rows = [row_of(trial, ended.get(trial.plan.dir)) for trial in plan.trials]
            write_table(table, rows)
    return SweepResult(plan.dir, table, tuple(rows), plan.notes)

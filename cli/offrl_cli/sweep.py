"""`offrl sweep`: algorithms x datasets x seeds x settings, one table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offrl.errors import ConfigError
from offrl_cli.commands import command
from offrl_cli.output import Answer, Pairs, Rows, interval, note, number, quoted
from offrl_cli.stopping import going_on
from offrl_cli.values import positive

if TYPE_CHECKING:
    from offrl.sweeps.executor import Report
    from offrl.sweeps.trials import Trial

FILE = "TOML file that says what to try: algos, datasets, seeds, steps, [settings], [evaluation]."
OUT = "Folder of the sweep [default: sweeps/<name of the file>]."
WORKERS = "Processes, each with one thread [default: one a core]."
SKIP = "Leave out datasets that are not here, instead of refusing."
ALGO = "Names again an algorithm of the file that is code of yours, FILE.py:CLASS, so that it runs."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "sweep")
    def sweep(
        file: Annotated[Path, typer.Argument(metavar="FILE.toml", help=FILE)],
        out: Annotated[Path | None, typer.Option(metavar="DIR", help=OUT)] = None,
        workers: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=WORKERS)
        ] = None,
        skip_absent: Annotated[bool, typer.Option("--skip-absent", help=SKIP)] = False,
        algo: Annotated[list[str] | None, typer.Option(metavar="NAME", help=ALGO)] = None,
    ) -> Answer:
        """Train and evaluate many settings; the same command goes on with what is not done.

        Finished trials are kept, broken off ones resume, failed ones are tried again.
        """
        from offrl.sweeps.executor import LocalProcesses
        from offrl.sweeps.run import perform_sweep, plan_sweep

        again = _again(file, out, workers, skip_absent, algo or [])
        plan = plan_sweep(file, out=out, skip_absent=skip_absent, code=algo or [])
        if unused := [name for name in algo or [] if not _named(name, plan.trials)]:
            raise ConfigError(f"{file} has no algorithm {unused[0]}.", "Put it into algos there.")
        for text in plan.notes:
            note(f"note: {text}")
        progress = _Progress(plan.trials)
        with going_on(again):
            found = perform_sweep(plan, LocalProcesses(workers), progress)
        data = found.to_dict()
        if found.failed:
            note(f"{len(found.failed)} of {data['trials']} trials failed:")
        for row in found.failed:
            point = f" ({row['point']})" if row["point"] else ""
            note(f"  {row['algo']}{point} on {row['dataset']}, seed {row['seed']}: {row['error']}")
        pairs = {
            "sweep": data["sweep"],
            "trials": f"{data['finished']} of {data['trials']} finished",
            "table": data["table"],
            "intervals": "over seeds",
        }
        return Answer(
            data,
            [Pairs(pairs), _rows(data["summary"])],
            next=again if found.failed else f"offrl eval {quoted(found.rows[0]['run'])}",
            exit_code=1 if found.failed else 0,
        )


def _named(algo: str, trials: "tuple[Trial, ...]") -> bool:
    return any(trial.plan.run.settings.algo == algo for trial in trials)


def _again(
    file: Path, out: Path | None, workers: int | None, skip_absent: bool, code: list[str]
) -> str:
    words = ["offrl sweep", quoted(file)]
    words += [] if out is None else ["--out", quoted(out)]
    words += [] if workers is None else ["--workers", str(workers)]
    words += ["--skip-absent"] if skip_absent else []
    return " ".join([*words, *(f"--algo {quoted(name)}" for name in code)])


class _Progress:
    """One line for each trial that begins or ends."""

    def __init__(self, trials: "tuple[Trial, ...]") -> None:
        self.trials, self.done = len(trials), sum(trial.finished for trial in trials)
        kept = f", {self.done} of them finished before" if self.done else ""
        note(f"sweep: {self.trials} trials{kept}")

    def __call__(self, trial: "Trial", report: "Report") -> None:
        outcome = report.outcome
        if report.note:
            note(f"{trial.name}: {report.note}")
        elif outcome is None:
            note(f"{trial.name}: begun")
        else:
            self.done += outcome["status"] == "finished"
            note(f"{trial.name}: {_said(outcome)} ({self.done} of {self.trials} finished)")


def _said(outcome: Any) -> str:
    if outcome["status"] != "finished":
        return f"failed: {outcome['error']}"
    if outcome.get("return_mean") is None:
        return f"trained in {outcome['seconds']:.1f} s"
    return f"return {number(outcome['return_mean'])}, trained in {outcome['seconds']:.1f} s"


def _count(finished: int, all_: int) -> str:
    return str(all_) if finished == all_ else f"{finished} of {all_}"


def _rows(summary: list[dict[str, Any]]) -> Rows:
    varied = any(one["point"] for one in summary)
    headings = ["dataset", "algorithm", *(["settings"] if varied else [])]
    rows = [
        [
            one["dataset"],
            one["algo"],
            *([one["point"]] if varied else []),
            _count(one["n_seeds"], one["of_seeds"]),
            number(one["return_mean"]),
            interval(one["return_ci"]),
            number(one["score"]),
        ]
        for one in summary
    ]
    return Rows([*headings, "seeds", "return", "95% interval", "score"], rows)

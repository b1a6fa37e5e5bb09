"""`offrl select`: the best of trained runs by logged episodes that none of them learned from."""

from typing import Annotated, Any

import typer

from offrl.errors import ConfigError
from offrl_cli.commands import command
from offrl_cli.ope import GIVEN, OpeCommand
from offrl_cli.output import Answer, Pairs, Rows, interval, number, quoted
from offrl_cli.progress import Counter
from offrl_cli.stopping import going_on
from offrl_cli.values import one_of, real

RUNS = "Folders of runs, or globs in quotes; RUN is all its seeds."
DATASET = "Minari id, or a path, of the logged episodes."
BY = "Estimator of offrl ope, such as fqe, dr, wdr, wis or pdis."
CHECKPOINTS = "Which checkpoints are candidates: the last of each seed, or all that were saved."
DISCOUNT = "Of every value [default: that of the runs]."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "select", cls=OpeCommand)
    def select(
        context: typer.Context,
        runs: Annotated[list[str], typer.Argument(metavar="RUN", help=RUNS)],
        dataset: Annotated[str | None, typer.Option(metavar="REF", help=DATASET)] = None,
        by: Annotated[str, typer.Option(metavar="ESTIMATOR", help=BY)] = "fqe",
        checkpoints: Annotated[
            str, typer.Option(metavar="last|all", parser=one_of("last", "all"), help=CHECKPOINTS)
        ] = "last",
        discount: Annotated[
            float | None, typer.Option(metavar="X", parser=real, help=DISCOUNT)
        ] = None,
    ) -> Answer:
        """Choose among runs by what they are worth on held-out episodes; nobody acts."""
        words = " ".join(quoted(run) for run in runs)
        if dataset is None:
            raise ConfigError("No dataset is named.", f"offrl select {words} --dataset REF")
        from offrl.selection import select as library_select

        again = f"offrl select {words} --dataset {quoted(dataset)} --by {quoted(by)}"
        with going_on(again), Counter("fitting", "steps") as counter:
            found = library_select(
                runs,
                dataset,
                by=by,
                checkpoints=checkpoints,
                discount=discount,
                progress=counter,
                **context.meta[GIVEN],
            ).to_dict()
        pairs = {
            "chosen": found["chosen"],
            "checkpoint": found["picked"],
            "discount": f"{found['discount']:g}",
            "behavior": number(found["behavior_value"]),
        }
        return Answer(
            found,
            [_rows(found), Pairs(pairs)],
            next=f"offrl eval {quoted(found['chosen'])} --checkpoint selected",
            notes=[f"note: {text}" for text in found["notes"]],
        )


def _rows(found: dict[str, Any]) -> Rows:
    rows: list[tuple[object, ...]] = []
    for one in found["ranking"]:
        seeds = one["seeds"]
        bounds = next(iter(seeds.values()))["ci"] if len(seeds) == 1 else None
        steps = ", ".join(f"{seed}: {at['step']}" for seed, at in seeds.items())
        rows.append((one["run"], number(one["value"]), interval(bounds), len(seeds), steps))
    return Rows((f"run, by {found['by']}", "value", "95% interval", "seeds", "step by seed"), rows)

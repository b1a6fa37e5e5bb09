"""`offrl compare`: whether two groups of runs differ."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from offrl_cli.commands import Command, command
from offrl_cli.output import Answer, Block, Pairs, Rows, interval, number, quoted
from offrl_cli.values import natural, one_of, positive, real

RUNS = "Runs that `offrl eval` has judged: a folder, or a glob in quotes."
SIZE = "The difference that would matter: how many seeds it takes to see it [default: the found]."
REPS = "Resamples of the bootstrap."
SEED = "Seed of the bootstrap."
TABLE = "Print the two sides as a table for a paper, and nothing else."
KINDS = ("csv", "latex", "markdown")


class CompareCommand(Command):
    """`compare`, which knows what other tools call its options."""

    def renamed(self) -> Mapping[str, str]:
        return {
            "--n-bootstrap": "--resamples",
            "--reps": "--resamples",
            "--effect-size": "--difference",
            "--format": "--table",
        }


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "compare", cls=CompareCommand)
    def compare(
        a: Annotated[str, typer.Argument(metavar="RUNS_A", help=RUNS)],
        b: Annotated[str, typer.Argument(metavar="RUNS_B", help=RUNS)],
        difference: Annotated[
            float | None, typer.Option(metavar="X", parser=real, help=SIZE)
        ] = None,
        resamples: Annotated[int, typer.Option(metavar="N", parser=positive, help=REPS)] = 50_000,
        seed: Annotated[int, typer.Option(metavar="S", parser=natural, help=SEED)] = 0,
        table: Annotated[
            str | None,
            typer.Option(metavar="csv|latex|markdown", parser=one_of(*KINDS), help=TABLE),
        ] = None,
    ) -> Answer:
        """Say whether two groups of runs differ, and how many seeds it would take.

        Each side holds one run for each task and seed: 'runs/awr*' 'runs/bc*'.
        """
        from offrl import compare as library_compare
        from offrl.evaluation.tables import as_text

        found = library_compare(a, b, size=difference, reps=resamples, seed=seed).to_dict()
        notes = [f"note: {text}" for text in found["notes"]]
        headings, rows = _rows(found)
        if table is not None:
            lines = as_text(table, headings, rows).splitlines()
            return Answer(found, lines, next="", notes=notes)
        blocks: list[Block] = [Rows(headings, rows)]
        if len(found["tasks"]) > 1:
            blocks.append(_by_task(found))
        return Answer(found, [*blocks, Pairs(_pairs(found))], next=_next(found), notes=notes)


def _rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    measure = found["measure"]
    headings = ["side", "runs", "checkpoint", "seeds", f"mean {measure}", "95% interval"]
    headings += ["IQM", "95% bootstrap", "median"]
    rows: list[list[str]] = []
    for name in "ab":
        side = found[name]
        seeds = "-".join(str(n) for n in sorted(set(side["n_seeds"].values())))
        row = [name.upper(), side["named"], "; ".join(side["picked"]), seeds]
        row += [number(side["mean"]), interval(side["mean_ci"])]
        row += [number(side["iqm"]), interval(side["iqm_ci"]), number(side["median"])]
        rows.append(row)
    return headings, rows


def _by_task(found: dict[str, Any]) -> Rows:
    rows: list[Sequence[object]] = []
    for task in found["tasks"]:
        a, b = (found[name]["by_task"][task] for name in "ab")
        cells = [(number(one["mean"]), interval(one["ci"])) for one in (a, b)]
        rows.append([task, *cells[0], *cells[1]])
    return Rows(["task", "A", "95% interval", "B", "95% interval"], rows)


def _pairs(found: dict[str, Any]) -> dict[str, object]:
    difference = found["difference"]
    how = "paired by seed" if difference["paired"] else f"not paired: {found['not_paired']}"
    pairs: dict[str, object] = {
        "A - B": f"{number(difference['mean'])} {interval(difference['ci'])} ({how})",
        "P(A > B)": f"{number(found['probability_of_improvement'], 2)} "
        f"{interval(found['probability_of_improvement_ci'])}",
        "verdict": _verdict(found),
    }
    for name in "ab":
        if (best := found[name]["best_while_training"]) is not None:
            pairs[f"{name.upper()}, other pick"] = f"{number(best['mean'])} ({best['picked']})"
    return pairs


def _verdict(found: dict[str, Any]) -> str:
    if found["difference"]["ci"] is None:
        return "not told apart: a single seed says nothing about others"
    needed, more = found["seeds_needed"], found["more_seeds"]
    size = number(abs(found["difference"]["mean"] if found["size"] is None else found["size"]))
    power = f"{found['power']:.0%}"
    if found["told_apart"]:
        said = f"{found['better'].upper()} is better"
        if found["size"] is None:
            return said
        return f"{said}; a difference of {size} takes {needed or 'countless'} seeds a side"
    if needed is None:
        return "not told apart, and no number of seeds is known to"
    much = f"{more} more than there are" if more else "no more than there are"
    return (
        f"not told apart; were the true difference {size}, {needed} seeds a side"
        f" would show it with {power} chance: {much}"
    )


def _next(found: dict[str, Any]) -> str:
    run = found["b" if found["better"] == "b" else "a"]["runs"][0]
    if found["more_seeds"] and not found["told_apart"]:
        last = min(max(4, found["seeds_needed"] - 1), 99)
        return f"offrl train --config {quoted(run)}/run.toml --seeds 0-{last}"
    return f"offrl eval {quoted(run)} --episodes 200"

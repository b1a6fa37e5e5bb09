"""`offrl report`: what came of runs, or what a dataset holds, as a page to send to somebody."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from offrl.errors import ConfigError
from offrl_cli.commands import Command, command
from offrl_cli.output import Answer, Block, Pairs, quoted
from offrl_cli.stopping import going_on
from offrl_cli.values import one_of

RUNS = "Runs: folders, or globs in quotes; of a folder that is no run, those below it."
OUT = "The HTML file to write [default: report.html, or card.html of a dataset]."
DATASET = "Make the card of this dataset, in place of a report on runs."
TABLE = "Print the final table for a paper, and nothing else; a page is written where --out asks."
FIGURES = "Write the charts to this folder as PDF and SVG."
OVERWRITE = "Replace files of the same names."
KINDS = ("latex", "csv")

RENAMED = {
    "--output": "--out",
    "-o": "--out",
    "--html": "--out",
    "--format": "--table",
    "--latex": "--table latex",
    "--csv": "--table csv",
    "--plots": "--figures",
    "--data": "--dataset",
    "--run": "offrl report RUN, without an option",
    "--runs": "offrl report RUN RUN, without an option",
    "--force": "--overwrite",
}


class ReportCommand(Command):
    """`report`, which knows what other tools call its options."""

    def renamed(self) -> Mapping[str, str]:
        return RENAMED


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "report", cls=ReportCommand)
    def report(
        runs: Annotated[list[str] | None, typer.Argument(metavar="RUN", help=RUNS)] = None,
        out: Annotated[Path | None, typer.Option(metavar="FILE", help=OUT)] = None,
        dataset: Annotated[str | None, typer.Option(metavar="REF", help=DATASET)] = None,
        table: Annotated[
            str | None, typer.Option(metavar="latex|csv", parser=one_of(*KINDS), help=TABLE)
        ] = None,
        figures: Annotated[Path | None, typer.Option(metavar="DIR", help=FIGURES)] = None,
        overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
    ) -> Answer:
        """Report on runs, or on a dataset, in one HTML file that needs no network."""
        if dataset is not None:
            if runs or table or figures:
                raise ConfigError(
                    "--dataset makes a dataset's card, which has no runs, table or figures.",
                    f"offrl report --dataset {quoted(dataset)} --out card.html",
                )
            return _card(dataset, out or Path("card.html"), overwrite=overwrite)
        if not runs:
            raise ConfigError(
                "No run is named.", "offrl report RUN --out report.html, or --dataset REF"
            )
        words = " ".join(quoted(run) for run in runs)
        with going_on(f"offrl report {words}"):
            return _report(runs, words, out, table, figures, overwrite=overwrite)


def _report(
    runs: list[str],
    words: str,
    out: Path | None,
    table: str | None,
    figures: Path | None,
    *,
    overwrite: bool,
) -> Answer:
    from offrl.evaluation.tables import as_text
    from offrl.report.final import HEADINGS, cells
    from offrl.report.making import make

    wanted = out or (None if table or figures else Path("report.html"))
    found = make(runs, wanted, figures=figures, overwrite=overwrite)
    data: dict[str, Any] = found.to_dict()
    notes = [f"note: {text}" for text in found.notes]
    if table is not None:
        text = as_text(table, HEADINGS, [cells(one) for one in found.finals])
        return Answer({**data, "table": text}, text.splitlines(), next="", notes=notes)
    pairs: dict[str, object] = {
        "runs": len(found.runs),
        "trained seeds": sum(len(arm.seeds) for arm in found.arms),
    }
    if found.path is not None:
        pairs |= {"report": found.path, "megabytes": found.bytes / 1e6}
    if figures is not None:
        pairs["figures"] = f"{len(found.figures)} files in {figures}"
    unjudged = next((one.arm.runs[0].dir for one in found.finals if one.return_mean is None), None)
    following = f"offrl report {words} --table latex"
    if unjudged is not None:
        following = f"offrl eval {quoted(unjudged)} --env ENV"
    blocks: list[Block] = [Pairs(pairs)]
    return Answer(data, blocks, next=following, notes=notes)


def _card(ref: str, out: Path, *, overwrite: bool) -> Answer:
    from offrl import write_card

    with going_on(f"offrl report --dataset {quoted(ref)}"):
        made = write_card(ref, out, overwrite=overwrite)
    pairs = {"dataset": made.summary["dataset"], "report": made.path, "megabytes": made.bytes / 1e6}
    return Answer(made.to_dict(), [Pairs(pairs)], next=f"offrl data check {quoted(ref)}")

"""`offrl references`: what a random and an expert policy return in an environment."""

from typing import Annotated, Any

import typer

from offrl_cli.commands import command
from offrl_cli.output import Answer, Rows, interval, number, quoted

ENV = "An environment's id, or a dataset's."
HEADINGS = ("who says so", "random", "95% interval", "expert", "95% interval", "episodes", "policy")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "references")
    def references(env: Annotated[str, typer.Argument(metavar="ENV", help=ENV)]) -> Answer:
        """Tell random and expert returns of an environment, and by which of them it is scored."""
        from offrl.evaluation.references import tell

        scoring, own = tell(env)
        data: dict[str, Any] = {
            "env": env,
            "scored_by": None if scoring is None else scoring.to_dict(),
            "measured": None if own is None else own.to_dict(),
        }
        rows = [_row(data["scored_by"])] if scoring is not None and scoring.n is None else []
        rows += [] if own is None else [_row(data["measured"])]
        notes = [f"note: {scoring.note}"] if scoring is not None and scoring.note else []
        said = "nothing: no pair is known" if scoring is None else scoring.source
        first = f"{env} is scored by {said}; score = 100 (return - random) / (expert - random)"
        return Answer(
            data,
            [first, Rows(HEADINGS, rows)],
            next=f"offrl collect --env {quoted(env)} --policy random --episodes 100",
            notes=notes,
        )


def _row(found: dict[str, Any]) -> list[object]:
    ends = [(number(found.get(k)), _bounds(found.get(f"{k}_ci"))) for k in ("random", "expert")]
    return [found["source"], *ends[0], *ends[1], found.get("n", "-"), found.get("policy", "-")]


def _bounds(between: list[float] | None) -> str:
    return "-" if between is None else interval(between)

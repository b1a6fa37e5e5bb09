"""`offrl algos`: what there is, and what fits a dataset."""

from typing import Annotated

import typer

from offrl_cli.commands import command
from offrl_cli.output import Answer, Rows, quoted

DATASET = "Say which of them fit this dataset (an id, or a path)."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "algos")
    def algos(
        dataset: Annotated[str | None, typer.Option(metavar="REF", help=DATASET)] = None,
    ) -> Answer:
        """List the algorithms."""
        from offrl import algos as library

        listed = [library.get(name) for name in library.ALGORITHMS]
        found = [{"name": a.name, "summary": a.summary, "actions": list(a.spaces)} for a in listed]
        if dataset is None:
            rows = [(a.name, ", ".join(a.spaces), a.summary) for a in listed]
            blocks = [Rows(("name", "actions", "what it does"), rows)]
            return Answer(
                {"algorithms": found, "dataset": None},
                blocks,
                next="offrl train --algo NAME --help",
            )
        from offrl import load

        data = load(dataset)
        kind = "discrete" if data.spec.discrete else "box"
        for entry in found:
            entry["fits"] = kind in entry["actions"]
        rows = [(e["name"], bool(e["fits"]), e["summary"]) for e in found]
        best = next((str(e["name"]) for e in found if e["fits"]), "NAME")
        return Answer(
            {"algorithms": found, "dataset": data.id},
            [f"{data.id} has {kind} actions", Rows(("name", "fits", "what it does"), rows)],
            next=f"offrl train --algo {best} --dataset {quoted(dataset)}",
        )

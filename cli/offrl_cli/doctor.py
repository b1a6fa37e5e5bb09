"""`offrl doctor`: what this machine offers."""

import typer

from offrl_cli.commands import command
from offrl_cli.output import Answer, Rows


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "doctor")
    def doctor() -> Answer:
        """Look at what this machine offers.

        Versions, devices, C++ compiler, rendering, disk, dataset roots and optional extras.
        """
        from offrl.doctor import examine

        found = examine()
        rows = [(f.topic, f.name, f.level, f.found) for f in found.findings]
        advice = [f"{f.name}: {f.advice}" for f in found.findings if f.advice]
        verdict = "all that offrl needs is here" if found.ok else "something is missing"
        return Answer(
            found.to_dict(),
            [Rows(("topic", "name", "level", "found"), rows), *advice, verdict],
            next="offrl demo",
            exit_code=0 if found.ok else 1,
        )

"""`offrl demo`: the whole way in one command."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import typer

from offrl_cli.commands import command
from offrl_cli.output import Answer, Rows, interval, note, number
from offrl_cli.progress import Counter, Training
from offrl_cli.stopping import going_on

if TYPE_CHECKING:
    from offrl.events import Event


class _Stages:
    """Shows one stage at a time: a line when it begins, its progress while it lasts."""

    def __init__(self) -> None:
        self._display = ExitStack()
        self._shown: Any = None

    def __enter__(self) -> "_Stages":
        return self

    def __exit__(self, *error: object) -> None:
        self._display.close()

    def begin(self, text: str) -> None:
        self._display.close()
        self._shown = None
        note(text)

    def collecting(self, done: int, total: int) -> None:
        if self._shown is None:
            self._shown = self._display.enter_context(Counter("collecting", "episodes"))
        self._shown(done, total)

    def training(self, algorithm: str, event: "Event") -> None:
        from offrl.demo import STEPS

        if self._shown is None:
            self._shown = self._display.enter_context(Training(algorithm, STEPS[algorithm]))
        self._shown(event)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "demo")
    def demo() -> Answer:
        """Collect, check, train and evaluate in one go.

        Collects offrl/pendulum/medium-v0, trains BC and AWR on it, and compares both with the
        behaviour that made the data, over 50 episodes each.
        """
        from offrl.demo import demonstrate

        with going_on("offrl demo"), _Stages() as stages:
            found = demonstrate(
                on_stage=stages.begin, on_event=stages.training, collecting=stages.collecting
            )
        rows = [
            (
                line.name,
                line.return_mean,
                interval(line.return_ci),
                line.episodes,
                line.steps,
                number(line.seconds, 1),
            )
            for line in found.lines
        ]
        headings = ("policy", "mean return", "95% interval", "episodes", "steps", "seconds")
        verdict = (
            "AWR does better than the behaviour it learned from"
            if found.improved
            else "AWR does NOT do better than the behaviour: its interval reaches the mean of that"
        )
        blocks: list[Any] = [
            f"{found.dataset['dataset']}: {found.dataset['episodes']} episodes, "
            f"{found.dataset['steps']} steps, checked",
            Rows(headings, rows),
            f"{verdict}. {found.seconds:.0f} seconds in all.",
            "The same by hand:",
            *(f"  {words}" for words in found.commands),
        ]
        return Answer(
            found.to_dict(),
            blocks,
            next="offrl train --algo awr --dataset offrl/pendulum/medium-v0 --seeds 0-4",
            exit_code=0 if found.improved else 1,
        )

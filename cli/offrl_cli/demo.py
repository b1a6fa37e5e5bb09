"""`offrl demo`: the whole way in one command, with a simulator or from a log alone."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offrl_cli.commands import command
from offrl_cli.ope import DECIDED
from offrl_cli.output import Answer, Block, Pairs, Rows, interval, note, number, quoted
from offrl_cli.progress import Counter, Training
from offrl_cli.stopping import going_on
from offrl_cli.values import one_of

if TYPE_CHECKING:
    from offrl.demo.logs import LogDemo
    from offrl.events import Event

WHICH = "logs: a shop's log, no simulator, and a verdict beside the truth."


class _Stages:
    """Shows one stage at a time: a line when it begins, its progress while it lasts."""

    def __init__(self, steps: Mapping[str, int]) -> None:
        self._steps = steps  # of each algorithm's training
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
        self._counting("collecting", "episodes", done, total)

    def judging(self, done: int, total: int) -> None:
        self._counting("fitting", "steps", done, total)

    def training(self, algorithm: str, event: "Event") -> None:
        if self._shown is None:
            steps = self._steps[algorithm]
            self._shown = self._display.enter_context(Training(algorithm, steps))
        self._shown(event)

    def _counting(self, label: str, unit: str, done: int, total: int) -> None:
        if self._shown is None:
            self._shown = self._display.enter_context(Counter(label, unit))
        self._shown(done, total)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "demo")
    def demo(
        which: Annotated[
            str | None, typer.Argument(metavar="[logs]", parser=one_of("logs"), help=WHICH)
        ] = None,
    ) -> Answer:
        """Collect, check, train and evaluate in one go; or judge from a log alone.

        Collects offrl/pendulum/medium-v0, trains BC and AWR on it, and compares both with the
        behaviour that made the data, over 50 episodes each. `offrl demo logs` writes a shop's log,
        imports, checks, trains and judges, and prints the verdict beside the truth.
        """
        return _pendulum() if which is None else _logs()


def _pendulum() -> Answer:
    from offrl.demo.pendulum import STEPS, demonstrate

    with going_on("offrl demo"), _Stages(STEPS) as stages:
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


def _logs() -> Answer:
    from offrl.demo.logs import ALGORITHM, STEPS, demonstrate_logs

    with going_on("offrl demo logs"), _Stages({ALGORITHM: STEPS}) as stages:
        found = demonstrate_logs(
            on_stage=stages.begin,
            on_event=lambda event: stages.training(ALGORITHM, event),
            judging=stages.judging,
        )
    return log_answer(found)


def log_answer(found: "LogDemo") -> Answer:
    """Return the verdict beside the truth; status 1 where the truth contradicts it."""
    contradicted = found.agrees is False
    shipped = found.decision["verdict"] == "ship"
    return Answer(
        found.to_dict(),
        _log_blocks(found),
        next=f"offrl data show {quoted(found.dataset['dataset'])}",
        exit_code=1 if contradicted else 0 if shipped else DECIDED,
    )


def _log_blocks(found: "LogDemo") -> list[Block]:
    judged, decision, truth = found.judgement["runs"][0], found.decision, found.truth
    value = judged["estimates"].get(decision["estimator"], {"value": None, "lo": None, "hi": None})
    logged = found.judgement["behavior_value"], found.judgement["behavior_ci"]
    rows = [
        ("the shop's own rule", logged, (truth.behavior_value, truth.behavior_ci)),
        ("the trained policy", (value["value"], _bounds(value)), (truth.value, truth.value_ci)),
        ("uplift", (decision["uplift"], _bounds(decision)), (truth.uplift, truth.uplift_ci)),
    ]
    cells = [
        (name, estimate, interval(bounds), true, interval(true_bounds))
        for name, (estimate, bounds), (true, true_bounds) in rows
    ]
    known = f"95% of {truth.customers} customers"
    headings = ("euros a customer", "from the log", "95% interval", "truth", known)
    held = {
        True: "and the truth bears it out",
        False: "and it is WRONG",
        None: "so nothing is decided",
    }
    return [
        f"{found.dataset['dataset']}: {found.dataset['episodes']} customers,"
        f" {found.dataset['steps']} offers, checked; {found.log}",
        Rows(headings, cells),
        Pairs(
            {
                "judged on": f"{judged['episodes']} customers it did not learn from,"
                f" by {decision['estimator'] or 'no estimator'}",
                "discount": f"{found.judgement['discount']:g}",
                "verdict": f"{decision['verdict']} (asked for: {decision['min_uplift']:g}),"
                f" {held[found.agrees]}: the true uplift is {number(truth.uplift)}"
                f" {interval(truth.uplift_ci)}",
                "reason": decision["reason"],
                "if": " ".join(decision["assumptions"]),
            }
        ),
        f"{found.seconds:.0f} seconds in all. The same by hand:",
        *(f"  {words}" for words in found.commands),
    ]


def _bounds(found: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if found.get("lo") is None else (found["lo"], found["hi"])

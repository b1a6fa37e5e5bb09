"""Progress on standard error: a live line where it is a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from offrl_cli.output import clean, console, interval, is_terminal, note, number

if TYPE_CHECKING:
    from offrl.events import Event

PLAIN_SECONDS = 10.0  # between two lines where nothing can be redrawn
SHOWN_METRICS = 3


class Counter:
    """Counts episodes or steps towards a total that may be unknown."""

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self.live = is_terminal(sys.stderr)
        self.started = self.printed = time.monotonic()
        self.done = self.total = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Counter":
        if self.live:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn(self.unit, markup=False),
                TimeRemainingColumn(),
                console=console(sys.stderr),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(clean(self.label), total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None and self.done:
            seconds = time.monotonic() - self.started
            unit = self.unit.removesuffix("s") if self.done == 1 else self.unit
            note(f"{self.label}: {self.done} {unit} in {seconds:.1f} s")

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show that `done` of `total` are done."""
        self.done, self.total = done, total or 0
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() - self.printed >= PLAIN_SECONDS:
            self.printed = time.monotonic()
            note(f"{self.label}: {done}{f' of {total}' if total else ''} {self.unit}")


class Training:
    """Shows training events: one line a seed with steps/s, time left and the main metrics."""

    def __init__(self, label: str, steps: int, env_steps: int | None = None) -> None:
        """`steps` are gradient steps; where it acts, `env_steps` are what it is measured by."""
        self.label, self.steps, self.env_steps = clean(label), steps, env_steps
        self.live = is_terminal(sys.stderr)
        self.printed: dict[str, float] = {}
        self.moved: set[str] = set()  # seeds that took a step in this sitting
        self.started = time.monotonic()
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Training":
        if self.live:
            from rich.progress import (
                BarColumn,
                Progress,
                TaskProgressColumn,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=16),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[rate]} {task.fields[metrics]}", markup=False),
                console=console(sys.stderr),
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: "Event", point: str = "") -> None:
        """Show one event of a training run, the run being one `point` of a grid where named."""
        from offrl.events import Diverged, Evaluated, Finished, RolledBack, Started, Trained, Warned

        who = f"{point} seed {event.seed}".strip()
        if isinstance(event, Started):
            for text in event.notes:
                self._line(f"note: {text}")
            if event.step == self.steps:
                self._line(f"{who} has taken its {event.step} steps already")
            elif event.step:
                self._line(f"{who} goes on from step {event.step}")
        elif isinstance(event, Trained):
            self._trained(event, who)
            self.moved.add(who)
        elif isinstance(event, Evaluated):
            mean = number(event.evaluation["return_mean"])
            bounds = interval(event.evaluation["return_ci"])
            lived = event.evaluation.get("env_step")
            at = f"step {event.step}" if lived is None else f"env_step {lived}"
            self._line(f"{who}, {at}: return {mean} {bounds}")
        elif isinstance(event, Warned):
            self._line(f"{point} warning: {event.message}".strip())
        elif isinstance(event, Diverged | RolledBack):
            self._line(f"{who} stopped at step {event.step}: {event.message}")
        elif isinstance(event, Finished):
            if who in self.moved:
                rate = event.step / max(event.seconds, 1e-9)
                done = f"{event.step} steps in {event.seconds:.1f} s"
                self._line(f"{who}: {done}, {rate:.0f} steps/s")
            for text in event.remarks:
                self._line(f"{who}: {text}")

    def _trained(self, event: Any, who: str) -> None:
        if self.env_steps is None:
            unit, done, total = "step", event.step, self.steps
        else:
            unit, done, total = "env_step", int(event.metrics["env_step"]), self.env_steps
        rate = f"{event.steps_per_second:.0f} {unit}s/s"
        metrics = main_metrics(event.metrics)
        if self._bar is not None:
            if who not in self._tasks:
                self._tasks[who] = self._bar.add_task(
                    f"{self.label} {clean(who)}", total=total, rate="", metrics=""
                )
            self._bar.update(self._tasks[who], completed=done, rate=rate, metrics=metrics)
            return
        now = time.monotonic()
        if now - self.printed.get(who, self.started) >= PLAIN_SECONDS:
            self.printed[who] = now
            left = (total - done) / max(event.steps_per_second, 1e-9)
            self._line(
                f"{self.label} {who}: {unit} {done} of {total}, {rate}, "
                f"{left:.0f} s left, {metrics}"
            )

    def _line(self, text: str) -> None:
        if self._bar is None:
            note(text)
        else:
            self._bar.console.print(clean(text), markup=False, highlight=False)


def main_metrics(metrics: Mapping[str, float]) -> str:
    """Return the first losses, else the first metrics, as short text."""
    names = [name for name in metrics if name.endswith("/loss")] or list(metrics)
    return " ".join(f"{name} {metrics[name]:.4g}" for name in names[:SHOWN_METRICS])

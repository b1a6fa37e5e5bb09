"""The best checkpoint of a seed so far, by a criterion on held-out episodes (`--select`).

    checkpoints/step_00000800         saved by the clock; the run can go on from it
               /selected_00000700     the best up to step 800; "selected" until a better one comes
               /selected_00000850     better still, and beyond what a resumed run would know

A run that is resumed goes back to a step saved by the clock, and with it to the best up to there:
that one is kept until the clock has passed its successor, so that killed and resumed the run ends
with the same bytes. The first of equals stays.
"""

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl import checkpoint as checkpoints
from offrl.algorithm import Algorithm
from offrl.checkpoint import SELECTED
from offrl.errors import CorruptDataError
from offrl.learner import State
from offrl.logs import read_metrics


@dataclass
class Keeper:
    """Keeps the best state of one seed; `metric` is None where nothing is selected."""

    folder: Path  # of the seed
    metric: str | None
    highest: bool
    best: float | None = None
    saved: int = -1  # the newest step saved by the clock

    @classmethod
    def of(cls, algorithm: type[Algorithm[Any]], select: str | None, folder: Path) -> "Keeper":
        """The keeper of a seed for the setting `select`."""
        if select is None:
            return cls(folder, None, False)
        return cls(folder, f"holdout/{select}", (select, "highest") in algorithm.criteria)

    def go_back(self, step: int) -> None:
        """Forget what came after `step`, which the run goes on from.

        Warns where the best up to there is lost, which takes a damaged checkpoint.
        """
        self.saved, self.best = step, None
        if self.metric is None:
            return
        kept = checkpoints.folders(self.folder, SELECTED)
        for number in [number for number in kept if number > step]:
            shutil.rmtree(kept.pop(number))
        seen = any(self.metric in row for _, row in read_metrics(self.folder / "metrics.csv", step))
        fault = f"The best checkpoint up to step {step} of {self.folder} is gone."
        try:
            if kept:
                self.best = float(checkpoints.read(kept[max(kept)]).page["selected"]["value"])
                return
        except CorruptDataError as error:
            fault = error.cause
            shutil.rmtree(kept[max(kept)])
        if seen:
            warnings.warn(f"{fault} Selecting among later steps.", stacklevel=2)

    def see(
        self, step: int, metrics: Mapping[str, float], state: State, page: dict[str, Any]
    ) -> None:
        """Save `state` where the criterion is better than ever before; NaN never is."""
        if self.metric is None:
            return
        value = metrics[self.metric]
        better = value == value and (
            self.best is None or (value > self.best if self.highest else value < self.best)
        )
        if not better:
            return
        self.best = value
        told = {"criterion": self.metric, "value": value, "highest": self.highest}
        checkpoints.save(self.folder, step, {"state": state}, page | {"selected": told}, SELECTED)
        self._tidy()

    def clock(self, step: int) -> None:
        """Take note that the run can go on from `step`."""
        self.saved = step
        if self.metric is not None:
            self._tidy()

    def _tidy(self) -> None:
        """Leave the best up to the step saved by the clock, and the newest."""
        kept = checkpoints.folders(self.folder, SELECTED)
        known = [number for number in kept if number <= self.saved]
        needed = {max(known, default=None), max(kept, default=None)}
        for number in kept.keys() - needed:
            shutil.rmtree(kept[number])


def selected(folder: Path) -> dict[str, Any] | None:
    """Step, criterion and value of the best checkpoint of a seed; None where none is kept."""
    kept = checkpoints.folders(folder, SELECTED)
    if not kept:
        return None
    step = max(kept)
    return {"step": step, **checkpoints.read(kept[step]).page["selected"]}

"""The floor: a return below which a policy may not fall while it acts.

An evaluation decides, by the mean return of its episodes, which are the same ones every time.
Between two of them the episodes that are lived are watched: where the mean of the newest
`window` of them, the warm-up's aside, is below the floor, an evaluation comes at once. Lived
episodes hold exploration, so that they ask and do not decide.

    evaluation   -150    -140         -900          the floor is at -300
    best         -150    -140         -140
                                      stop; the state behind -140 is the policy again
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from offrl.checkpoint import restore
from offrl.learner import Progress, State


class Tried(NamedTuple):
    """One evaluation: the gradient step and env_step it was at, and its mean return."""

    step: int
    env_step: int
    mean: float


@dataclass
class Floor:
    """The evaluations of one seed, held against a level; -infinity holds nothing."""

    level: float
    window: int
    warmup: int = 0  # env_steps whose actions are not the policy's
    recent: list[float] = field(default_factory=list[float])  # lived since the last evaluation
    best: Tried | None = None
    state: State | None = None  # the learner's at the best evaluation
    fell: Tried | None = None  # the evaluation that was below the level

    def lived(self, returns: list[float], env_step: int) -> None:
        """Count episodes that the policy lived."""
        if self._watches and env_step >= self.warmup:
            self.recent = [*self.recent, *returns][-self.window :]

    @property
    def alarmed(self) -> bool:
        """Whether the newest episodes ask for an evaluation."""
        full = self._watches and len(self.recent) == self.window
        return full and sum(self.recent) / self.window < self.level

    def judge(self, now: Progress, env_step: int, mean: float) -> None:
        """Hold an evaluation of `now` against the level, and keep the state of the best."""
        if not self._watches:
            return
        self.recent = []
        found = Tried(now.step, env_step, mean)
        if self.best is None or mean > self.best.mean:
            self.best, self.state = found, _copy(now.state)
        if not mean >= self.level:
            self.fell = found

    def sentence(self) -> str:
        """What happened, for a person."""
        if self.fell is None or self.best is None:
            raise ValueError("the policy did not fall")
        said = f"returned {self.fell.mean:.5g} at env_step {self.fell.env_step}, below the floor"
        if self.best == self.fell:
            return f"The policy {said} of {self.level:g}; none before did better."
        return (
            f"The policy {said} of {self.level:g}; the one of env_step {self.best.env_step}, which"
            f" returned {self.best.mean:.5g}, is back."
        )

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint keeps in tensors."""
        return {} if self.state is None else {"best": self.state}

    def page(self) -> dict[str, Any]:
        """What its page keeps."""
        if not self._watches:
            return {}
        tried = {"best": self.best, "fell": self.fell}
        told = {k: list(one) for k, one in tried.items() if one is not None}
        return {"floor": {"recent": self.recent, **told}}

    def restore(
        self, template: State, tensors: Mapping[str, Tensor], page: Mapping[str, Any]
    ) -> None:
        """Take back what `tensors` and `page` gave."""
        kept = page.get("floor")
        if kept is None:
            return
        self.recent = list(kept["recent"])
        self.best = Tried(*kept["best"])
        self.fell = Tried(*kept["fell"]) if "fell" in kept else None
        self.state = restore({"best": template}, dict(tensors))["best"]

    @property
    def _watches(self) -> bool:
        return self.level > -math.inf


def _copy(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.clone()
    return {key: _copy(value) for key, value in tree.items()}

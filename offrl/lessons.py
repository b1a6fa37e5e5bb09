"""What an algorithm adds to learn from rollouts of its own policy, beside learning from a log.

    rollout   phase     phase     ...   phase   | rollout ...
              columns   columns         columns       computed anew, from the networks of the moment
              reflect   reflect         reflect

The phases after a rollout are its lesson. Fresh rows have the log-probabilities with which their
actions were drawn; logged rows that are mixed in keep their own, and their own advantages.
"""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor

from offrl.algorithm import Algorithm, AlgorithmConfig
from offrl.batch import Batch, Table
from offrl.learner import Learner

A = TypeVar("A", bound=AlgorithmConfig)


class Phase(NamedTuple):
    """Gradient steps of one stage on minibatches of a rollout."""

    stage: str
    steps: int
    mixed: bool = False  # whether logged rows may be part of its batches


class RolloutAlgorithm(Algorithm[A]):
    """An algorithm that learns from rollouts while it acts."""

    of_log: ClassVar[tuple[str, ...]] = ()  # settings that acting does not use
    online: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # settings that are others there

    @abstractmethod
    def lesson(self, minibatches: int, epochs: int) -> list[Phase]:
        """What follows a rollout that has so many minibatches: a pure function of these numbers."""

    @abstractmethod
    def fresh_columns(self, learner: Learner, table: Table) -> dict[str, Tensor]:
        """Columns [N] of what was lived; an episode that goes on is cut as by a time limit."""

    @abstractmethod
    def logged_columns(self, learner: Learner, table: Table) -> dict[str, Tensor]:
        """Columns [N] of logged rows, from the networks that their own run ended with."""

    def reflect(self, learner: Learner, rollout: Batch, stage: str) -> Learner:
        """What happens to the state before a phase, given all rows that it is about."""
        return learner

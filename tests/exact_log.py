"""Logs that hold every transition of a finite MDP as often as it happens, and runs over all of it.

A table is a network without hidden layers on one-hot observations; a batch is the whole log. What
an algorithm then converges to has no sampling error, and `offrl.tabular` knows it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from offrl.algorithm import Algorithm, configure, start
from offrl.algos import get
from offrl.batch import Table
from offrl.data.dataset import Dataset
from offrl.learner import Learner, Nets, Progress, State, steps
from offrl.sampler import Sampler
from offrl.tabular import MDP

# No hidden layers and no scaling of observations: one free number a state and action.
AS_A_TABLE: dict[str, Any] = {"hidden_layers": 0, "normalize_obs": False, "discount": 0.9}


def exact_log(
    mdp: MDP, mu: np.ndarray, parts: int, levels: Sequence[float] | None = None
) -> Dataset:
    """Each (s, a, s') as often as `parts` times its probability given s, each an episode by itself.

    Every count must be a whole number. The log of mu is logged, and no episode terminates. With
    `levels`, action k of the MDP is the real number levels[k], from -1 to 1.
    """
    counts = parts * mu[:, :, None] * mdp.transition
    whole = counts.round().astype(int)
    assert np.allclose(counts, whole, atol=1e-9), "choose `parts` so that every count is whole"
    triples = np.argwhere(whole > 0)
    state, action, then = np.repeat(triples, whole[whole > 0], axis=0).T
    sight = np.eye(mdp.states, dtype=np.float32)
    taken = action if levels is None else np.asarray(levels, np.float32)[action][:, None]
    space = gym.spaces.Discrete(mdp.actions)
    return Dataset.from_arrays(
        sight[state],
        taken,
        mdp.reward[state, action],
        np.zeros(len(state), bool),
        np.ones(len(state), bool),
        next_obs=sight[then],
        action_space=space if levels is None else gym.spaces.Box(-1, 1, (1,), np.float32),
        behavior_log_prob=np.log(mu[state, action]),
    )


@dataclass(frozen=True)
class Whole(Sampler):
    """A sampler whose every batch is all of the log."""

    given: dict[str, Tensor] = field(default_factory=dict)  # columns in place of the algorithm's

    def index(self, step: int) -> Tensor:
        """Every row, once."""
        return torch.arange(len(self.table))

    def with_columns(self, columns: dict[str, Tensor]) -> "Whole":
        """Itself over what the algorithm computed, but for the columns that the test gives."""
        return replace(self, columns={**columns, **self.given})


class Settled:
    """An algorithm after it has converged on a whole log, and its networks as tables."""

    def __init__(
        self,
        algo: str,
        data: Dataset,
        stages: Sequence[tuple[int, float]],
        given: dict[str, Tensor] | None = None,
        policy: nn.Module | None = None,
        held: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        """`stages` holds pairs of gradient steps and learning rate, taken one after the other.

        `policy` is the one that an algorithm judges.
        Columns that are `given` replace the algorithm's own; networks that are `held` do not move.
        """
        kind: type[Algorithm[Any]] = get(algo)
        config = configure(kind.Config, {**AS_A_TABLE, **settings})
        self.algorithm = kind(config, data.spec, *([] if policy is None else [policy]))
        self.table = Table.of(data.transitions, dtype=torch.float64)
        modules, state = start(self.algorithm, self.table, 0)
        draws = self.algorithm.draws()
        sampler = Whole(self.table, 0, len(self.table), draws=draws, given=given or {})
        now = Progress(0, state, state, {})
        for n, rate in stages:
            begin = now._replace(state=at_rate(now.state, rate, held))
            taken = steps(self.algorithm, modules, sampler, begin, begin.step + n)
            now = deque(taken, maxlen=1)[0]
        self.modules, self.state, self.metrics = modules, now.state, now.metrics

    @property
    def nets(self) -> Nets:
        """The networks as they ended."""
        return Learner(self.modules, self.state).nets

    @property
    def sight(self) -> Tensor:
        """Each state once, [S, S]."""
        return torch.eye(self.table.observations.shape[1], dtype=torch.float64)

    def policy(self) -> np.ndarray:
        """[S, A] probabilities."""
        return self.nets.policy(self.sight).log_probs.exp().detach().numpy()


def at_rate(state: State, rate: float, held: Sequence[str]) -> State:
    """The state with every network's learning rate set to `rate`, or to 0."""
    moments = {
        name: {**adam, "lr": torch.full_like(adam["lr"], 0 if name in held else rate)}
        for name, adam in state["adam"].items()
    }
    return {**state, "adam": moments}


def per_row(table: Table, array: np.ndarray) -> Tensor:
    """A column [N] of an array [S, A], looked up at each row's state and action."""
    state = table.observations[table.obs_row].argmax(-1)
    return torch.as_tensor(array)[state, table.action]

"""Fitting a model to some of the judged episodes, to ask it about the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from offrl.algorithm import Algorithm, start
from offrl.batch import Batch, Table
from offrl.data.transitions import Transitions
from offrl.learner import Learner, Nets, Progress, State, make_update, steps
from offrl.sampler import Sampler, mix

Numbers = npt.NDArray[np.int64]
Counting = Callable[[int], None]  # told of gradient steps that were taken
TOLD = 100  # gradient steps between two


def fit_model(
    algorithm: Algorithm[Any], table: Table, seed: int, n_steps: int, counting: Counting
) -> Nets:
    """The networks after `n_steps` gradient steps.

    Raises NumericsError where a loss stops being finite.
    """
    modules, state = start(algorithm, table, seed)
    rows, draws = algorithm.rows(table), algorithm.draws()
    sampler = Sampler(table, seed, algorithm.config.batch_size, rows, draws)
    begin = now = Progress(0, state, state, {})
    for now in steps(algorithm, modules, sampler, begin, n_steps):
        if now.step % TOLD == 0:
            counting(TOLD)
    counting(n_steps % TOLD)
    return algorithm.turn(Learner(modules, now.state), table, n_steps).nets


@dataclass(frozen=True)
class Member:
    """One of the models that were fitted together."""

    nets: Nets
    before: Nets  # a quarter of the steps earlier
    finite: bool  # its losses were, throughout
    metrics: dict[str, float]  # means over the last quarter


def fit_together(
    algorithm: Algorithm[Any],
    table: Table,
    rows: Sequence[Tensor],
    seeds: Sequence[int],
    n_steps: int,
    counting: Counting,
    vectorised: bool = True,
) -> list[Member]:
    """One model for each seed, each from its own rows [K] of the table, all in one update.

    Only for algorithms whose state takes no turns of its own after the first step. Not
    `vectorised`: one after the other in each step, for networks that torch cannot vectorise.
    """
    modules, states = {}, list[State]()
    for seed in seeds:
        modules, state = start(algorithm, table, seed)
        states.append(algorithm.turn(Learner(modules, state), table, 0).state)
    draws, size = algorithm.draws(), algorithm.config.batch_size
    samplers = [Sampler(table, s, size, r, draws) for s, r in zip(seeds, rows, strict=True)]
    update = make_update(algorithm, modules)
    state, before = tree_map(_stacked, *states), None
    finite, sums, late = torch.ones(len(seeds), dtype=torch.bool), dict[str, Tensor](), 0
    for step in range(n_steps):
        if step == (3 * n_steps) // 4:
            before = state
        batch = tree_map(_stacked, *(sampler[step] for sampler in samplers))

        def one(state: State, batch: Batch, stage: str = algorithm.stage(step)) -> Any:
            return update(state, batch, stage)

        state, metrics = (vmap(one) if vectorised else _in_turn(one))(state, batch)
        for name, value in metrics.items():
            if name.endswith("/loss"):
                finite &= value.isfinite()
            if before is not None:
                sums[name] = sums.get(name, torch.zeros(len(seeds))) + value
        late += before is not None
        if (step + 1) % TOLD == 0:
            counting(TOLD * len(seeds))
    counting(n_steps % TOLD * len(seeds))
    return [
        Member(
            Learner(modules, tree_map(lambda x, k=k: x[k], state)).nets,
            Learner(modules, tree_map(lambda x, k=k: x[k], before)).nets,
            bool(finite[k]),
            {name: float(total[k]) / late for name, total in sums.items()},
        )
        for k in range(len(seeds))
    ]


def _in_turn(update: Callable[[State, Batch], Any]) -> Callable[[State, Batch], Any]:
    def all_of_them(state: State, batch: Batch) -> Any:
        found = [
            update(tree_map(lambda x, k=k: x[k], state), tree_map(lambda x, k=k: x[k], batch))
            for k in range(len(batch.obs))
        ]
        return tree_map(_stacked, *found)

    return all_of_them


def _stacked(*tensors: Tensor) -> Tensor:
    return torch.stack(tensors)


def folds_of(episodes: int, folds: int, seed: int) -> list[Numbers]:
    """The episodes of each fold, sizes apart by one at most; never more folds than episodes."""
    order = np.random.default_rng([seed, 1]).permutation(episodes)
    return [np.sort(part) for part in np.array_split(order, min(folds, episodes))]


def without(part: Numbers, episodes: int) -> Numbers:
    """The other episodes."""
    return np.setdiff1d(np.arange(episodes), part)


def resample(chosen: Numbers, *words: int) -> Numbers:
    """As many of the `chosen` episodes, with replacement: a function of the words of a seed."""
    return np.sort(np.random.default_rng([*words, 2]).choice(chosen, len(chosen)))


def seed_of(*words: int) -> int:
    """One seed made of several numbers."""
    return mix(*words) >> 1


def rows_of(transitions: Transitions, episodes: Numbers) -> Numbers:
    """The rows of the steps of some episodes, in order."""
    starts: list[int] = transitions.starts.tolist()
    return np.concatenate([np.arange(starts[e], starts[e + 1]) for e in episodes.tolist()])


def observation_rows(transitions: Transitions, episodes: Numbers) -> Numbers:
    """The rows of `observations` of some episodes, final ones too."""
    starts: list[int] = transitions.starts.tolist()
    spans = [(starts[e] + e, starts[e + 1] + e + 1) for e in episodes.tolist()]
    return np.concatenate([np.arange(first, stop) for first, stop in spans])


def tensor(array: np.ndarray) -> Tensor:
    """An array as a tensor, copied where it is mapped from a file."""
    return torch.as_tensor(np.array(array))

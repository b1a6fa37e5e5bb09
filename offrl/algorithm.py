"""What an algorithm is: a configuration, networks, and a pure update.

An algorithm is one file: equations, configuration, losses, `update`. Everything around it (batches,
seeds, compilation, checkpoints, flags) is derived from what the class declares.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from offrl.batch import Batch, Table
from offrl.configuration import (
    TRACED,
    AlgorithmConfig,
    Configuration,
    Field,
    Peers,
    configure,
    fields_of,
    traced_settings,
    unknown_setting,
)
from offrl.data.spec import Spec
from offrl.learner import Learner, Metrics, Nets, State, initial_state
from offrl.losses import discounted_sums
from offrl.nn import fit_statistics, set_precision
from offrl.sampler import mix

# The file of an algorithm needs settings too, and finds all it declares itself with in one place.
__all__ = [
    "TRACED",
    "Algorithm",
    "AlgorithmConfig",
    "Configuration",
    "Field",
    "Peers",
    "begin",
    "configure",
    "constant_features",
    "fields_of",
    "start",
    "statistics",
    "unknown_setting",
]

A = TypeVar("A", bound=AlgorithmConfig)


class Algorithm(ABC, Generic[A]):
    """Losses over named networks. `Config`, `networks` and `update`: no more than that is required.

    Subclasses are final and inherit nothing from another algorithm. What surrounds the losses of a
    family may be an abstract class between, as `critics.Delayed` is, which holds no loss itself.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    spaces: ClassVar[tuple[str, ...]] = ("box", "discrete")  # the action spaces it learns on
    targets: tuple[str, ...] = ()  # networks that have a slow copy, target_<name>
    reports: ClassVar[tuple[str, ...]] = ()  # metrics whose last values result.json keeps
    # What a checkpoint may be selected by: the name of a `holdout/` metric, and which end is best.
    criteria: ClassVar[tuple[tuple[str, Literal["lowest", "highest"]], ...]] = ()
    # What it learns from while it acts: single transitions of a "replay" memory, the newest
    # "rollout", or "recent" ones (offrl/lessons.py); "" where it does not act.
    acts: ClassVar[str] = ""
    # Columns that need a whole episode -> what they hold for a row that was lived in one that is
    # still running. `columns` gives them, from the episode or the log alone: no network may matter.
    lived: ClassVar[Mapping[str, float]] = {}
    judges: ClassVar[bool] = False  # it is given a policy, and judges it: no step moves "policy"
    Config: ClassVar[type[AlgorithmConfig]]

    def __init__(self, config: A, spec: Spec, policy: nn.Module | None = None) -> None:
        """`policy` is the one to judge; an algorithm that judges has a setting `policy` too, which
        names the run that it is taken from."""
        self.config, self.spec, self.policy = config, spec, policy

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Freshly initialised networks by name; "policy" is the one that acts."""

    @abstractmethod
    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        """One gradient step: a pure function, the same for eager, compiled and vmapped runs."""

    def rates(self) -> dict[str, float]:
        """Learning rates of the networks that do not have `lr`."""
        return {}

    def scalars(self) -> dict[str, float]:
        """Running numbers of the algorithm's own: name -> what they start at.

        They live in the state beside the traced settings; `learner.note(name=...)` sets one.
        """
        return {}

    def facts(self, table: Table) -> dict[str, str]:
        """What a reader of the results must know of how this data was used; for result.json."""
        return {}

    def remarks(self, learner: Learner) -> tuple[str, ...]:
        """What happened to a trained seed, a sentence each; for the output and result.json."""
        return ()

    def warnings(self, learner: Learner) -> tuple[str, ...]:
        """What is wrong with a trained seed, a sentence each; for the output and result.json."""
        return ()

    def least_steps(self) -> int:
        """The fewest steps after which the policy has learned anything."""
        return 1

    def shortened(self, steps: int) -> A:
        """The settings made to fit a run of fewer than `least_steps`, where they can be."""
        return self.config

    def rows(self, table: Table) -> Tensor | None:
        """The row numbers that may be drawn; None means all."""
        return None

    def draws(self) -> dict[str, tuple[int, ...]]:
        """Standard normal draws that an update needs: name -> shape for one row of the batch."""
        return {}

    def stage(self, step: int) -> str:
        """The variant of the update that this step takes; each is compiled once."""
        return "update"

    def refreshes(self, step: int) -> bool:
        """Whether the algorithm takes a `turn` and computes `columns` anew before this step.

        A pure function of step.
        """
        return False

    def turn(self, learner: Learner, table: Table, step: int) -> Learner:
        """What happens to the state before `columns` are computed, such as handing over networks.

        A pure function of its arguments: resuming at `step` takes the turn again.
        """
        return learner

    def columns(self, learner: Learner, table: Table, step: int) -> dict[str, Tensor]:
        """Columns [N] over all transitions, computed from the state at `step`."""
        return {}

    def findings(self, nets: Nets, table: Table) -> Metrics:
        """What the networks say of all the data, logged with the metrics of the losses."""
        return {}

    def holdout(self, nets: Nets, batch: Batch) -> Metrics:
        """What the losses say about episodes that no loss has seen."""
        return {}


def start(
    algorithm: Algorithm[Any], table: Table, seed: int, precision: str = "fp32"
) -> tuple[dict[str, nn.Module], State]:
    """Modules and the initial state of one seed, with statistics of `table` in the buffers."""
    found = statistics(table, algorithm.config)
    return begin(algorithm, found, table.observations, seed, precision)


def begin(
    algorithm: Algorithm[Any],
    statistics: dict[str, Tensor],
    like: Tensor,
    seed: int,
    precision: str = "fp32",
) -> tuple[dict[str, nn.Module], State]:
    """Modules and the initial state of one seed, on the device and of the type of `like`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, 0, 2))
        modules = algorithm.networks()
    modules = {name: m.to(like.device, like.dtype) for name, m in modules.items()}
    # A policy that is judged keeps the statistics of the data that it learned from.
    learning = [name for name in modules if not (algorithm.judges and name == "policy")]
    set_precision([modules[name] for name in learning], precision)
    fit_statistics([modules[name] for name in learning], statistics)
    rates = {name: float(algorithm.config.lr) for name in learning} | algorithm.rates()
    scalars = traced_settings(algorithm.config) | algorithm.scalars()
    return modules, initial_state(modules, algorithm.targets, rates, scalars)


def statistics(table: Table, config: AlgorithmConfig) -> dict[str, Tensor]:
    """Means, spreads and bounds of the training data, each under the name of its buffer.

    A constant observation feature is centred and not scaled. An action dimension without bounds
    takes the smallest and largest action of the data. Sums are taken in float64 on the CPU, which
    every machine has.
    """
    found: dict[str, Tensor] = {}
    if config.normalize_obs:
        mean, std = table.spread
        constant = _constant(mean, std)
        found |= {"obs_mean": mean, "obs_std": torch.where(constant, torch.ones_like(std), std)}
    if not table.spec.discrete:
        low, high = (torch.as_tensor(b) for b in (table.spec.action_low, table.spec.action_high))
        low, high = low.to(table.action), high.to(table.action)
        low = torch.where(low.isfinite(), low, table.action.amin(0))
        high = torch.where(high.isfinite(), high, table.action.amax(0))
        least = 1e-6 * low.abs().clamp(min=1)  # of a range, so that no spread is 0
        found |= {"action_low": low, "action_high": torch.maximum(high, low + least)}
    carry = config.discount * (~table.last.cpu()).double()
    returns = discounted_sums(table.reward.cpu().double(), carry)
    spread = returns.std(correction=0)
    found["return_mean"] = returns.mean()
    found["return_std"] = torch.where(spread > 1e-8, spread, torch.ones_like(spread))
    return found


def constant_features(table: Table) -> list[int]:
    """Numbers of the observation features that never change in the training data."""
    return torch.nonzero(_constant(*table.spread)).flatten().tolist()


def _constant(mean: Tensor, std: Tensor) -> Tensor:
    # Relative, so that a feature in small units counts; what is less, float32 cannot tell apart.
    return std <= 1e-6 * mean.abs() + 1e-30

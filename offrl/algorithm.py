"""What an algorithm is: a configuration, networks, and a pure update.

An algorithm is one file: equations, configuration, losses, `update`. Everything around it (batches,
seeds, compilation, checkpoints, flags) is derived from what the class declares.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from inspect import get_annotations
from types import UnionType
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args, get_origin
from typing import get_type_hints as type_hints

import torch
from torch import Tensor, nn

from offrl.batch import Batch, Table
from offrl.data.spec import Spec
from offrl.errors import ConfigError, suggest
from offrl.learner import Learner, Metrics, Nets, State, initial_state
from offrl.losses import discounted_sums
from offrl.nn import fit_statistics, set_precision
from offrl.sampler import mix


@dataclass(frozen=True)
class Peers:
    """Other toolkits' names of a field, and how their number converts to ours."""

    names: tuple[str, ...]
    conversion: str = ""

    def __init__(self, *names: str, conversion: str = "") -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "conversion", conversion)


class Traced:
    """Marks a float setting that losses read from the state, by `nets.scalar(name)`.

    One compiled update then serves every value of it.
    """


TRACED = Traced()


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Settings, scalars only, so that a field is one flag and one TOML line."""

    def __post_init__(self) -> None:
        for name, (holds, range_) in self.rules().items():
            if not holds:
                raise ConfigError(f"'{name}' must be {range_}, not {getattr(self, name)}.")

    def rules(self) -> dict[str, tuple[bool, str]]:
        """Name -> whether the value may be, and what may be; subclasses add theirs to these."""
        return {}


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig(Configuration):
    """Settings that every algorithm has."""

    discount: Annotated[float, "Weight of the next step's value.", Peers("gamma")] = 0.99
    lr: Annotated[
        float,
        "Adam's learning rate.",
        Peers("learning_rate", "actor_lr", "critic_lr", "policy_lr"),
        TRACED,
    ] = 3e-4
    batch_size: Annotated[int, "Transitions in a gradient step.", Peers("minibatch_size")] = 256
    hidden_size: Annotated[int, "Units of a hidden layer.", Peers("hidden_dim", "width")] = 256
    hidden_layers: Annotated[
        int, "Hidden layers.", Peers("n_hidden", "depth", "layers", "n_layers", "num_layers")
    ] = 2
    normalize_obs: Annotated[
        bool, "Scale observations by the training data's mean and std.", Peers("normalize")
    ] = True

    def rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "discount": (0 <= self.discount <= 1, "from 0 to 1"),
            "lr": (0 < self.lr < float("inf"), "above 0 and finite"),
            "batch_size": (self.batch_size > 0, "at least 1"),
            "hidden_size": (self.hidden_size > 0, "at least 1"),
            "hidden_layers": (self.hidden_layers >= 0, "0 or more"),
        }


@dataclass(frozen=True, kw_only=True)
class CriticConfig(AlgorithmConfig):
    """Settings of every algorithm that learns Q against a slow copy of itself."""

    target_rate: Annotated[
        float,
        "How far a target moves towards its network when it moves; 1 copies.",
        Peers("tau", "polyak", "soft_target_tau"),
        TRACED,
    ] = 0.005
    critics: Annotated[
        int, "Q functions, trained side by side.", Peers("n_critics", "num_critics", "ensemble")
    ] = 2
    layer_norm: Annotated[
        bool, "Layer normalisation in the critics.", Peers("critic_ln", "use_layer_norm")
    ] = False

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "target_rate": (0 < self.target_rate <= 1, "above 0 and up to 1"),
            "critics": (self.critics > 0, "at least 1"),
        }


@dataclass(frozen=True, kw_only=True)
class DelayedConfig(CriticConfig):
    """Settings of every algorithm whose deterministic policy follows smoothed critics, delayed.

    Distances of actions are in half ranges of their bounds.
    """

    smoothing: Annotated[
        float,
        "Standard deviation of the noise on target actions.",
        Peers("policy_noise", "target_policy_noise", "target_smoothing_sigma"),
        TRACED,
    ] = 0.2
    smoothing_clip: Annotated[
        float,
        "Largest noise on a target action.",
        Peers("noise_clip", "target_noise_clip", "target_smoothing_clip"),
        TRACED,
    ] = 0.5
    policy_period: Annotated[
        int,
        "Critic steps to one step of the policy and the targets.",
        Peers("policy_freq", "policy_delay", "update_actor_interval"),
    ] = 2

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "smoothing": (self.smoothing >= 0, "0 or more"),
            "smoothing_clip": (self.smoothing_clip >= 0, "0 or more"),
            "policy_period": (self.policy_period > 0, "at least 1"),
        }


@dataclass(frozen=True)
class Field:
    """One setting as the command line and TOML see it."""

    name: str
    type: type
    default: Any
    help: str
    peers: tuple[str, ...] = ()
    conversion: str = ""
    choices: tuple[str, ...] = ()
    traced: bool = False


def fields_of(config: type[Configuration]) -> list[Field]:
    """The settings of a configuration class, in order of declaration, its own before the shared."""
    hints = type_hints(config, include_extras=True)
    found = [_field(f.name, hints[f.name], f.default) for f in fields(config)]
    declared = [get_annotations(base) for base in config.__mro__]
    return sorted(found, key=lambda f: [f.name in names for names in declared].index(True))


def _field(name: str, hint: Any, default: Any) -> Field:
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    kind = str if choices else kind
    if kind not in (int, float, bool, str) or default is MISSING or isinstance(kind, UnionType):
        raise ConfigError(
            f"The setting '{name}' must be a plain int, float, bool, str or Literal with a default."
        )
    peers = next((n for n in notes if isinstance(n, Peers)), Peers())
    text = next((n for n in notes if isinstance(n, str)), "")
    traced = any(isinstance(n, Traced) for n in notes)
    if traced and kind is not float:
        raise ConfigError(f"The setting '{name}' is traced, so it must be a float.")
    return Field(name, kind, default, text, peers.names, peers.conversion, choices, traced)


C = TypeVar("C", bound=Configuration)
A = TypeVar("A", bound=AlgorithmConfig)


def configure(config: type[C], settings: dict[str, Any], also: Iterable[str] = ()) -> C:
    """A configuration from names and values, as flags or TOML give them.

    Raises ConfigError naming the setting: unknown (with ours for a peer's name) or mistyped.
    """
    known = {f.name: f for f in fields_of(config)}
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"There is no setting '{name}'.", unknown_setting(name, config, also))
        values[name] = _convert(known[name], value)
    return config(**values)


def unknown_setting(name: str, config: type[Configuration], also: Iterable[str] = ()) -> str:
    """What to type instead of `name`: our name of a peer's setting, or the nearest of ours.

    `also` names settings that are set beside the algorithm's own.
    """
    found = fields_of(config)
    plain = name.replace("-", "_").lower()
    for field in found:
        if plain in field.peers:
            note = f" ({field.conversion})" if field.conversion else ""
            return f"Here it is called '{field.name}'{note}."
    near = suggest(plain, [*(f.name for f in found), *also, *(p for f in found for p in f.peers)])
    for field in found:  # a misspelt peer's name is answered with ours
        if any(near == f" Did you mean '{peer}'?" for peer in field.peers):
            near = f" Did you mean '{field.name}'?"
    return near.strip() or f"There are: {', '.join(sorted(f.name for f in found))}."


def _convert(field: Field, value: Any) -> Any:
    wrong = ConfigError(
        f"'{field.name}' takes {_described(field)}, not {value!r}.", f"It means: {field.help}"
    )
    if field.choices and value not in field.choices:
        raise wrong
    if field.type is bool or isinstance(value, bool):
        if field.type is bool and isinstance(value, bool):
            return value
        raise wrong
    if field.type is float and isinstance(value, int | float):
        return float(value)
    if not isinstance(value, field.type):
        raise wrong
    return value


def _described(field: Field) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return f"one of {', '.join(field.choices)}" if field.choices else words[field.type]


class Algorithm(ABC, Generic[A]):
    """Losses over named networks. Subclasses are final: `Config`, `networks` and `update`, no more
    than that is required, and nothing is inherited from another algorithm."""

    name: ClassVar[str]
    summary: ClassVar[str]
    spaces: ClassVar[tuple[str, ...]] = ("box", "discrete")  # the action spaces it learns on
    targets: tuple[str, ...] = ()  # networks that have a slow copy, target_<name>
    reports: ClassVar[tuple[str, ...]] = ()  # metrics whose last values result.json keeps
    # What it learns from while it acts: single transitions of a "replay" memory, the newest
    # "rollout", or "recent" ones (offrl/lessons.py); "" where it does not act.
    acts: ClassVar[str] = ""
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


def traced_settings(config: AlgorithmConfig) -> dict[str, float]:
    """The traced settings of a configuration; the learning rate is kept by Adam."""
    names = [f.name for f in fields_of(type(config)) if f.traced and f.name != "lr"]
    return {name: float(getattr(config, name)) for name in names}


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

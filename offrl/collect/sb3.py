"""`sb3:FILE.zip`: agents of Stable-Baselines3 and sb3-contrib, from their weights alone.

    PPO A2C TRPO    Box: a normal, clipped when acting; Discrete: a softmax
    SAC TQC         the tanh of a normal whose std the network gives
    TD3 DDPG        a tanh network                             (no distribution)
    DQN QR-DQN      the action of the greatest value           (no distribution)
    ARS             a linear or small network                  (no distribution)

State-dependent exploration (gSDE) has the std sqrt(h^2 std^2 + 1e-6) for the last hidden layer h.
Stable-Baselines3 keeps one draw of its noise for several steps, which no log-probability of a step
can describe; here it is drawn anew at every step.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from offrl.collect.agents import Agent
from offrl.collect.distributions import (
    Bounds,
    Choices,
    Clipped,
    Distribution,
    Point,
    Squashed,
)
from offrl.collect.networks import ACTIVATIONS, Floats, Layer, Network, layer
from offrl.collect.sight import eyes, sight, statistics_of
from offrl.collect.zips import Archive, UnreadError, digests, read_zip, statistics_path
from offrl.data.spec import Spec
from offrl.errors import ConfigError, CorruptDataError

__all__ = ["digests", "read_agent"]

REDRAWN = "has state-dependent exploration noise, which is drawn anew at every step."
_ELSEWHERE = "Load it yourself and name a function of yours: FILE.py:FUNCTION."
_IGNORED = (
    "value_net.", "mlp_extractor.value_net.", "critic.", "critic_target.", "actor_target.",
    "q_net_target.", "quantile_net_target.", "vf_features_extractor.",
)  # fmt: skip

Head = Callable[[Floats], Distribution]


def read_agent(
    path: Path,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    trust: bool = False,
) -> Agent:
    """Return the agent of a zip, for the spaces of the environment in which it is to act.

    With `trust`, what cannot be had from plain values and weights is left to Stable-Baselines3,
    which executes what the files pickle.

    Raises NotFoundError, ConfigError for an agent that is not of the kinds above or does not fit
    the spaces, CorruptDataError, UnsafeDataError; with `trust` WorkError where its code raises.
    """
    archive = read_zip(path)
    spec = Spec(observation_space, action_space)
    _refuse_other_actions(archive, action_space)
    if memory := [name for name in archive.weights if name.startswith("lstm_actor.")]:
        raise ConfigError(
            f"{archive.path} has weights '{memory[0]}': it remembers earlier steps.", _ELSEWHERE
        )
    beside = statistics_path(archive.path)
    statistics = None if beside is None else statistics_of(beside, spec, trust)
    notes: tuple[str, ...] = ()
    if beside is not None and statistics is not None:
        notes = (f"sees observations normalised by {beside.name}, which lies beside it.",)
    try:
        _refuse_code(archive)
        if any(part.dtype == "uint8" and len(part.shape) == 3 for part in spec.obs_parts):
            raise UnreadError(
                archive.path, f"{archive.path} looks at images, which offrl does not read."
            )
        parts = _Parts(archive, spec)
        head, stochastic = parts.build()
    except (UnreadError, CorruptDataError):
        if not trust:
            raise
        from offrl.collect.trusted import trusted_agent  # the one place where agents' code runs

        agent = trusted_agent(archive, spec, sight(statistics))
        return replace(agent, notes=(*notes, *agent.notes))
    see = eyes(spec, statistics)
    redrawn = (REDRAWN,) if parts.state_dependent and stochastic else ()
    return Agent(lambda obs: head(see(obs)), stochastic, notes, redrawn)


class _Parts:
    """An archive's weights, put together layer by layer."""

    def __init__(self, archive: Archive, spec: Spec) -> None:
        self._weights = {
            name: array for name, array in archive.weights.items() if not name.startswith(_IGNORED)
        }
        self._path, self._spec, self._data = archive.path, spec, archive.data
        kwargs = archive.data.get("policy_kwargs")
        self._kwargs: dict[str, Any] = kwargs if isinstance(kwargs, dict) else {}
        self._used: set[str] = set()
        self.state_dependent = bool(archive.data.get("use_sde") or self._kwargs.get("use_sde"))

    def build(self) -> tuple[Head, bool]:
        """Return the head, from network input to distribution, and whether it can be sampled."""
        if self._has("q_net."):
            built = self._greedy("q_net.q_net.", 1), False
        elif self._has("quantile_net."):
            built = self._greedy("quantile_net.quantile_net.", self._quantiles()), False
        elif self._has("actor.log_std"):
            built = self._soft_actor(), True
        elif self._has("actor.mu."):
            built = self._deterministic("actor.mu.", "ReLU", squash=True), False
        elif self._has("action_net.0."):
            built = self._searched(), False
        elif self._has("action_net."):
            built = self._actor_critic(), True
        else:
            raise UnreadError(
                self._path, f"{self._path} is not an agent of a kind that offrl reads."
            )
        left = sorted(set(self._weights) - self._used)
        if left:
            raise UnreadError(
                self._path,
                f"{self._path} has weights '{left[0]}', of a network that offrl does not read "
                "(images, recurrence and layers of one's own are not).",
            )
        return built

    def _has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._weights)

    def _activation(self, usual: str) -> str:
        given = self._kwargs.get("activation_fn")
        if given is None:
            return usual
        name = re.sub(r"\W+$", "", str(given)).rpartition(".")[2]
        if "torch.nn" not in str(given) or name not in ACTIVATIONS:
            raise UnreadError(
                self._path, f"{self._path} uses the activation {given}, which offrl does not know."
            )
        return name

    def _take(self, name: str) -> Floats:
        if name not in self._weights:
            raise CorruptDataError(f"{self._path}: the weights '{name}' are missing.", _ELSEWHERE)
        self._used.add(name)
        return self._weights[name]

    def _layer(self, prefix: str, activation: str = "Identity") -> Layer:
        bias = f"{prefix}bias"
        return layer(
            self._take(f"{prefix}weight"),
            self._take(bias) if bias in self._weights else None,
            activation,
        )

    def _layers(self, prefix: str, activation: str, last: str | None = None) -> tuple[Layer, ...]:
        """Return the layers `prefix`0, `prefix`2, ...; the last one may have an end of its own."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.weight")
        found = (pattern.fullmatch(name) for name in self._weights)
        numbers = sorted(int(match[1]) for match in found if match)
        ends = [activation] * len(numbers)
        if last is not None and ends:
            ends[-1] = last
        return tuple(
            self._layer(f"{prefix}{n}.", end) for n, end in zip(numbers, ends, strict=True)
        )

    def _network(self, layers: Iterable[Layer], n_out: int | None = None) -> Network:
        """Return the layers as a network; ConfigError where they do not fit the spaces."""
        kept = tuple(layers)
        width = self._spec.obs_dim
        for each in kept:
            if each.weight.ndim != 2 or (
                each.bias is not None and each.bias.shape != each.weight.shape[:1]
            ):
                raise UnreadError(self._path, f"{self._path} has layers that are not linear.")
            if each.weight.shape[1] != width:
                self._refuse_width(each is kept[0], each.weight.shape[1], width)
            width = each.weight.shape[0]
        if n_out is not None and width != n_out:
            raise ConfigError(
                f"{self._path} gives {width} numbers where the environment's action needs {n_out}.",
                "Name the environment that it was trained in: --env ENV.",
            )
        return Network(kept)

    def _refuse_width(self, first: bool, takes: int, has: int) -> None:
        if first:
            raise ConfigError(
                f"{self._path} takes {takes} observation numbers and the environment gives {has}.",
                "Name the environment that it was trained in; one with wrappers of its own (a time "
                "feature, stacked frames) as module:Id-v0.",
            )
        raise CorruptDataError(f"{self._path}: a layer takes {takes} of {has} numbers.", _ELSEWHERE)

    def _quantiles(self) -> int:
        number = self._data.get("n_quantiles", self._kwargs.get("n_quantiles", 200))
        return int(number) if isinstance(number, int) and number > 0 else 200

    def _greedy(self, prefix: str, quantiles: int) -> Head:
        space = self._discrete()
        n, start = int(space.n), int(space.start)
        layers = self._layers(prefix, self._activation("ReLU"), last="Identity")
        network = self._network(layers, n * quantiles)
        return lambda x: Point(start + int(network(x).reshape(quantiles, n).mean(axis=0).argmax()))

    def _deterministic(self, prefix: str, usual: str, *, squash: bool) -> Head:
        bounds = Bounds(self._box())
        layers = self._layers(prefix, self._activation(usual), last="Identity")
        network = self._network(layers, len(bounds.low))
        if not squash:
            return lambda x: Point(bounds.action(network(x).astype(np.float64)))
        stretch = bounds.stretched()
        return lambda x: Point(stretch.forward(network(x).astype(np.float64)))

    def _searched(self) -> Head:
        """Return the head of ARS."""
        if isinstance(self._spec.action_space, spaces.Discrete):
            return self._greedy("action_net.", 1)
        linear = "ARSLinearPolicy" in str(self._data.get("policy_class"))
        squash = bool(self._kwargs.get("squash_output", not linear))
        return self._deterministic("action_net.", "ReLU", squash=squash)

    def _soft_actor(self) -> Head:
        """Return the head of SAC and TQC."""
        stretch = Bounds(self._box()).stretched()
        trunk = self._layers("actor.latent_pi.", self._activation("ReLU"))
        n = len(stretch.low)
        if self.state_dependent:
            limit = float(self._kwargs.get("clip_mean", 2.0))
            nested = "actor.mu.0.weight" in self._weights  # a hard tanh follows, if limit > 0
            mu = self._layer("actor.mu.0." if nested else "actor.mu.")
            mean, scale = self._network((*trunk, mu), n), self._deviation("actor.log_std", n)
            hidden = self._network(trunk)

            def of_state(x: Floats) -> Distribution:
                h = hidden(x)
                center = mean.layers[-1](h)
                if nested:
                    center = np.minimum(np.maximum(center, -limit), limit)
                return Squashed(center, scale(h), stretch)

            return of_state
        mu, log_std = self._layer("actor.mu."), self._layer("actor.log_std.")
        self._network((*trunk, log_std), n)
        self._network((*trunk, mu), n)
        hidden = self._network(trunk)

        def of_network(x: Floats) -> Distribution:
            h = hidden(x)
            log = np.minimum(np.maximum(log_std(h).astype(np.float64), -20.0), 2.0)
            return Squashed(mu(h), np.exp(log), stretch)

        return of_network

    def _actor_critic(self) -> Head:
        """Return the head of PPO, A2C and TRPO."""
        activation = self._activation("Tanh")
        trunk = (
            *self._layers("mlp_extractor.shared_net.", activation),
            *self._layers("mlp_extractor.policy_net.", activation),
        )
        hidden, last = self._network(trunk), self._layer("action_net.")
        if isinstance(space := self._spec.action_space, spaces.Discrete):
            logits, start = self._network((*trunk, last), int(space.n)), int(space.start)
            return lambda x: Choices(logits(x), start)
        bounds = Bounds(self._box())
        self._network((*trunk, last), len(bounds.low))
        if not self.state_dependent:
            std = np.exp(self._take("log_std").astype(np.float64))
            if std.shape != bounds.low.shape:
                raise CorruptDataError(f"{self._path}: 'log_std' does not fit.", _ELSEWHERE)
            return lambda x: Clipped(last(hidden(x)), std, bounds)
        scale = self._deviation("log_std", len(bounds.low))
        if self._kwargs.get("squash_output"):
            stretch = bounds.stretched()

            def squashed(x: Floats) -> Distribution:
                h = hidden(x)
                return Squashed(last(h), scale(h), stretch)

            return squashed

        def clipped(x: Floats) -> Distribution:
            h = hidden(x)
            return Clipped(last(h), scale(h), bounds)

        return clipped

    def _deviation(self, name: str, n: int) -> Callable[[Floats], Any]:
        """Return the std of state-dependent noise as a function of the last hidden layer."""
        log_std = self._take(name).astype(np.float64)  # [hidden, A], or [hidden, 1] for all alike
        if log_std.ndim != 2 or log_std.shape[1] not in (1, n):
            raise CorruptDataError(f"{self._path}: '{name}' does not fit.", _ELSEWHERE)
        if self._kwargs.get("use_expln"):
            grown = np.log1p(np.maximum(log_std, 0.0) + 1e-6) + 1.0
            std = np.where(log_std <= 0, np.exp(log_std), grown)
        else:
            std = np.exp(log_std)
        variance = np.ascontiguousarray(np.broadcast_to(std**2, (len(std), n)).T)  # [A, hidden]
        return lambda h: np.sqrt(np.vecdot(variance, h.astype(np.float64) ** 2) + 1e-6)

    def _box(self) -> spaces.Box:
        if not isinstance(self._spec.action_space, spaces.Box):
            raise ConfigError(
                f"{self._path} gives continuous actions, and the environment takes "
                f"{self._spec.action_space}.",
                "Name the environment that it was trained in: --env ENV.",
            )
        return self._spec.action_space

    def _discrete(self) -> spaces.Discrete:
        if not isinstance(self._spec.action_space, spaces.Discrete):
            raise ConfigError(
                f"{self._path} chooses among actions, and the environment takes "
                f"{self._spec.action_space}.",
                "Name the environment that it was trained in: --env ENV.",
            )
        return self._spec.action_space


def _refuse_code(archive: Archive) -> None:
    """Raise ConfigError for an agent whose policy or features are code that is not read."""
    described = archive.data.get("policy_class")
    module = described.get("__module__") if isinstance(described, dict) else None
    if not str(module).startswith(("stable_baselines3.", "sb3_contrib.")):
        raise UnreadError(
            archive.path,
            f"{archive.path} has a policy class of {module or 'unknown origin'}, which is code.",
        )
    kwargs = archive.data.get("policy_kwargs")
    extractor = kwargs.get("features_extractor_class") if isinstance(kwargs, dict) else None
    usual = ("FlattenExtractor'>", "torch_layers.CombinedExtractor'>")
    if extractor is not None and not str(extractor).endswith(usual):
        raise UnreadError(
            archive.path,
            f"{archive.path} extracts features by {extractor}, which offrl does not read.",
        )


def _refuse_other_actions(archive: Archive, space: spaces.Space[Any]) -> None:
    """Raise ConfigError where the agent's actions have other bounds than the environment's."""
    described = archive.data.get("action_space")
    if not isinstance(space, spaces.Box) or not isinstance(described, dict):
        return
    for name, ours in (("low", space.low), ("high", space.high)):
        theirs = _numbers(described.get(name))
        if theirs is None or len(theirs) != ours.size:
            continue  # not written out; the widths are compared with the weights
        if not np.allclose(theirs, ours.reshape(-1), rtol=1e-5):
            raise ConfigError(
                f"{archive.path} acts between other bounds: '{name}' is {theirs.tolist()} there "
                f"and {ours.reshape(-1).tolist()} in the environment.",
                "Name the environment that it was trained in: --env ENV.",
            )


def _numbers(text: Any) -> Any:
    """Return the numbers of an array's printed form, None where it is cut short."""
    if not isinstance(text, str):
        return None
    try:
        return np.array([float(word) for word in re.sub(r"[\[\],]", " ", text).split()])
    except ValueError:
        return None

"""`run:DIR`: policies that offrl trained, acting in numpy where offrl knows their head."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from offrl.checkpoint import load_run
from offrl.collect.agents import Agent
from offrl.collect.distributions import Bounds, Choices, Clipped, Point, Squashed
from offrl.collect.networks import Floats, Layer, Network, layer
from offrl.data.spec import Spec
from offrl.distributions import Deterministic
from offrl.errors import ConfigError
from offrl.nn import (
    MLP,
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    GreedyPolicy,
    SquashedPolicy,
)
from offrl.policy import Policy, threads


def run_agent(
    reference: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> Agent:
    """Return the newest policy of RUN (its lowest seed) or of RUN/seed_3.

    Raises NotFoundError, ConfigError where its spaces are not the environment's.
    """
    policy = load_run(reference).policy()
    require_spaces(f"run:{reference}", policy.spec, Spec(observation_space, action_space))
    return agent_of(policy)


def run_digests(reference: str) -> dict[str, Any]:
    """Return the step and the SHA-256 of the weights that `run_agent` acts with."""
    run = load_run(reference)
    found = run.checkpoint(run.seeds[0])
    sha = hashlib.sha256()
    for name, tensor in sorted(found.tensors.items()):
        if "/policy/" in name:
            sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return {"seed": run.seeds[0], "step": found.step, "sha256": sha.hexdigest()}


def agent_of(policy: Policy) -> Agent:
    """Return a trained policy as an agent."""
    network, spec = policy.network, policy.spec
    if type(network) is GaussianPolicy:
        bounds = Bounds(_box(spec))
        mean = _stretched(network, network.action_low, network.action_high)
        half = (network.action_high - network.action_low).double() / 2
        std = (half * network.log_std.detach().double().clamp(-5, 0).exp()).numpy()
        return Agent(lambda obs: Clipped(mean(spec.flatten_obs_one(obs)), std, bounds), True)
    if type(network) is DeterministicPolicy:
        bounds = Bounds(_box(spec))
        action = _stretched(network, network.action_low, network.action_high)
        return Agent(
            lambda obs: Point(bounds.action(action(spec.flatten_obs_one(obs)))), stochastic=False
        )
    if type(network) is SquashedPolicy:
        return Agent(_squashed(network, spec), True)
    if type(network) is GreedyPolicy:
        values, start = _forward(network), spec.action_start
        mean, std = network.return_mean.numpy(), network.return_std.numpy()

        def best(obs: Any) -> Point:
            value = mean + std * values(spec.flatten_obs_one(obs))  # ties as torch has them
            return Point(start + int(value.argmax()))

        return Agent(best, stochastic=False)
    if type(network) is CategoricalPolicy:
        logits, start = _forward(network), spec.action_start
        return Agent(lambda obs: Choices(logits(spec.flatten_obs_one(obs)), start), True)
    with torch.no_grad():
        first = network(torch.zeros(1, spec.obs_dim))
    return Agent(lambda obs: _ByTorch(policy, obs), not isinstance(first, Deterministic))


class _ByTorch:
    """A policy with a network of its own, asked through its public methods."""

    def __init__(self, policy: Policy, obs: Any) -> None:
        self._policy, self._obs = policy, obs

    def mode(self) -> Any:
        with threads(1):
            return self._policy.predict(self._obs)

    def sample(self, rng: np.random.Generator) -> Any:
        with threads(1):
            return self._policy.sample(self._obs, rng)[0]

    def log_prob(self, action: Any) -> float:
        with threads(1):
            return float(self._policy.log_prob(self._obs, np.asarray(action)))

    def at_bound(self, action: Any) -> bool:
        space = self._policy.spec.action_space
        return isinstance(space, spaces.Box) and Bounds(space).at_bound(action)


def _squashed(network: SquashedPolicy, spec: Spec) -> Callable[[Any], Squashed]:
    space, forward = _box(spec), _forward(network)
    low, high = (
        bound.numpy().reshape(space.shape) for bound in (network.action_low, network.action_high)
    )  # those of the data where the space has none
    stretch = Bounds(spaces.Box(low, high, space.shape, space.dtype.type)).stretched()

    def at(obs: Any) -> Squashed:
        mean, log_std = np.split(forward(spec.flatten_obs_one(obs)).astype(np.float64), 2)
        return Squashed(mean, np.exp(log_std.clip(-20, 2)), stretch)

    return at


def _forward(
    network: GaussianPolicy
    | DeterministicPolicy
    | CategoricalPolicy
    | SquashedPolicy
    | GreedyPolicy,
) -> Callable[[Floats], Floats]:
    normalize, net = network.normalize, network.net
    mean, std = normalize.obs_mean.numpy(), normalize.obs_std.numpy()
    layers = _layers(net)

    def forward(obs: Floats) -> Floats:
        return layers(((obs - mean) / std).astype(np.float32, copy=False))

    return forward


def _layers(net: MLP) -> Network:
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}

    def of(name: str, activation: str = "Identity") -> Layer:
        return layer(weights[f"{name}.weight"], weights[f"{name}.bias"], activation)

    hidden = (of(f"hidden.{i}", "ReLU") for i in range(len(net.hidden)))
    return Network((*hidden, of("head")))


def _stretched(
    network: GaussianPolicy | DeterministicPolicy, low: torch.Tensor, high: torch.Tensor
) -> Callable[[Floats], Any]:
    forward = _forward(network)
    lowest, half = low.double().numpy(), ((high - low).double() / 2).numpy()
    return lambda obs: lowest + half * (1.0 + np.tanh(forward(obs).astype(np.float64)))


def _box(spec: Spec) -> spaces.Box:
    if not isinstance(spec.action_space, spaces.Box):
        raise ConfigError(f"A continuous policy cannot give {spec.action_space}.")
    return spec.action_space


def require_spaces(name: str, policy: Spec, world: Spec) -> None:
    """Raise ConfigError where the spaces of a policy are not those of the environment."""
    for what, ours, theirs in (
        ("observations", (policy.obs_dim, _kinds(policy)), (world.obs_dim, _kinds(world))),
        ("actions", policy.action_space, world.action_space),
    ):
        if ours != theirs:
            raise ConfigError(
                f"The {what} of {name} are not the environment's: "
                f"{getattr(policy, f'{what[:-1]}_space')} there, "
                f"{getattr(world, f'{what[:-1]}_space')} here.",
                "Name the environment that its data came from: --env ENV.",
            )


def _kinds(spec: Spec) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(part.path, part.kind, part.shape) for part in spec.obs_parts]

"""Policies, however they are given, as the actors of a recording."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from offrl.collect.behaviors import AGENTS, Behavior, build, from_callable
from offrl.collect.controllers import CONTROLLERS
from offrl.collect.episodes import Actor
from offrl.data.recipe import BehaviorSpec

Policy = str | BehaviorSpec | Behavior | Callable[..., Any]


def listed(policies: Policy | Sequence[Policy]) -> list[Policy]:
    """Return one policy or several as a list."""
    if isinstance(policies, str | BehaviorSpec | Behavior) or callable(policies):
        return [policies]
    return list(policies)


def spec_of(policy: Policy) -> BehaviorSpec:
    """Return how a recipe names a policy; ConfigError for options that are off."""
    if isinstance(policy, BehaviorSpec):
        return policy
    if isinstance(policy, str):
        return BehaviorSpec.parse(policy)
    return BehaviorSpec(str(getattr(policy, "__qualname__", type(policy).__qualname__)))


def actors_of(
    specs: Sequence[BehaviorSpec],
    world: gymnasium.Env[Any, Any],
    given: Sequence[Policy] = (),
    *,
    trust: bool = False,
) -> tuple[Actor, ...]:
    """Return who acts in an environment; `given` are the policies themselves, where there are.

    With `trust` the pickled parts of an agent may be executed, where they are needed.
    Raises ConfigError or NotFoundError where a policy does not exist or does not fit.
    """
    actors: list[Actor] = []
    for spec, policy in zip(specs, given or specs, strict=True):
        if isinstance(policy, str | BehaviorSpec):
            behavior = build(spec, world.observation_space, world.action_space, trust=trust)
            actors.append(Actor(spec.policy, behavior, spec.weight))
        else:
            name, behavior = from_callable(policy, world.action_space)
            actors.append(Actor(name, behavior, spec.weight))
    return tuple(actors)


def is_data(policy: str) -> bool:
    """Return whether a policy's name stands for data or code of ours, not for a user's code."""
    return policy == "random" or policy in CONTROLLERS or policy.startswith(AGENTS)

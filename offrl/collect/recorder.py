"""record: run behaviours in an environment and write what happens as a dataset.

Episode i draws everything (the environment's seed, the behaviour's numbers) from (seed, i) alone
and the behaviours take turns by a fixed quota, so the first n episodes are the same however many
are asked for, and a resumed recording is the uninterrupted one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from offrl.collect.behaviors import Behavior, build, from_callable
from offrl.collect.controllers import CONTROLLERS
from offrl.collect.episodes import Actor, play
from offrl.collect.usercode import source_of
from offrl.data.catalogue import dataset_path
from offrl.data.dataset import Dataset, load
from offrl.data.episodes import Episode
from offrl.data.publishing import unfinished_folder
from offrl.data.recipe import BehaviorSpec, Recipe, load_recipe
from offrl.data.shards import read_manifest
from offrl.data.writer import Writer, require_finite
from offrl.environments import make_env
from offrl.errors import ConfigError, CorruptDataError, UnsafeDataError, WorkError

Policy = str | BehaviorSpec | Behavior | Callable[..., Any]


def record(
    recipe: str | Path | Recipe | None = None,
    *,
    env: str | gymnasium.Env[Any, Any] | None = None,
    policies: Policy | Sequence[Policy] = (),
    episodes: int | None = None,
    env_steps: int | None = None,
    seed: int | None = None,
    out: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Record a recipe, or policies in an environment, as the dataset `out` and return it.

    A policy is what `--policy` takes, a function of obs (or of obs and rng, returning action and
    log-probability), or an object with `reset(rng)` and `act(obs, rng)`. `env_steps` records the
    shortest prefix of whole episodes that reaches it. Without `out` the id is the recipe's, else
    made of environment and policies (me/cartpole/random-v0). An interrupted recording keeps its
    finished episodes; `resume=True` with the same `out` continues it, with no other argument
    needed.

    Raises ConfigError for words that are off, before anything is written; WorkError naming policy
    or environment, episode and step where one of them raises; CorruptDataError where the
    environment gives a number that is not finite.
    """
    listed = _listed(policies)
    if recipe is None and env is None and not listed and resume and out is not None:
        kept = _kept_recipe(out)
        if isinstance(kept, Dataset):
            return kept
        recipe = kept
    plan = _plan(recipe, env, listed, episodes, env_steps, seed, out)
    plan = dataclasses.replace(plan, id=plan.name)
    if resume and not overwrite and (done := _finished(plan, plan.name)) is not None:
        return done
    with _world(plan, env) as world:
        actors = _actors(plan, listed, world)
        with Writer(
            plan.name,
            world.observation_space,
            world.action_space,
            env=_plain_spec(world),
            metadata=_metadata(plan),
            overwrite=overwrite,
            resume=resume,
        ) as writer:
            _fill(writer, world, actors, plan, progress)
            return writer.close()


def run_episodes(
    recipe: str | Path | Recipe | None = None,
    *,
    env: str | gymnasium.Env[Any, Any] | None = None,
    policies: Policy | Sequence[Policy] = (),
    episodes: int | None = None,
    seed: int | None = None,
) -> Iterator[Episode]:
    """Yield what `record` would write, without writing it; errors are those of `record`."""
    listed = _listed(policies)
    plan = _plan(recipe, env, listed, episodes, None, seed, None)
    with _world(plan, env) as world:
        steps = 0
        for episode in play(world, _actors(plan, listed, world), seed=plan.seed):
            yield episode
            steps += len(episode)
            if episode.id + 1 >= (plan.episodes or math.inf) or steps >= (
                plan.env_steps or math.inf
            ):
                return


@contextmanager
def _world(
    plan: Recipe, env: str | gymnasium.Env[Any, Any] | None
) -> Iterator[gymnasium.Env[Any, Any]]:
    """Give the environment of a plan; one that the caller made stays open."""
    if isinstance(env, gymnasium.Env):
        yield env
        return
    # `module:Id-v0` is imported where the user typed it, not where a recipe file says so.
    world = make_env(plan.env, trust=env is not None)
    try:
        yield world
    finally:
        world.close()


def _fill(
    writer: Writer,
    world: gymnasium.Env[Any, Any],
    actors: Sequence[Actor],
    plan: Recipe,
    progress: Callable[[int, int], None] | None,
) -> None:
    steps = writer.n_steps

    def wanted() -> bool:
        if plan.episodes is not None:
            return writer.n_episodes < plan.episodes
        return steps < (plan.env_steps or 0)

    if not wanted():
        return
    for episode in play(world, actors, seed=plan.seed, first=writer.n_episodes):
        try:
            require_finite(episode)
            writer.add(episode)
        except CorruptDataError as error:
            raise CorruptDataError(f"{plan.env}: {error.cause}", error.remedy) from error
        except ConfigError as error:
            raise WorkError(
                f"The environment '{plan.env}' does not keep to its spaces: {error.cause}",
                error.remedy,
            ) from error
        steps += len(episode)
        if progress is not None:
            done = writer.n_episodes if plan.episodes is not None else steps
            progress(done, plan.episodes or plan.env_steps or 0)
        if not wanted():
            return


def _plan(
    recipe: str | Path | Recipe | None,
    env: str | gymnasium.Env[Any, Any] | None,
    policies: Sequence[Policy],
    episodes: int | None,
    env_steps: int | None,
    seed: int | None,
    out: str | None,
) -> Recipe:
    """Return the recipe that the arguments amount to."""
    amount: dict[str, Any] = {}
    if episodes is not None or env_steps is not None:
        amount = {"episodes": episodes, "env_steps": env_steps}
    if recipe is not None:
        if env is not None or policies:
            raise ConfigError(
                "A recipe names its environment and policies already.",
                "Give the recipe, or --env and --policy, not both.",
            )
        found = recipe if isinstance(recipe, Recipe) else _of_file(recipe)
        changes = amount | {} if seed is None else amount | {"seed": seed}
        plan = dataclasses.replace(found, **changes, **({} if out is None else {"id": out}))
    else:
        if env is None:
            raise ConfigError(
                "Neither a recipe nor an environment was named.",
                "Name a recipe (`offrl data list` shows them), or an environment with --env.",
            )
        plan = Recipe(
            env=_env_name(env),
            behaviors=tuple(_spec_of(policy) for policy in policies),
            **(amount or {"episodes": None, "env_steps": None}),
            seed=seed or 0,
            id=out,
        )
    return plan


def _of_file(name: str | Path) -> Recipe:
    recipe = load_recipe(name)
    for behavior in recipe.behaviors:
        if ".py:" in behavior.policy:
            raise UnsafeDataError(
                f"The recipe {name} names the code {behavior.policy}, and you did not type it.",
                f"If you trust it: --env {recipe.env} --policy {behavior}.",
            )
    return recipe


def _listed(policies: Policy | Sequence[Policy]) -> list[Policy]:
    if isinstance(policies, str | BehaviorSpec | Behavior) or callable(policies):
        return [policies]
    return list(policies)


def _env_name(env: str | gymnasium.Env[Any, Any]) -> str:
    if isinstance(env, str):
        return env
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _spec_of(policy: Policy) -> BehaviorSpec:
    if isinstance(policy, BehaviorSpec):
        return policy
    if isinstance(policy, str):
        return BehaviorSpec.parse(policy)
    return BehaviorSpec(str(getattr(policy, "__qualname__", type(policy).__qualname__)))


def _actors(
    plan: Recipe, policies: Sequence[Policy], world: gymnasium.Env[Any, Any]
) -> tuple[Actor, ...]:
    spaces = world.observation_space, world.action_space
    given = [*policies] or [*plan.behaviors]
    actors: list[Actor] = []
    for spec, policy in zip(plan.behaviors, given, strict=True):
        if isinstance(policy, str | BehaviorSpec):
            actors.append(Actor(spec.policy, build(spec, *spaces), spec.weight))
        else:
            name, behavior = from_callable(policy, world.action_space)
            actors.append(Actor(name, behavior, spec.weight))
    return tuple(actors)


def _plain_spec(world: gymnasium.Env[Any, Any]) -> EnvSpec | None:
    # `make_env` goes without gymnasium's checker; that is no property of the environment.
    spec = world.spec
    return None if spec is None else dataclasses.replace(spec, disable_env_checker=False)


def _metadata(plan: Recipe) -> dict[str, Any]:
    sources = {b.policy: source_of(b.policy) for b in plan.behaviors if ".py:" in b.policy}
    metadata: dict[str, Any] = {
        "algorithm_name": "; ".join(str(behavior) for behavior in plan.behaviors),
        "recipe": plan.to_dict(),
        "seeds": {"seed": plan.seed, "rule": "episode i draws from (seed, i)"},
    }
    if plan.description:
        metadata["description"] = plan.description
    if plan.references:
        metadata["references"] = dict(plan.references)
    if sources:
        metadata["sources"] = sources
    return metadata


def _kept_recipe(out: str) -> Recipe | Dataset:
    """Return the recipe of the unfinished dataset, or the finished one; ConfigError without."""
    target = dataset_path(out)
    manifest = read_manifest(unfinished_folder(target))
    if manifest is None and (target / "data").is_dir():
        return load(target)
    offrl = (manifest or {}).get("settings", {}).get("metadata", {}).get("offrl", {})
    if "recipe" not in offrl:
        raise ConfigError(
            f"There is no recording of {out} to continue.", "Name a recipe, or --env and --policy."
        )
    recipe = Recipe.from_dict(offrl["recipe"], f"the recording of {out}")
    # Code is run because the user gave it, and nobody gave this one.
    unnamed = [b.policy for b in recipe.behaviors if b.policy not in ("random", *CONTROLLERS)]
    if unnamed:
        raise ConfigError(
            f"{out} was begun with the code {unnamed[0]}.",
            "Give --env and --policy (env and policies) again.",
        )
    return recipe


def _finished(plan: Recipe, dataset_id: str) -> Dataset | None:
    """Return the dataset where the plan is carried out already; ConfigError where it is another."""
    target = dataset_path(dataset_id)
    if not (target / "data").is_dir():
        return None
    data = load(target)
    offrl = data.metadata.get("offrl")
    recipe = offrl.get("recipe") if isinstance(offrl, dict) else None
    if recipe != plan.to_dict():
        raise ConfigError(
            f"{plan.id} is complete, and was recorded with other settings.",
            "Choose another --out, or --overwrite it.",
        )
    return data

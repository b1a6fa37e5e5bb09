"""record: run behaviours in an environment and write what happens as a dataset.

Episode i draws everything (the environment's seed, the behaviour's numbers) from (seed, i) alone
and the behaviours take turns by a fixed quota, so the first n episodes are the same however many
are asked for, and a resumed recording is the uninterrupted one.
"""

import dataclasses
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium

from offrl.collect.actors import Policy, actors_of, is_data, listed, spec_of
from offrl.collect.agents import agent_source
from offrl.collect.behaviors import AGENTS
from offrl.collect.episodes import Actor, play
from offrl.collect.pool import pooled
from offrl.collect.room import warn_of_want
from offrl.collect.usercode import source_of
from offrl.data.catalogue import dataset_path, datasets_root
from offrl.data.dataset import Dataset, load
from offrl.data.episodes import Episode
from offrl.data.publishing import unfinished_folder
from offrl.data.recipe import BehaviorSpec, Recipe, load_recipe
from offrl.data.shards import read_manifest
from offrl.data.writer import Writer, require_finite
from offrl.environments import plain_spec
from offrl.errors import ConfigError, CorruptDataError, UnsafeDataError, WorkError
from offrl.guard import makers


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
    workers: int = 1,
    trust: bool = False,
    step_timeout: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Record a recipe, or policies in an environment, as the dataset `out` and return it.

    A policy is what `--policy` takes, a function of obs (or of obs and rng, returning action and
    log-probability), or an object with `reset(rng)` and `act(obs, rng)`. `env_steps` records the
    shortest prefix of whole episodes that reaches it. Without `out` the id is the recipe's, else
    made of environment and policies (me/cartpole/random-v0). An interrupted recording keeps its
    finished episodes; `resume=True` with the same `out` continues it, with no other argument
    needed. `workers` processes, with an environment each, record the same data as one. With
    `step_timeout` environments are in processes of their own, and one that takes more seconds for a
    step is ended, which is a WorkError. `trust` has
    Stable-Baselines3 load the agents that cannot be had from plain values and weights, which
    executes what their files pickle; it is kept in the recipe, and never taken from one.

    Raises ConfigError for words that are off, before anything is written; WorkError naming policy
    or environment, episode and step where one of them raises; CorruptDataError where the
    environment gives a number that is not finite.
    """
    given = listed(policies)
    if recipe is None and env is None and not given and resume and out is not None:
        kept = _kept_recipe(out, trust)
        if isinstance(kept, Dataset):
            return kept
        recipe = kept
    plan = _plan(recipe, env, given, episodes, env_steps, seed, out, trust)
    plan = dataclasses.replace(plan, id=plan.name)
    _check_workers(workers, env, given)
    if resume and not overwrite and (done := _finished(plan, plan.name)) is not None:
        return done
    with _world(plan, env, step_timeout) as world:
        actors = actors_of(plan.behaviors, world, given, trust=plan.trust)
        warn_of_want(plan, world, datasets_root())
        with Writer(
            plan.name,
            world.observation_space,
            world.action_space,
            env=plain_spec(world),
            metadata=_metadata(plan),
            overwrite=overwrite,
            resume=resume,
        ) as writer:
            with closing(
                _episodes(plan, world, actors, env, workers, writer, step_timeout)
            ) as episodes_played:
                _fill(writer, episodes_played, plan, progress)
            return writer.close()


def run_episodes(
    recipe: str | Path | Recipe | None = None,
    *,
    env: str | gymnasium.Env[Any, Any] | None = None,
    policies: Policy | Sequence[Policy] = (),
    episodes: int | None = None,
    seed: int | None = None,
    trust: bool = False,
) -> Iterator[Episode]:
    """Yield what `record` would write, without writing it; errors are those of `record`."""
    given = listed(policies)
    plan = _plan(recipe, env, given, episodes, None, seed, None, trust)
    with _world(plan, env) as world:
        steps = 0
        actors = actors_of(plan.behaviors, world, given, trust=plan.trust)
        for episode in play(world, actors, seed=plan.seed):
            yield episode
            steps += len(episode)
            if episode.id + 1 >= (plan.episodes or math.inf) or steps >= (
                plan.env_steps or math.inf
            ):
                return


@contextmanager
def _world(
    plan: Recipe, env: str | gymnasium.Env[Any, Any] | None, step_timeout: float | None = None
) -> Iterator[gymnasium.Env[Any, Any]]:
    """Give the environment of a plan; one that the caller made stays open."""
    with makers(step_timeout) as made:
        if isinstance(env, gymnasium.Env):
            made.refuse_ready()
            yield env
            return
        # `module:Id-v0` is imported where the user typed it, not where a recipe file says so.
        with closing(made.by_id(plan.env, trust=env is not None)) as world:
            yield world


def _check_workers(
    workers: int, env: str | gymnasium.Env[Any, Any] | None, given: Sequence[Policy]
) -> None:
    if workers < 1:
        raise ConfigError(f"workers={workers} collects nothing.", "It must be 1 or more.")
    if workers > 1 and isinstance(env, gymnasium.Env):
        raise ConfigError(
            "An environment that was made here cannot act in other processes.",
            "Give its id (module:Id-v0 for one of yours), or workers=1.",
        )
    for policy in given if workers > 1 else ():
        if not isinstance(policy, str | BehaviorSpec):
            raise ConfigError(
                f"{spec_of(policy).policy} exists in this process and cannot act in others.",
                "Name it by path, FILE.py:FUNCTION, or use workers=1.",
            )


def _episodes(
    plan: Recipe,
    world: gymnasium.Env[Any, Any],
    actors: Sequence[Actor],
    env: str | gymnasium.Env[Any, Any] | None,
    workers: int,
    writer: Writer,
    step_timeout: float | None,
) -> Generator[Episode]:
    """Yield what the writer lacks, and more where only env_steps says how much that is."""
    first, stop = writer.n_episodes, plan.episodes
    if workers == 1 or (stop is not None and stop - first <= 1):
        yield from play(world, actors, seed=plan.seed, first=first)
        return
    request = {
        "env": plan.env,
        "trust_env": env is not None,
        "trust": plan.trust,
        "step_timeout": step_timeout,
        "seed": plan.seed,
        "behaviors": [dataclasses.asdict(behavior) for behavior in plan.behaviors],
    }
    workers = workers if stop is None else min(workers, stop - first)
    yield from pooled(request, workers, first=first, stop=stop)


def _fill(
    writer: Writer,
    episodes: Iterator[Episode],
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
    for episode in episodes:
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
    trust: bool,
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
        found = recipe if isinstance(recipe, Recipe) else _of_file(recipe, trust)
        changes = amount | {} if seed is None else amount | {"seed": seed}
        changes |= {"trust": True} if trust else {}
        plan = dataclasses.replace(found, **changes, **({} if out is None else {"id": out}))
    else:
        if env is None:
            raise ConfigError(
                "Neither a recipe nor an environment was named.",
                "Name a recipe (`offrl data list` shows them), or an environment with --env.",
            )
        plan = Recipe(
            env=_env_name(env),
            behaviors=tuple(spec_of(policy) for policy in policies),
            **(amount or {"episodes": None, "env_steps": None}),
            seed=seed or 0,
            trust=trust,
            id=out,
        )
    return plan


def _of_file(name: str | Path, trust: bool) -> Recipe:
    recipe = load_recipe(name)
    if recipe.trust and not trust:
        raise UnsafeDataError(
            f"The recipe {name} says that what its agents pickle is to be executed, and you did "
            "not.",
            "If you trust them, type --trust.",
        )
    for behavior in recipe.behaviors:
        if ".py:" in behavior.policy:
            raise UnsafeDataError(
                f"The recipe {name} names the code {behavior.policy}, and you did not type it.",
                f"If you trust it: --env {recipe.env} --policy {behavior}.",
            )
    return recipe


def _env_name(env: str | gymnasium.Env[Any, Any]) -> str:
    if isinstance(env, str):
        return env
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _metadata(plan: Recipe) -> dict[str, Any]:
    named = {b.policy for b in plan.behaviors}
    sources: dict[str, Any] = {name: source_of(name) for name in named if ".py:" in name}
    sources |= {name: agent_source(name) for name in named if name.startswith(AGENTS)}
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


def _kept_recipe(out: str, trust: bool) -> Recipe | Dataset:
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
    # Code is run because the user gave it, and nobody gave this one; agents are data.
    unnamed = [b.policy for b in recipe.behaviors if not is_data(b.policy)]
    if unnamed:
        raise ConfigError(
            f"{out} was begun with the code {unnamed[0]}.",
            "Give --env and --policy (env and policies) again.",
        )
    if recipe.trust and not trust:
        raise ConfigError(
            f"{out} was begun with --trust, which executes what its agents pickle.",
            "Give --trust (trust=True) again.",
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

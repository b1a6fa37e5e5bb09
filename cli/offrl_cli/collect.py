"""`offrl collect`: make a dataset from a recipe, or from an environment and policies."""

from collections.abc import Mapping
from typing import Annotated

import typer

from offrl_cli.commands import Command, command
from offrl_cli.data import summary_blocks
from offrl_cli.options import StepTimeout
from offrl_cli.output import Answer, quoted
from offrl_cli.progress import Counter
from offrl_cli.stopping import going_on
from offrl_cli.values import natural, positive

RECIPE = "A shipped recipe (offrl/pendulum/medium-v0; offrl data list names them) or a TOML file."
ENV = "Environment id, where no recipe is given."
POLICY = (
    "random; a controller such as pendulum-swing-up or cartpole-balance; an agent, sb3:FILE.zip or "
    "run:DIR; or a function of yours, FILE.py:FUNCTION of obs, or of obs and rng. With options: "
    "NAME,noise=0.3,epsilon=0.5,weight=2, and for agents ,stochastic to sample instead of acting "
    "by the mode. Several share the episodes by weight."
)
EPISODES = "Episodes to collect."
ENV_STEPS = "Environment steps to reach: the fewest whole episodes that hold them."
SEED = "Seed of everything random; the same seed gives the same fingerprint."
OUT = "Id of the dataset [default: the recipe's own, else made as me/cartpole/random-v0]."
RESUME = "Go on where a stopped collection of the same settings ended."
WORKERS = "Processes that collect, with one environment each; the data is the same for any number."
OVERWRITE = "Replace a dataset of the same id."
TRUST = (
    "Have stable-baselines3 load agents that offrl cannot read, which executes what sb3:FILE.zip "
    "pickles."
)


RENAMED = {
    "--n-episodes": "--episodes",
    "--num-episodes": "--episodes",
    "-n": "--episodes N or --env-steps N",
    "--steps": "--env-steps (a step is a gradient step elsewhere in offrl)",
    "--n-steps": "--env-steps",
    "--total-timesteps": "--env-steps",
    "--timesteps": "--env-steps",
    "--env-id": "--env",
    "--n-envs": "--workers (a process each)",
    "--num-workers": "--workers",
    "--n-jobs": "--workers",
    "--output": "--out",
    "--dataset": "--out",
    "--dataset-id": "--out",
    "--recipe": "offrl collect RECIPE, without an option",
    "--noise": "--policy NAME,noise=0.3",
    "--epsilon": "--policy NAME,epsilon=0.5",
}


class CollectCommand(Command):
    """`collect`, which knows what other tools call its options."""

    def renamed(self) -> Mapping[str, str]:
        return RENAMED


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "collect", cls=CollectCommand)
    def collect(
        recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help=RECIPE)] = None,
        env: Annotated[str | None, typer.Option(metavar="ENV", help=ENV)] = None,
        policy: Annotated[list[str] | None, typer.Option(metavar="POLICY", help=POLICY)] = None,
        episodes: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=EPISODES)
        ] = None,
        env_steps: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=ENV_STEPS)
        ] = None,
        seed: Annotated[int | None, typer.Option(metavar="S", parser=natural, help=SEED)] = None,
        out: Annotated[str | None, typer.Option(metavar="ID", help=OUT)] = None,
        resume: Annotated[bool, typer.Option("--resume", help=RESUME)] = False,
        overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
        workers: Annotated[int, typer.Option(metavar="K", parser=positive, help=WORKERS)] = 1,
        step_timeout: StepTimeout = None,
        trust: Annotated[bool, typer.Option("--trust", help=TRUST)] = False,
    ) -> Answer:
        """Make a dataset by acting.

        From a recipe, or from an environment and policies. Every step carries the exact
        log-probability of its action.
        """
        from offrl import record

        if out is None and recipe is None and env and policy:
            from offrl.data.recipe import name_of

            out = name_of(env, policy)
        words = f"--out {quoted(out)}" if out else quoted(recipe)
        if ":" in (env or "") or any(".py:" in one for one in policy or ()):
            words = _typed(env, policy, episodes, env_steps, seed, words)
        again = f"offrl collect {words} --resume" + (" --trust" if trust else "")
        with going_on(again), Counter("collecting", _unit(recipe, env_steps)) as counter:
            data = record(
                recipe,
                env=env,
                policies=tuple(policy or ()),
                episodes=episodes,
                env_steps=env_steps,
                seed=seed,
                out=out,
                resume=resume,
                overwrite=overwrite,
                workers=workers,
                trust=trust,
                step_timeout=step_timeout,
                progress=counter,
            )
        summary = data.summary()
        return Answer(summary, summary_blocks(summary), next=f"offrl data check {quoted(data.id)}")


def _typed(
    env: str | None,
    policy: list[str] | None,
    episodes: int | None,
    env_steps: int | None,
    seed: int | None,
    out: str,
) -> str:
    """Return all words of a collection by code, which runs only where it is typed again."""
    given = {"--env": env, "--episodes": episodes, "--env-steps": env_steps, "--seed": seed}
    words = [f"{name} {quoted(value)}" for name, value in given.items() if value is not None]
    return " ".join([*words, *(f"--policy {quoted(one)}" for one in policy or ()), out])


def _unit(recipe: str | None, env_steps: int | None) -> str:
    """Return what the collection counts towards its end."""
    if recipe is not None and env_steps is None:
        from offrl.data.recipe import load_recipe

        env_steps = load_recipe(recipe).env_steps
    return "episodes" if env_steps is None else "environment steps"

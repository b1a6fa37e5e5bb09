"""`offrl eval`: how a trained policy does when it acts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from offrl.errors import ConfigError
from offrl_cli.commands import Command, command
from offrl_cli.options import StepTimeout
from offrl_cli.output import Answer, Pairs, interval, number, quoted, spread
from offrl_cli.progress import Counter
from offrl_cli.stopping import going_on
from offrl_cli.values import natural, positive

RUN = "A run's folder (all its seeds), or one of its seeds: RUN/seed_3."
ENV = "Environment id; by default the one that the dataset names."
EPISODES = "Episodes for each seed."
SEED = "Seed of the episodes; the same seed gives the same episodes."
CHECKPOINT = "last; selected, by train --select or offrl select; or the step that was saved."
N_ENVS = "Environments stepped at once; changes the speed and not one number."
VIDEO = (
    "A folder for films (mp4) of the first 3 episodes of each seed, played once more; without a"
    " display MuJoCo draws by EGL. Needs offrl[video]."
)
TRUST_ENV = "Let the dataset's own entry point make the environment. It can run any code."


RENAMED = {
    "--n-episodes": "--episodes",
    "--n-eval-episodes": "--episodes",
    "--eval-episodes": "--episodes",
    "--num-episodes": "--episodes",
    "-n": "--episodes",
    "--env-id": "--env",
    "--eval-env": "--env",
    "--num-envs": "--n-envs",
    "--run": "offrl eval RUN, without an option",
    "--load": "offrl eval RUN, without an option",
    "--step": "--checkpoint STEP",
    "--render": "--video DIR",
    "--record-video": "--video DIR",
    "--video-dir": "--video",
    "--video-folder": "--video",
}


class EvalCommand(Command):
    """`eval`, which knows what other tools call its options."""

    def renamed(self) -> Mapping[str, str]:
        return RENAMED


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "eval", cls=EvalCommand)
    def evaluate(
        run: Annotated[str, typer.Argument(metavar="RUN", help=RUN)],
        env: Annotated[str | None, typer.Option(metavar="ENV", help=ENV)] = None,
        episodes: Annotated[int, typer.Option(metavar="N", parser=positive, help=EPISODES)] = 50,
        seed: Annotated[int, typer.Option(metavar="S", parser=natural, help=SEED)] = 0,
        checkpoint: Annotated[
            str, typer.Option(metavar="last|selected|STEP", help=CHECKPOINT)
        ] = "last",
        n_envs: Annotated[
            int | None, typer.Option(metavar="K", parser=positive, help=N_ENVS)
        ] = None,
        video: Annotated[str | None, typer.Option(metavar="DIR", help=VIDEO)] = None,
        step_timeout: StepTimeout = None,
        trust_env: Annotated[bool, typer.Option("--trust-env", help=TRUST_ENV)] = False,
    ) -> Answer:
        """Evaluate a run in its environment."""
        from offrl import evaluate as library_evaluate

        if checkpoint not in ("last", "selected") and not checkpoint.isdecimal():
            raise ConfigError(
                f"--checkpoint: '{checkpoint}' is neither 'last', 'selected' nor a step.",
                "--checkpoint last, selected, or a number under RUN/seed_0/checkpoints",
            )
        with going_on(f"offrl eval {quoted(run)}"), Counter("evaluating", "episodes") as counter:
            found = library_evaluate(
                run,
                env,
                episodes=episodes,
                seed=seed,
                checkpoint=checkpoint,
                n_envs=n_envs,
                trust_env=trust_env,
                step_timeout=step_timeout,
                video=video,
                progress=counter,
            ).to_dict()
        return Answer(
            found,
            [Pairs(evaluation_pairs(found))],
            next=_next(run, found),
            notes=[f"note: {text}" for text in found["notes"]],
        )


def evaluation_pairs(found: dict[str, Any]) -> dict[str, object]:
    """Return an evaluation as names and values for a person."""
    pairs: dict[str, object] = {
        "env": found["env"],
        "return": f"{number(found['return_mean'])}{spread(found['return_std'])}",
        "95% interval": f"{interval(found['return_ci'])} over {found['interval_over']}",
        "seeds": found["n_seeds"],
        "episodes": f"{found['n_episodes']} for each seed",
        **_checkpoint(found),
        "length": f"{number(found['length_mean'])} steps",
    }
    if found["score"] is not None:
        bounds = "" if found["score_ci"] is None else f" {interval(found['score_ci'])}"
        pairs["score"] = f"{number(found['score'])}{bounds} (0 is random, 100 is expert)"
    if found["videos"]:
        folder = Path(found["videos"][0]["file"]).parent
        pairs["videos"] = f"{len(found['videos'])} in {folder}"
    if len(found["seeds"]) > 1:
        means = (f"{one['seed']}: {number(one['return_mean'])}" for one in found["seeds"])
        pairs["by seed"] = ", ".join(means)
    return pairs


def _checkpoint(found: dict[str, Any]) -> dict[str, object]:
    """Return how the checkpoints were picked, and of which steps they are."""
    if found["picked"] is None:
        return {}
    steps = [str(step) for step in dict.fromkeys(one["checkpoint_step"] for one in found["seeds"])]
    if found["picked"] == f"step {steps[0]}":
        return {"checkpoint": found["picked"]}
    return {"checkpoint": f"{found['picked']} (step {', '.join(steps)})"}


def _next(run: str, found: dict[str, Any]) -> str:
    folder = Path(run.removeprefix("run:"))
    folder = folder.parent if folder.name.startswith("seed_") else folder
    if found["n_seeds"] == 1:
        return f"offrl train --config {quoted(folder / 'run.toml')} --seeds 0-4"
    return f"offrl eval {quoted(run)} --episodes {4 * found['n_episodes']}"

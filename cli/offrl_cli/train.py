"""`offrl train`: learn a policy from a dataset."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offrl.errors import ConfigError
from offrl.events import Endings
from offrl_cli.commands import command
from offrl_cli.finetune import act
from offrl_cli.flags import GIVEN, GRID_PAGE, ONLINE, TrainCommand, is_code
from offrl_cli.grid import train_grid
from offrl_cli.options import Compile, Device, Precision, Seed, StepTimeout, Threads, Track
from offrl_cli.output import Answer, Pairs, note, number, quoted
from offrl_cli.progress import Training
from offrl_cli.stopping import going_on
from offrl_cli.values import one_of, positive, real, seeds_of

if TYPE_CHECKING:
    from offrl.training import Plan

ALGO = "Name of an algorithm (offrl algos lists them), or your own: FILE.py:CLASS."
DATASET = "The dataset to learn from: its id or path."
ENV = "Learn by acting in this environment, from scratch, in place of --dataset."
ENV_STEPS = "Steps to take in --env, for each seed."
STEPS = "Gradient steps [default: 100000]."
SEEDS = "Several seeds: 0-7, or 0,3,5."
CONFIG = "TOML file of settings; RUN/run.toml repeats a run. Flags win over it."
HOLDOUT = "Share of episodes that no loss sees [default: 0.2 without an environment, else 0]."
EVAL_ENV = "Evaluate in this environment while training."
EVAL_EVERY = "Gradient steps between evaluations."
EVAL_EPISODES = "Episodes of each evaluation [default: 10]."
NONFINITE = "Leave out episodes that hold NaN or infinite values, instead of refusing them."
CLIP = "Clip actions outside the bounds of their space, instead of refusing them."
SAVE_EVERY = "Gradient steps between checkpoints."
SELECT = (
    "Keep the best checkpoint by a criterion on held-out episodes, such as loss for bc,"
    " as 'selected' [default: none]."
)
LOG_EVERY = "Gradient steps between rows of metrics.csv."
OUT = "Folder of the run [default: runs/<algo>/<dataset>/<time>]."
GRID = "Values of a traced setting, trained with one compiled update; several give the product."
RESUME = "Go on with the run in --out; needs no other option."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "train", cls=TrainCommand)
    def train(
        context: typer.Context,
        algo: Annotated[str | None, typer.Option(metavar="NAME", help=ALGO)] = None,
        dataset: Annotated[str | None, typer.Option(metavar="REF", help=DATASET)] = None,
        env: Annotated[str | None, typer.Option(metavar="ENV", help=ENV)] = None,
        env_steps: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=ENV_STEPS)
        ] = None,
        steps: Annotated[int | None, typer.Option(metavar="N", parser=positive, help=STEPS)] = None,
        seed: Seed = None,
        seeds: Annotated[str | None, typer.Option(metavar="0-7", help=SEEDS)] = None,
        config: Annotated[Path | None, typer.Option(metavar="FILE", help=CONFIG)] = None,
        holdout: Annotated[
            float | None, typer.Option(metavar="F", parser=real, help=HOLDOUT)
        ] = None,
        eval_env: Annotated[str | None, typer.Option(metavar="ENV", help=EVAL_ENV)] = None,
        eval_every: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=EVAL_EVERY)
        ] = None,
        eval_episodes: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=EVAL_EPISODES)
        ] = None,
        device: Device = None,
        compile: Compile = None,
        precision: Precision = None,
        threads: Threads = None,
        save_every: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=SAVE_EVERY)
        ] = None,
        log_every: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=LOG_EVERY)
        ] = None,
        select: Annotated[str | None, typer.Option(metavar="CRITERION", help=SELECT)] = None,
        allow_nonfinite: Annotated[
            str | None,
            typer.Option(metavar="drop-episode", parser=one_of("drop-episode"), help=NONFINITE),
        ] = None,
        clip_actions: Annotated[bool, typer.Option("--clip-actions", help=CLIP)] = False,
        step_timeout: StepTimeout = None,
        track: Track = None,
        grid: Annotated[list[str] | None, typer.Option(metavar="NAME=V,V", help=GRID)] = None,
        out: Annotated[Path | None, typer.Option(metavar="DIR", help=OUT)] = None,
        resume: Annotated[bool, typer.Option("--resume", help=RESUME)] = False,
    ) -> Answer:
        """Train an algorithm on a dataset, or in an environment.

        offrl train --algo NAME --help also lists the hyper-parameters of NAME.
        """
        from offrl import training

        if seed is not None and seeds is not None:
            raise ConfigError("--seed and --seeds are both given.", "Give one of them.")
        shared: dict[str, Any] = {
            "out": out,
            "resume": resume,
            "config_file": config,
            "hyperparameters": context.meta[GIVEN],
            "seeds": seeds_of(seeds) if seeds is not None else None if seed is None else (seed,),
            "device": device,
            "compile": compile,
            "precision": precision,
            "threads": threads,
        }
        every = {
            "eval_every": eval_every,
            "eval_episodes": eval_episodes,
            "log_every": log_every,
            "save_every": save_every,
        }
        of_log = {
            "steps": steps,
            "holdout": holdout,
            "eval_env": eval_env,
            "select": select,
            "allow_nonfinite": allow_nonfinite,
            "clip_actions": clip_actions or None,
        }
        online = context.meta[ONLINE]
        if online is not None:
            _refuse(**of_log, dataset=dataset, grid=grid or None)
            online |= {name: value for name, value in every.items() if value is not None}
            return act(
                algo,
                env,
                env_steps,
                online=online,
                step_timeout=step_timeout,
                track=track,
                **shared,
            )
        if env_steps is not None:
            raise ConfigError("--env-steps needs an environment.", "Give --env ENV.")
        if step_timeout is not None:
            raise ConfigError("--step-timeout is for a run that acts.", "Give --env ENV.")
        given: dict[str, Any] = shared | every | of_log
        if grid or (resume and out is not None and (out / GRID_PAGE).is_file()):
            if track is not None:
                raise ConfigError("A grid is not tracked.", "Leave --track or --grid away.")
            return train_grid(algo, dataset, grid or [], given)
        return _work(training.resolve(algo, dataset, **given), track)


def _refuse(**of_log: Any) -> None:
    """Raise for options of learning from a log that were given to a run that acts."""
    for name, value in of_log.items():
        if value is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')} is for learning from a log; with --env a run acts.",
                "Give --dataset or --env, or let a run's policy act: offrl finetune RUN",
            )


def _work(plan: "Plan", track: str | None) -> Answer:
    from offrl import training
    from offrl.checkpoint import TrainedRun
    from offrl.tracking import Tracking

    settings = plan.run.settings
    print_settings(plan)
    code = f"--algo {quoted(settings.algo)} " if is_code(settings.algo) else ""
    endings = Endings()
    label = f"{plan.run.algorithm} on {plan.dataset.id}"
    resume = f"offrl train {code}--out {quoted(plan.dir)} --resume"
    resume += f" --track {track}" if track else ""
    with (
        Tracking(track, plan.run, plan.dir) as tell,
        going_on(resume),
        Training(label, settings.steps) as show,
    ):
        for event in training.train(plan):
            show(event)
            tell(event)
            endings.see(event)
    result = TrainedRun(plan.dir, plan.run, settings.seeds).result
    for warning in result.get("warnings", ()):
        note(f"warning: {warning}")
    endings.check(plan.dir)
    seeds = ", ".join(str(seed) for seed in settings.seeds)
    pairs = {
        "run": result["run"],
        "algorithm": result["algo"],
        "dataset": result["dataset"],
        "steps": f"{result['steps']} for each seed",
        "seeds": seeds,
        "steps per second": number(result["steps_per_second"], 0),
        "seconds": number(result["wall_seconds"], 1),
    }
    pairs |= _kept(result)
    reported = {name: result[name] for name in plan.algorithm.reports if name in result}
    pairs |= {name: _over_seeds(found) for name, found in reported.items()}
    env = "" if settings.eval_env is None else f" --env {quoted(settings.eval_env)}"
    if plan.run.env is None and not env:
        env = " --env ENV"
    return Answer(result, [Pairs(pairs)], next=f"offrl eval {quoted(plan.dir)}{env}")


def _kept(result: dict[str, Any]) -> dict[str, object]:
    """What was selected while training, and the returns, each with how it was picked."""
    pairs: dict[str, object] = {}
    if found := result.get("selected"):
        steps = ", ".join(f"{seed}: {one['step']}" for seed, one in found["seeds"].items())
        pairs["selected"] = f"{found['picked']}, at step by seed {steps}"
    if tried := result.get("evaluations"):
        episodes = f"{tried['n_episodes']} episodes for each seed"
        pairs["return, last"] = f"{number(tried['last']['return_mean'])} over {episodes}"
        best = tried["best"]
        pairs["return, best"] = f"{number(best['return_mean'])} ({best['picked']})"
    return pairs


def _over_seeds(found: dict[str, Any]) -> str:
    """A number that the algorithm reports: its mean, and the interval of it where there is one."""
    between = found["ci"]
    if between is None:
        return number(found["mean"], 4)
    low, high = (number(bound, 4) for bound in between)
    return f"{number(found['mean'], 4)} [{low}, {high}] over {found['n_seeds']} seeds"


def print_settings(plan: "Plan") -> None:
    """Print what was resolved, once, as run.toml will hold it."""
    run = plan.run
    values = {key: value for key, value in vars(run.settings).items() if value is not None}
    values["seeds"] = ",".join(str(seed) for seed in run.settings.seeds)
    note("settings: " + " ".join(f"{key}={value}" for key, value in values.items()))
    note(f"{run.algorithm}: " + " ".join(f"{key}={value}" for key, value in run.config.items()))
    if run.held_out:
        note(f"held out: {len(run.held_out)} of {plan.dataset.n_episodes} episodes")
    note(f"run: {plan.dir}{' (resumed)' if plan.resumed else ''}")

"""`offrl finetune` and `offrl train --env`: a policy that acts, and learns from what it lives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offrl.errors import ConfigError, NotFoundError, OffrlError
from offrl.events import Endings
from offrl_cli.commands import command
from offrl_cli.flags import (
    GIVEN,
    ONLINE,
    PEERS,
    TrainCommand,
    is_code,
    named_algorithm,
    value_of,
)
from offrl_cli.options import Compile, Device, Precision, Seed, StepTimeout, Threads, Track
from offrl_cli.output import Answer, Pairs, note, number, quoted
from offrl_cli.progress import Training
from offrl_cli.stopping import going_on
from offrl_cli.values import positive, seeds_of

if TYPE_CHECKING:
    from offrl.online.plan import OnlinePlan

RUN = "The run whose policy goes on learning (all its seeds), or one of them: RUN/seed_3."
ENV = "The environment to act in."
ENV_STEPS = "Steps to take in it, for each seed."
SEEDS = "Several seeds of the run: 0-7, or 0,3,5 [default: all]."
ALGO = "Code of yours, FILE.py:CLASS, where the run was trained by it."
OUT = "Folder of the new run [default: runs/<algo>/<env>/<time>]."
RESUME = "Go on with the run in --out; needs no other option."
OF_THE_RUN = {
    "--dataset": "leave it out: RUN knows its log, and --mix X is the log's share of every batch",
    "--config": "leave it out: RUN has its settings; give those that shall change",
}


class FinetuneCommand(TrainCommand):
    """`finetune`, whose hyper-parameters are those of the algorithm that trained the run."""

    def renamed(self) -> Mapping[str, str]:
        own = {p: OF_THE_RUN[o] for o in OF_THE_RUN for p in (o, *PEERS[o].split())}
        return {**super().renamed(), **own}

    def named(self, args: Sequence[str]) -> str | None:
        for word in args:
            folder = Path(word.removeprefix("run:"))
            for place in (folder, folder.parent):
                if not word.startswith("-") and (place / "run.toml").is_file():
                    algorithm = named_algorithm(["--config", str(place / "run.toml")])
                    return value_of("--algo", args) or algorithm
        return named_algorithm(args)

    def unnamed(self, args: Sequence[str]) -> OffrlError:
        out = value_of("--out", args)
        if "--resume" in args and out is not None:
            return NotFoundError(f"There is no run to resume in {out}.", "the folder of a run")
        named = [word for word in args[:1] if not word.startswith("-")]
        if not named:
            return ConfigError("No run is named.", "offrl finetune RUN --env ENV --env-steps N")
        from offrl.checkpoint import load_run

        try:
            load_run(named[0])
        except OffrlError as error:
            return error
        return super().unnamed(args)

    def acts(self, args: Sequence[str]) -> bool:
        return True


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "finetune", cls=FinetuneCommand)
    def finetune(
        context: typer.Context,
        run: Annotated[str | None, typer.Argument(metavar="RUN", help=RUN)] = None,
        env: Annotated[str | None, typer.Option(metavar="ENV", help=ENV)] = None,
        env_steps: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=ENV_STEPS)
        ] = None,
        algo: Annotated[str | None, typer.Option(metavar="FILE.py:CLASS", help=ALGO)] = None,
        seed: Seed = None,
        seeds: Annotated[str | None, typer.Option(metavar="0-7", help=SEEDS)] = None,
        device: Device = None,
        compile: Compile = None,
        precision: Precision = None,
        threads: Threads = None,
        step_timeout: StepTimeout = None,
        track: Track = None,
        out: Annotated[Path | None, typer.Option(metavar="DIR", help=OUT)] = None,
        resume: Annotated[bool, typer.Option("--resume", help=RESUME)] = False,
    ) -> Answer:
        """Let a trained policy act, and learn from what it lives as well as from its log.

        offrl finetune RUN --help also lists the hyper-parameters of the run's algorithm.
        """
        if run is None and not resume:
            raise ConfigError("No run is named.", "offrl finetune RUN --env ENV --env-steps N")
        return act(
            algo,
            env,
            env_steps,
            run=run,
            out=out,
            resume=resume,
            hyperparameters=context.meta[GIVEN],
            online=context.meta[ONLINE],
            seeds=seeds_of(seeds) if seeds is not None else None if seed is None else (seed,),
            device=device,
            compile=compile,
            precision=precision,
            threads=threads,
            step_timeout=step_timeout,
            track=track,
        )


def act(
    algo: str | None,
    env: str | None,
    env_steps: int | None,
    *,
    track: str | None = None,
    **settings: Any,
) -> Answer:
    """Resolve an online run, train it, and say what came of it."""
    from offrl.online import plan as planning
    from offrl.online import training
    from offrl.run import read_result
    from offrl.tracking import Tracking

    plan = planning.resolve(algo, env, env_steps, **settings)
    _print(plan)
    command = "train" if plan.parent is None else "finetune"
    code = f"--algo {quoted(plan.run.settings.algo)} " if is_code(plan.run.settings.algo) else ""
    endings = Endings()
    label = f"{plan.run.algorithm} in {plan.env}"
    resume = f"offrl {command} {code}--out {quoted(plan.dir)} --resume"
    if plan.step_timeout is not None:
        resume += f" --step-timeout {plan.step_timeout:g}"
    resume += f" --track {track}" if track else ""
    with (
        Tracking(track, plan.run, plan.dir) as tell,
        going_on(resume),
        Training(label, plan.run.settings.steps, plan.env_steps) as show,
    ):
        for event in training.train(plan):
            show(event)
            tell(event)
            endings.see(event)
    result = read_result(plan.dir)
    for warning in result.get("warnings", ()):
        note(f"warning: {warning}")
    endings.check(plan.dir)
    pairs: dict[str, object] = {
        "run": result["run"],
        "algorithm": result["algo"],
        "environment": f"{plan.env}, {plan.env_steps} steps for each seed",
        "seeds": ", ".join(str(seed) for seed in result["seeds"]),
        "return before": number(result["before"]),
        "deepest dip": number(result["dip"]),
        "return after": number(result["after"]),
        "regret": number(result["regret"], 3),
        **{f"recorded, seed {k}": id for k, id in result["recorded"].items()},
        "env steps per second": number(result["env_steps_per_second"], 0),
        "seconds": number(result["wall_seconds"], 1),
    }
    return Answer(result, [Pairs(pairs)], next=f"offrl eval {quoted(plan.dir)}")


def _print(plan: "OnlinePlan") -> None:
    """Print what was resolved, once, as run.toml will hold it."""
    settings, run = plan.run.settings, plan.run
    note(
        f"settings: env={plan.env} env_steps={plan.env_steps} steps={settings.steps}"
        f" seeds={','.join(str(seed) for seed in settings.seeds)} device={settings.device}"
        f" compile={settings.compile} precision={settings.precision}"
    )
    note("online: " + " ".join(f"{key}={value}" for key, value in vars(plan.online).items()))
    unused: tuple[str, ...] = getattr(plan.algorithm, "of_log", ())
    used = {key: value for key, value in run.config.items() if key not in unused}
    note(f"{run.algorithm}: " + " ".join(f"{key}={value}" for key, value in used.items()))
    note(f"run: {plan.dir}{' (resumed)' if plan.resumed else ''}")

"""Options made from an algorithm's config, so that a hyper-parameter is declared once.

The options are added when the command line is parsed: `train --algo awr` has those of AWR. None
means "not given", so that a recipe or a file may set what a flag does not.
"""

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offrl.errors import ConfigError, NotFoundError, OffrlError
from offrl_cli.commands import Command
from offrl_cli.values import one_of, real, truth, whole

if TYPE_CHECKING:
    from offrl.algorithm import Field

PEERS = {
    "--steps": (
        "-n --n-timesteps --max-timesteps --total-timesteps --timesteps --num-steps --n-steps"
        " --gradient-steps --num-train-steps --n-updates --max-steps --iterations --epochs"
    ),
    "--env": "--env-id --env-name --environment",
    "--env-steps": "--total-env-steps --online-steps --env-timesteps",
    "--out": (
        "--log-folder --log-dir --logdir --output --output-dir --save-dir --save-path --exp-name"
        " --run-name -o"
    ),
    "--eval-every": "--eval-freq --eval-interval --eval-period",
    "--save-every": (
        "--save-freq --save-interval --save-period --checkpoint-freq --checkpoint-every"
        " --checkpoint-interval --ckpt-interval"
    ),
    "--log-every": "--log-freq --log-interval --log-period",
    "--eval-episodes": "--n-eval-episodes --num-eval-episodes --eval-num --n-episodes --episodes",
    "--dataset": "--data --dataset-id --dataset-name --task --buffer -d",
    "--algo": "--algorithm --agent --method -a",
    "--seed": "--random-seed --rng-seed --train-seed",
    "--seeds": "--num-seeds --n-seeds",
    "--device": "--cuda --gpu --accelerator",
    "--precision": "--amp --fp16 --bf16 --dtype",
    "--resume": "--restore --resume-from --load --load-model --checkpoint",
    "--config": "--config-path --config-file --conf-file --hyperparams --hyperparameters -c",
    "--holdout": "--validation-split --val-split --test-size",
    "--select": "--keep-best --save-best --monitor --early-stopping-metric",
    "--threads": "--num-threads --n-threads --num-workers",
}
CONVERSIONS = {
    "--epochs": "--steps N: a step is one gradient step, so N = epochs x rows / batch",
    "--cuda": "--device cuda",
    "--gpu": "--device cuda",
    "--num-seeds": "--seeds 0-4 for five seeds",
    "--n-seeds": "--seeds 0-4 for five seeds",
    "--amp": "--precision bf16",
    "--bf16": "--precision bf16",
    "--fp16": "--precision bf16",
    "--env-id": "--eval-env for where to evaluate, --env for where to act and learn",
    "--resume-from": "--out RUN --resume",
    "--load": "--out RUN --resume",
    "--load-model": "--out RUN --resume",
    "--restore": "--out RUN --resume",
}


GIVEN = "offrl.hyperparameters"  # where the context holds them
ONLINE = "offrl.online"  # where it holds the settings of acting
GRID_PAGE = "grid.toml"  # what a grid's folder holds in place of a run.toml
PREFIX = "hyperparameter_"  # apart from the names of train's own parameters
ONLINE_PREFIX = "online_"
RENAMED = {peer: CONVERSIONS.get(peer, ours) for ours in PEERS for peer in PEERS[ours].split()}


class TrainCommand(Command):
    """`train`, which takes the hyper-parameters of the algorithm named in its arguments."""

    _peers: Mapping[str, str] = MappingProxyType({})
    _names: Mapping[str, str] = MappingProxyType({})
    _acting: Mapping[str, str] = MappingProxyType({})

    def renamed(self) -> Mapping[str, str]:
        return {**RENAMED, **self._peers}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        algorithm = self.named(args)
        typed = value_of("--algo", args)
        known = algorithm is not None and (algorithm == typed or not is_code(algorithm))
        if self.acts(args):
            self._add_acting(algorithm if known else None)
        if algorithm is None and not {"-h", "--help"} & set(args):
            raise self.unnamed(args)
        if algorithm is not None and known:
            fields = fields_of(algorithm)
            _refuse_taken(algorithm, fields, [opt for p in self.params for opt in p.opts])
            self._peers = {**self._peers, **peers_of(fields)}
            self._names = {f"{PREFIX}{field.name}": field.name for field in fields}
            self.params = [*self.params, *options(f"Hyper-parameters of {algorithm}", fields)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Hand the hyper-parameters that were given over to the command in its context."""
        given = {name: ctx.params.pop(key) for key, name in self._names.items()}
        ctx.meta[GIVEN] = {name: value for name, value in given.items() if value is not None}
        acting = {name: ctx.params.pop(key) for key, name in self._acting.items()}
        kept = {name: value for name, value in acting.items() if value is not None}
        ctx.meta[ONLINE] = kept if self._acting else None  # None where a run does not act
        return super().invoke(ctx)

    def named(self, args: Sequence[str]) -> str | None:
        """Return the algorithm that the arguments name."""
        return named_algorithm(args)

    def unnamed(self, args: Sequence[str]) -> OffrlError:
        """Return what to say where no algorithm is named."""
        return _no_algorithm(args)

    def acts(self, args: Sequence[str]) -> bool:
        """Tell whether the arguments are of a run that acts while it learns."""
        return value_of("--env", args) is not None or any(
            file.is_file() and "online" in _table(file) for file in _files(args)
        )

    def _add_acting(self, algorithm: str | None) -> None:
        from offrl.algorithm import fields_of as fields
        from offrl.algos import get
        from offrl.online.schedule import SCHEDULES, ReplayConfig

        acts = "" if algorithm is None else get(algorithm).acts
        taken = {opt for p in self.params for opt in p.opts}
        found = [
            field for field in fields(SCHEDULES.get(acts, ReplayConfig)) if flag(field) not in taken
        ]
        steps = dict.fromkeys(["--steps", *PEERS["--steps"].split()], "--env-steps")
        self._peers = {**steps, **_of_others(algorithm, acts), **peers_of(found), **self._peers}
        self._acting = {f"{ONLINE_PREFIX}{field.name}": field.name for field in found}
        self.params = [*self.params, *options("Acting", found, ONLINE_PREFIX)]


def _of_others(algorithm: str | None, acts: str) -> dict[str, str]:
    """Return what to say of settings of acting that algorithms of the other kind have."""
    from offrl.algorithm import fields_of as fields
    from offrl.online.schedule import SCHEDULES

    if acts not in SCHEDULES:
        return {}
    own = {flag(field) for field in fields(SCHEDULES[acts])}
    words = "single transitions" if acts == "replay" else "rollouts"
    remedy = f"leave it out: {algorithm} learns from {words}"
    every = (field for schedule in SCHEDULES.values() for field in fields(schedule))
    return {flag(field): remedy for field in every if flag(field) not in own}


def named_algorithm(args: Sequence[str]) -> str | None:
    """Return the algorithm that the arguments, or the files they point at, name."""
    for source in (value_of("--algo", args), *_files(args)):
        if isinstance(source, str):
            return source
        if source is not None and source.is_file():
            algorithm = _table(source).get("algo")
            if isinstance(algorithm, str):
                return algorithm
    return None


def is_code(algorithm: str) -> bool:
    """Tell whether a name is code of the user, which runs only where it is typed."""
    return algorithm.rpartition(":")[0].endswith(".py")


def value_of(option: str, args: Sequence[str]) -> str | None:
    """Return the last value given to `option` among the arguments, both spellings."""
    found = None
    for index, word in enumerate(args):
        if word == option and index + 1 < len(args):
            found = args[index + 1]
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def _files(args: Sequence[str]) -> list[Path]:
    config, out = value_of("--config", args), value_of("--out", args)
    files = [] if config is None else [Path(config)]
    if out is not None and "--resume" in args:
        files += [Path(out) / "run.toml", Path(out) / GRID_PAGE]
    return files


def _table(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no TOML file: {error}.", "mend that line") from error


def _refuse_taken(algorithm: str, fields: "Sequence[Field]", taken: Sequence[str]) -> None:
    for field in fields:
        if flag(field) in taken:
            raise ConfigError(
                f"The setting '{field.name}' of {algorithm} would hide train's own {flag(field)}.",
                "another name for the setting",
            )


def _no_algorithm(args: Sequence[str]) -> OffrlError:
    from offrl.algos import ALGORITHMS

    if "--resume" in args and value_of("--out", args) is not None:
        return ConfigError(
            f"There is no run to resume in {value_of('--out', args)}.",
            "the folder of a run; or name --algo and --dataset to start one there",
        )
    config = value_of("--config", args)
    if config is not None and not Path(config).is_file():
        return NotFoundError(f"There is no file {config}.", "check the path")
    names = ", ".join(ALGORITHMS)
    return ConfigError(
        "The algorithm is missing.", f"--algo NAME, one of {names}; offrl algos tells more"
    )


def fields_of(algorithm: str) -> "list[Field]":
    """Return the hyper-parameters of an algorithm; NotFoundError where there is none."""
    from offrl import algos
    from offrl.algorithm import fields_of as fields

    return fields(algos.get(algorithm).Config)


def peers_of(fields: "Sequence[Field]") -> dict[str, str]:
    """Return what to type for each name that other projects give to these hyper-parameters."""
    answers: dict[str, str] = {}
    for field in fields:
        ours = f"{flag(field)} ({field.conversion})" if field.conversion else flag(field)
        for peer in field.peers:
            answers.setdefault(f"--{peer}", ours)
            answers.setdefault(f"--{peer.replace('_', '-')}", ours)
    for field in fields:  # as Python writes it
        answers[f"--{field.name}"] = flag(field)
    return answers


def flag(field: "Field") -> str:
    """Return the option of a hyper-parameter."""
    return f"--{field.name.replace('_', '-')}"


def options(title: str, fields: "Sequence[Field]", prefix: str = PREFIX) -> list[Any]:
    """Return one command-line option per field, None where it is not given."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    def holder(**given: object) -> None:
        """Hold the parameters; Typer makes options of a signature only."""

    parameters = [_parameter(title, field, prefix) for field in fields]
    holder.__dict__["__signature__"] = inspect.Signature(parameters)
    holder.__annotations__ = {p.name: p.annotation for p in parameters}
    app.command(add_help_option=False)(holder)
    return list(typer.main.get_command(app).params)


def _parameter(title: str, field: "Field", prefix: str) -> inspect.Parameter:
    parser, metavar = _kind(field)
    default = str(field.default).lower() if field.type is bool else field.default
    option = typer.Option(
        flag(field),
        help=f"{field.help} [default: {default}]".strip(),
        metavar=metavar,
        parser=parser,
        show_default=False,
        rich_help_panel=title,
    )
    return inspect.Parameter(
        f"{prefix}{field.name}",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Any, option],
    )


def _kind(field: "Field") -> tuple[Any, str]:
    if field.choices:
        return one_of(*field.choices), "|".join(field.choices)
    kinds = {bool: (truth, "true|false"), int: (whole, "N"), float: (real, "X")}
    return kinds.get(field.type, (str, "TEXT"))

"""How a command is declared: its own parameters, plus --json and --debug, and one `Answer`."""

import difflib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from offrl.errors import ConfigError
from offrl_cli.output import Answer, answer

JSON_HELP = "Print one JSON object on standard output and nothing else there."
DEBUG_HELP = "Show the traceback of an error."
VERSION_HELP = "Print the version."

Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
Debug = Annotated[bool, typer.Option("--debug", help=DEBUG_HELP)]


class Command(TyperCommand):
    """A command whose help says what its parameters mean, not which Python type they have."""

    def renamed(self) -> Mapping[str, str]:
        """Return what to type for options that other tools have."""
        return {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if getattr(error, "ctx", ctx) is None:
                error.__dict__["ctx"] = ctx  # so that the answer can name the command
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                title = getattr(parameter, "rich_help_panel", None) or kind
                words = record[0].replace(" <str>", "")
                sections.setdefault(title, []).append((words, record[1]))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=max(12, min(30, formatter.width // 3)))


ELSEWHERE = {
    "check": "offrl data check",
    "datasets": "offrl data list",
    "download": "offrl data download",
    "evaluate": "offrl eval",
    "fit": "offrl train",
    "help": "offrl --help",
    "import": "offrl data import",
    "info": "offrl doctor",
    "list": "offrl data list",
    "play": "offrl eval",
    "record": "offrl collect",
    "show": "offrl data show",
    "version": "offrl --version",
}
ORDER = (
    "demo",
    "doctor",
    "collect",
    "data",
    "algos",
    "train",
    "finetune",
    "eval",
    "ope",
    "select",
    "compare",
    "report",
    "sweep",
    "references",
)


class Group(TyperGroup):
    """A group of commands; a mistyped command is answered with the nearest one."""

    def list_commands(self, ctx: Any) -> list[str]:
        rank = {name: place for place, name in enumerate(ORDER)}
        return sorted(super().list_commands(ctx), key=lambda name: rank.get(name, len(rank)))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        if ctx.resilient_parsing:
            return None, None, args[1:]
        remedy = f"{ctx.command_path} --help lists the commands"
        near = difflib.get_close_matches(name, self.commands, n=1)
        if near:
            remedy = f"{ctx.command_path} {near[0]}"
        elif name in ELSEWHERE:
            remedy = ELSEWHERE[name]
        raise ConfigError(f"There is no command '{ctx.command_path} {name}'.", remedy)


def new_app(**options: Any) -> typer.Typer:
    """Return an empty app whose help is plain text and whose errors are ours."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def _version(asked: bool) -> None:
    if asked:
        import offrl

        print(f"offrl {offrl.__version__}")
        raise typer.Exit


def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help=VERSION_HELP)
    ] = False,
    debug: Debug = False,
) -> None:
    """Offline reinforcement learning: collect, check, train, evaluate.

    Start with `offrl demo`: it does all of that in about a minute.
    """


def command(
    app: typer.Typer, name: str, *, cls: type[Command] = Command
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register a function that returns an `Answer` as the command `name` of `app`."""

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        @functools.wraps(function)
        def run(*, json: bool = False, debug: bool = False, **given: Any) -> None:
            with _standard_output_is_for_answers():
                found = function(**given)
            answer(found, as_json=json)
            if found.exit_code:
                raise typer.Exit(found.exit_code)

        own = inspect.signature(function, eval_str=True)
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=hint)
            for key, hint in (("json", Json), ("debug", Debug))
        ]
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        signature = own.replace(
            parameters=[*kept, *shared], return_annotation=inspect.Signature.empty
        )
        run.__dict__.pop("__wrapped__")  # the signature above is the whole truth
        run.__dict__["__signature__"] = signature
        run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        app.command(name, cls=cls)(run)
        return function

    return register


@contextmanager
def _standard_output_is_for_answers() -> Iterator[None]:
    """Send what libraries and environments print, children included, to standard error."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # standard output is closed
        with redirect_stdout(sys.stderr):
            yield
        return
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)

"""The one place where an error becomes two lines on standard error and an exit status."""

import difflib
import errno
import sys
import traceback
from typing import Any

import typer

from offrl.errors import OffrlError
from offrl_cli.output import clean
from offrl_cli.stopping import Stopped, exit_code

WRONG_WORDS = 2
FAILED = 1


def explain(error: BaseException, *, debug: bool) -> int:
    """Print the cause and the remedy of `error` and return the exit status it stands for."""
    if debug and not isinstance(error, Stopped | KeyboardInterrupt):
        traceback.print_exception(error)
    cause, remedy, status = _read(error)
    print(f"error: {clean(cause)}", file=sys.stderr)
    print(f"try: {clean(remedy)}", file=sys.stderr, flush=True)
    return status


def _read(error: BaseException) -> tuple[str, str, int]:
    if isinstance(error, OffrlError):
        return error.cause, error.remedy or "offrl --help lists the commands", error.exit_code
    if isinstance(error, typer.TyperException):
        return (*_words(error), WRONG_WORDS)
    if isinstance(error, Stopped):
        return _stopped(error.exit_code), error.go_on, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        status = exit_code(error)
        return _stopped(status), "the same command again; it had written nothing yet", status
    if isinstance(error, OSError) and error.errno is not None:
        return (*_system(error), FAILED)
    if isinstance(error, MemoryError):
        return "The memory ran out.", "a smaller batch, fewer seeds or fewer environments", FAILED
    kind = type(error).__name__
    return (
        f"This is a bug in offrl: {kind}: {error}",
        "the same command with --debug, and report what it prints",
        FAILED,
    )


def _stopped(status: int) -> str:
    return (
        "Stopped by Ctrl-C." if status == exit_code(KeyboardInterrupt()) else "Stopped by SIGTERM."
    )


def _system(error: OSError) -> tuple[str, str]:
    where = f": {error.filename}" if error.filename else ""
    remedies = {
        errno.ENOSPC: "free some space, or name another folder",
        errno.EDQUOT: "free some space, or name another folder",
        errno.EACCES: "a folder that you may write to",
        errno.EROFS: "a folder that you may write to",
        errno.EPERM: "a folder that you may write to",
        errno.ENOENT: "check the path",
    }
    remedy = remedies.get(error.errno or 0, "the same command with --debug shows where it happened")
    return f"{error.strerror or error}{where}.", remedy


def _words(error: typer.TyperException) -> tuple[str, str]:
    """Return cause and remedy of a usage error, with the nearest right word where there is one."""
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "offrl"
    listing = f"{path} --help"
    parameter: Any = getattr(error, "param", None)
    if hasattr(error, "possibilities") and context is not None:
        option = str(getattr(error, "option_name", ""))
        remedy = _option_remedy(option, context)
        return f"There is no option {option}.", remedy or f"{listing} lists the options"
    if parameter is not None and error.message:
        name = parameter.opts[0] if parameter.opts else parameter.name
        return _sentence(f"{name}: {error.message}"), f"{listing} says what it takes"
    commands = getattr(context.command, "commands", None) if context is not None else None
    if commands:
        return f"'{path}' needs a command.", f"{path} {', '.join(commands)}"
    return _sentence(error.format_message()), f"{listing} lists what there is"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _option_remedy(option: str, context: Any) -> str:
    """Return what to type instead of an option that does not exist, "" where nothing is near."""
    known = [name for parameter in context.command.params for name in parameter.opts]
    told: dict[str, str] = getattr(context.command, "renamed", dict)()
    # An option of another command is no remedy in this one.
    renamed = {k: to for k, to in told.items() if to[:2] != "--" or to.split()[0] in known}
    if option in renamed:
        return renamed[option]
    longer = [name for name in known if name.startswith(f"{option}-")]
    # Of short names, one may be near another that means something else: --l2 and --lr.
    near = longer or difflib.get_close_matches(option, [*known, *renamed], n=1, cutoff=0.76)
    return renamed.get(near[0], near[0]) if near else ""

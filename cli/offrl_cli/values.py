"""Parsers of option values, each with an error that names the value and what was expected."""

from collections.abc import Callable

import typer

from offrl.errors import ConfigError, suggest


def whole(text: str | int) -> int:
    """Parse a whole number; 20_000 and 1e6 are whole numbers too, and so is a default."""
    digits = str(text).replace("_", "")
    try:
        value = float(digits)
    except ValueError:
        value = float("nan")
    if not value.is_integer():
        raise typer.BadParameter(f"'{text}' is not a whole number")
    return int(digits) if digits.lstrip("+-").isdecimal() else int(value)


def positive(text: str | int) -> int:
    """Parse a whole number of at least one."""
    value = whole(text)
    if value < 1:
        raise typer.BadParameter(f"'{text}' is not at least 1")
    return value


def natural(text: str | int) -> int:
    """Parse a whole number of at least zero."""
    value = whole(text)
    if value < 0:
        raise typer.BadParameter(f"'{text}' is below 0")
    return value


def real(text: str) -> float:
    """Parse a number; `inf` is one."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a number") from None


def seconds(text: str | float) -> float:
    """Parse a time above zero."""
    value = real(str(text))
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"'{text}' is not a number of seconds above 0")
    return value


def bounds(text: str) -> tuple[float, float]:
    """Parse `LOW,HIGH`, two numbers in this order."""
    low, comma, high = str(text).partition(",")
    try:
        pair = float(low), float(high)
    except ValueError:
        pair = float("nan"), 0.0
    if not comma or not pair[0] < pair[1]:
        raise typer.BadParameter(f"'{text}' is not two numbers LOW,HIGH")
    return pair


def truth(text: str) -> bool:
    """Parse true or false."""
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if text.lower() not in words:
        raise typer.BadParameter(f"'{text}' is neither true nor false")
    return words[text.lower()]


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of `choices` and answers a near miss with the right one."""

    def parse(text: str) -> str:
        if text not in choices:
            listed = ", ".join(choices)
            raise typer.BadParameter(f"'{text}' is not one of {listed}.{suggest(text, choices)}")
        return text

    return parse


def seeds_of(text: str) -> tuple[int, ...]:
    """Parse seeds: `3`, `0,3,5`, `0-7`, or a mixture; ConfigError where that fails."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"--seeds: '{text}' names no seeds.", "--seeds 0-7 or --seeds 0,3,5")
        seeds.extend(range(int(first), int(last if dash else first) + 1))
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(
            f"--seeds: '{text}' names no seed or one of them twice.", "--seeds 0-7 or --seeds 0,3,5"
        )
    return tuple(seeds)

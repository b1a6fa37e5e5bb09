"""Settings, declared once: frozen dataclasses of scalars with their help beside them.

The command line's flags, the TOML keys, `--help`, the run file and the columns of results are all
made from these classes.
"""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from inspect import get_annotations
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin
from typing import get_type_hints as type_hints

from offrl.errors import ConfigError, suggest


@dataclass(frozen=True)
class Peers:
    """Other toolkits' names of a field, and how their number converts to ours."""

    names: tuple[str, ...]
    conversion: str = ""

    def __init__(self, *names: str, conversion: str = "") -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "conversion", conversion)


class Traced:
    """Marks a float setting that losses read from the state, by `nets.scalar(name)`.

    One compiled update then serves every value of it.
    """


TRACED = Traced()


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Settings, scalars only, so that a field is one flag and one TOML line."""

    def __post_init__(self) -> None:
        for name, (holds, range_) in self.rules().items():
            if not holds:
                raise ConfigError(
                    f"'{name}' must be {range_}, not {getattr(self, name)}.",
                    f"Change --{name.replace('_', '-')} ({name} in a file or in Python).",
                )

    def rules(self) -> dict[str, tuple[bool, str]]:
        """Name -> whether the value may be, and what may be; subclasses add theirs to these."""
        return {}


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig(Configuration):
    """Settings that every algorithm has."""

    discount: Annotated[float, "Weight of the next step's value.", Peers("gamma")] = 0.99
    lr: Annotated[
        float,
        "Adam's learning rate.",
        Peers("learning_rate", "actor_lr", "critic_lr", "policy_lr"),
        TRACED,
    ] = 3e-4
    batch_size: Annotated[int, "Transitions in a gradient step.", Peers("minibatch_size")] = 256
    hidden_size: Annotated[int, "Units of a hidden layer.", Peers("hidden_dim", "width")] = 256
    hidden_layers: Annotated[
        int, "Hidden layers.", Peers("n_hidden", "depth", "layers", "n_layers", "num_layers")
    ] = 2
    normalize_obs: Annotated[
        bool, "Scale observations by the training data's mean and std.", Peers("normalize")
    ] = True

    def rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "discount": (0 <= self.discount <= 1, "from 0 to 1"),
            "lr": (0 < self.lr < float("inf"), "above 0 and finite"),
            "batch_size": (self.batch_size > 0, "at least 1"),
            "hidden_size": (self.hidden_size > 0, "at least 1"),
            "hidden_layers": (self.hidden_layers >= 0, "0 or more"),
        }


@dataclass(frozen=True)
class Field:
    """One setting as the command line and TOML see it."""

    name: str
    type: type
    default: Any
    help: str
    peers: tuple[str, ...] = ()
    conversion: str = ""
    choices: tuple[str, ...] = ()
    traced: bool = False


def fields_of(config: type[Configuration]) -> list[Field]:
    """The settings of a configuration class, in order of declaration, its own before the shared."""
    hints = type_hints(config, include_extras=True)
    found = [_field(f.name, hints[f.name], f.default) for f in fields(config)]
    declared = [get_annotations(base) for base in config.__mro__]
    return sorted(found, key=lambda f: [f.name in names for names in declared].index(True))


def _field(name: str, hint: Any, default: Any) -> Field:
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    kind = str if choices else kind
    if kind not in (int, float, bool, str) or default is MISSING or isinstance(kind, UnionType):
        raise ConfigError(
            f"The setting '{name}' must be a plain int, float, bool, str or Literal with a default."
        )
    peers = next((n for n in notes if isinstance(n, Peers)), Peers())
    text = next((n for n in notes if isinstance(n, str)), "")
    traced = any(isinstance(n, Traced) for n in notes)
    if traced and kind is not float:
        raise ConfigError(f"The setting '{name}' is traced, so it must be a float.")
    return Field(name, kind, default, text, peers.names, peers.conversion, choices, traced)


C = TypeVar("C", bound=Configuration)


def configure(config: type[C], settings: dict[str, Any], also: Iterable[str] = ()) -> C:
    """A configuration from names and values, as flags or TOML give them.

    Raises ConfigError naming the setting: unknown (with ours for a peer's name) or mistyped.
    """
    known = {f.name: f for f in fields_of(config)}
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"There is no setting '{name}'.", unknown_setting(name, config, also))
        values[name] = _convert(known[name], value)
    return config(**values)


def unknown_setting(name: str, config: type[Configuration], also: Iterable[str] = ()) -> str:
    """What to type instead of `name`: our name of a peer's setting, or the nearest of ours.

    `also` names settings that are set beside the algorithm's own.
    """
    found = fields_of(config)
    plain = name.replace("-", "_").lower()
    for field in found:
        if plain in field.peers:
            note = f" ({field.conversion})" if field.conversion else ""
            return f"Here it is called '{field.name}'{note}."
    near = suggest(plain, [*(f.name for f in found), *also, *(p for f in found for p in f.peers)])
    for field in found:  # a misspelt peer's name is answered with ours
        if any(near == f" Did you mean '{peer}'?" for peer in field.peers):
            near = f" Did you mean '{field.name}'?"
    return near.strip() or f"There are: {', '.join(sorted(f.name for f in found))}."


def _convert(field: Field, value: Any) -> Any:
    wrong = ConfigError(
        f"'{field.name}' takes {_described(field)}, not {value!r}.", f"It means: {field.help}"
    )
    if field.choices and value not in field.choices:
        raise wrong
    if field.type is bool or isinstance(value, bool):
        if field.type is bool and isinstance(value, bool):
            return value
        raise wrong
    if field.type is float and isinstance(value, int | float):
        return float(value)
    if not isinstance(value, field.type):
        raise wrong
    return value


def _described(field: Field) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return f"one of {', '.join(field.choices)}" if field.choices else words[field.type]


def traced_settings(config: AlgorithmConfig) -> dict[str, float]:
    """The traced settings of a configuration; the learning rate is kept by Adam."""
    names = [f.name for f in fields_of(type(config)) if f.traced and f.name != "lr"]
    return {name: float(getattr(config, name)) for name in names}

"""Recipes: what to collect, with which behaviours and seed, so that anyone gets the same data.

A recipe is a TOML file, `datasets/<name>/<variant>-v0/recipe.toml` for `offrl/<name>/<variant>-v0`:

    env = "Pendulum-v1"
    episodes = 200                       # or env_steps = 40000
    seed = 0
    description = "one sentence"

    [[behaviors]]
    policy = "pendulum-swing-up"         # what --policy takes
    noise = 0.3                          # std, in the environment's action units
    epsilon = 0.5                        # share of uniform actions
    weight = 1                           # share of the episodes

    [references]                         # mean returns, for scores from 0 to 100
    random = -1217.0
    expert = -150.3
    source = "where they come from"

    [awr]                                # settings of an algorithm on this data
    temperature = 1.0
"""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from offrl.data.catalogue import check_id, shipped_recipes
from offrl.errors import ConfigError, NotFoundError, suggest

Scalar = bool | int | float | str

_TABLES = ("behaviors", "references")
_PLAIN = ("id", "env", "episodes", "env_steps", "seed", "trust", "description", "license")
_ALGORITHM = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class BehaviorSpec:
    """One behaviour of a recipe: a policy by name or path, and how it explores."""

    policy: str
    noise: float = 0.0  # std of Gaussian noise, environment action units
    epsilon: float = 0.0  # probability of a uniform action
    stochastic: bool = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        if not self.policy:
            raise ConfigError("A behaviour names no policy.", "Write random, a name or a path.")
        for name, value, high in (
            ("noise", self.noise, math.inf),
            ("epsilon", self.epsilon, 1.0),
            ("weight", self.weight, math.inf),
        ):
            if not (math.isfinite(value) and 0.0 <= value <= high):
                raise ConfigError(
                    f"{name}={value:g} of policy '{self.policy}' is out of range.",
                    f"It must be between 0 and {high:g}.",
                )
        if self.weight == 0.0:
            raise ConfigError(
                f"Policy '{self.policy}' has weight 0, so it would never act.", "Leave it out."
            )

    @classmethod
    def parse(cls, text: str) -> "BehaviorSpec":
        """Read `POLICY,noise=0.3,epsilon=0.5,stochastic,weight=3` as `--policy` takes it."""
        policy, *options = (part.strip() for part in text.split(","))
        given: dict[str, Any] = {}
        for option in options:
            name, equals, value = (part.strip() for part in option.partition("="))
            _known(name, _OPTIONS, f"the policy '{text}'")
            if name in given:
                raise ConfigError(f"'{name}' is given twice in '{text}'.", "Give it once.")
            if name == "stochastic":
                if equals:
                    raise ConfigError(f"'stochastic' takes no value in '{text}'.", "Drop it.")
                given[name] = True
            else:
                try:
                    given[name] = float(value)
                except ValueError:
                    raise ConfigError(
                        f"'{option}' in '{text}' is not a number.", f"Write {name}=0.3."
                    ) from None
        return cls(policy, **given)

    def __str__(self) -> str:
        """Return the behaviour as `--policy` takes it."""
        parts = [self.policy]
        parts += [f"{n}={getattr(self, n):g}" for n in ("noise", "epsilon") if getattr(self, n)]
        parts += ["stochastic"] if self.stochastic else []
        parts += [f"weight={self.weight:g}"] if self.weight != 1.0 else []
        return ",".join(parts)


_OPTIONS = tuple(f.name for f in fields(BehaviorSpec) if f.name != "policy")


@dataclass(frozen=True)
class Recipe:
    """A dataset that can be made again: environment, behaviours, amount and seed."""

    env: str
    behaviors: tuple[BehaviorSpec, ...]
    episodes: int | None = None
    env_steps: int | None = None
    seed: int = 0
    trust: bool = False  # whether the pickled parts of agents were executed, where needed
    id: str | None = None
    description: str = ""
    license: str = ""
    references: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    algorithms: Mapping[str, Mapping[str, Scalar]] = field(
        default_factory=dict[str, Mapping[str, Scalar]]
    )

    def __post_init__(self) -> None:
        """Raise ConfigError where the recipe does not say what to collect."""
        if self.id is not None:
            check_id(self.id)
        if not self.behaviors:
            raise ConfigError("There is no behaviour to collect with.", "Name a policy: random.")
        if (self.episodes is None) == (self.env_steps is None):
            how = "not given" if self.episodes is None else "given twice, in episodes and in steps"
            raise ConfigError(
                f"The amount to collect is {how}.",
                "Give one of the two: episodes=N or env_steps=N (--episodes N or --env-steps N).",
            )
        for name in ("episodes", "env_steps"):
            amount = getattr(self, name)
            if amount is not None and amount < 1:
                raise ConfigError(f"{name}={amount} collects nothing.", "It must be 1 or more.")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} is negative.", "Seeds are 0 or more.")
        if self.trust and not any(b.policy.startswith("sb3:") for b in self.behaviors):
            raise ConfigError(
                "There is nothing to trust: no policy is an agent of Stable-Baselines3.",
                "Leave --trust out; it concerns sb3:FILE.zip.",
            )

    @property
    def name(self) -> str:
        """Return the id, or where none was given one made of environment and policies."""
        return self.id or name_of(self.env, [behavior.policy for behavior in self.behaviors])

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON holds it, without what is empty."""
        whole = asdict(self) | {"behaviors": [asdict(b) for b in self.behaviors]}
        empty = (None, "", {})
        return {k: v for k, v in whole.items() if v not in empty and v is not False}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], source: str) -> "Recipe":
        """Build a recipe from a TOML or JSON table; ConfigError names the key that is off."""
        given: dict[str, Any] = {}
        tables: dict[str, Mapping[str, Scalar]] = {}
        for key, value in table.items():
            if key == "behaviors":
                given[key] = _behaviors(value, source)
            elif key == "references":
                given[key] = _references(value, source)
            elif key == "algorithms" and isinstance(value, Mapping):
                tables |= {k: _scalars(v, f"[{k}] of {source}") for k, v in value.items()}
            elif key in _PLAIN:
                given[key] = _plain(key, value, source)
            elif isinstance(value, Mapping) and _is_algorithm(key):
                tables[key] = _scalars(value, f"[{key}] of {source}")
            else:
                _known(key, (*_PLAIN, *_TABLES), source)
        for key in ("env", "behaviors"):
            if key not in given:
                raise ConfigError(f"{source} has no '{key}'.", f"Add {key} to it.")
        return cls(**given, algorithms=tables)


def name_of(env: str, policies: Sequence[str]) -> str:
    """Return the id of data that nobody named: me/cartpole/random-v0, me/cartpole/mixed-v0."""
    last = (re.split("[:/]", policy.partition(",")[0].rstrip("/"))[-1] for policy in policies)
    words = {word.removesuffix(".zip").removesuffix(".safetensors") for word in last}
    world = re.sub(r"-v\d+$", "", env.rpartition(":")[2].rpartition("/")[2])
    parts = (world, words.pop() if len(words) == 1 else "mixed")
    return "me/" + "/".join(_letters(part) for part in parts) + "-v0"


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "x"


def load_recipe(name: str | Path) -> Recipe:
    """Read a shipped recipe by id, or a recipe file (or its folder) by path.

    Raises NotFoundError where there is none, ConfigError for a key or a value that is off.
    """
    shipped = shipped_recipes()
    text = str(name)
    if text in shipped:
        return _read(shipped[text] / "recipe.toml", text)
    path = Path(name)
    path = path / "recipe.toml" if path.is_dir() else path
    if path.is_file():
        return _read(path, None)
    if path.suffix == ".toml":
        raise NotFoundError(f"There is no recipe file {path}.", "Check the path.")
    raise NotFoundError(
        f"There is no recipe '{text}'.{suggest(text, shipped)}",
        "`offrl data list` shows the recipes, or give the path of a recipe.toml, or --env.",
    )


def _read(path: Path, recipe_id: str | None) -> Recipe:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.", "Correct the line it names.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", "Check it.") from error
    source = recipe_id or str(path)
    if recipe_id is not None:
        table.setdefault("id", recipe_id)
    return Recipe.from_dict(table, source)


def _known(name: str, choices: Sequence[str], where: str) -> None:
    if name not in choices:
        raise ConfigError(
            f"Unknown '{name}' in {where}.{suggest(name, choices)}",
            f"Known are {', '.join(choices)}.",
        )


def _is_algorithm(key: str) -> bool:
    # A table near one of ours is a slip (`reference`), not an algorithm of that name.
    return bool(_ALGORITHM.fullmatch(key)) and not suggest(key, _TABLES)


_KINDS: dict[str, tuple[type, ...]] = {
    "episodes": (int,), "env_steps": (int,), "seed": (int,), "noise": (int, float),
    "epsilon": (int, float), "weight": (int, float), "stochastic": (bool,), "trust": (bool,),
    "random": (int, float), "expert": (int, float), "n": (int,),
}  # fmt: skip


def _plain(key: str, value: Any, source: str) -> Any:
    kinds = _KINDS.get(key, (str,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(
            f"'{key}' of {source} is {value!r}.",
            f"It must be {' or '.join('text' if k is str else k.__name__ for k in kinds)}.",
        )
    return value


def _scalars(value: Any, source: str) -> dict[str, Scalar]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{source} is {value!r}.", "It must be a table of plain values.")
    for key, entry in value.items():
        if not isinstance(entry, bool | int | float | str):
            raise ConfigError(f"'{key}' of {source} is {entry!r}.", "It must be a plain value.")
    return dict(value)


def _references(value: Any, source: str) -> dict[str, Scalar]:
    source = f"[references] of {source}"
    given = _scalars(value, source)
    for key, entry in given.items():
        _known(key, ("random", "expert", "source", "n"), source)
        _plain(key, entry, source)
    return given


def _behaviors(value: Any, source: str) -> tuple[BehaviorSpec, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigError(f"'behaviors' of {source} is {value!r}.", "Write [[behaviors]] tables.")
    return tuple(_behavior(entry, source) for entry in value)


def _behavior(entry: Any, source: str) -> BehaviorSpec:
    source = f"a behaviour of {source}"
    if isinstance(entry, str):
        return BehaviorSpec.parse(entry)
    given = _scalars(entry, source)
    for key, value in given.items():
        _known(key, ("policy", *_OPTIONS), source)
        _plain(key, value, source)
    if "policy" not in given:
        raise ConfigError(f"{source} names no policy.", 'Add policy = "random".')
    numbers = {k: float(v) for k, v in given.items() if k in ("noise", "epsilon", "weight")}
    return BehaviorSpec(**(given | numbers))  # pyright: ignore[reportArgumentType]

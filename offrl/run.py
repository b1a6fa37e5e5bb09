"""`Run`: all that decides what a training run computes, resolved once, written as run.toml."""

import json
import os
import platform
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w

from offrl.errors import (
    ConfigError,
    CorruptDataError,
    IncompatibleVersionError,
    NotFoundError,
    suggest,
)

FORMAT = 1
RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a person may set of a run, besides the algorithm's own configuration."""

    algo: str
    dataset: str
    steps: int = 100_000
    seeds: tuple[int, ...] = (0,)
    holdout: float | None = None
    eval_env: str | None = None
    eval_every: int | None = None
    eval_episodes: int = 10
    log_every: int | None = None
    save_every: int | None = None
    select: str | None = None
    device: str = "auto"
    compile: str = "auto"
    precision: str = "fp32"
    threads: int = 1
    allow_nonfinite: str | None = None
    clip_actions: bool = False

    def __post_init__(self) -> None:
        for name in ("algo", "dataset", "eval_env", "device", "select"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"'{name}' is text, not {value!r}.")
        for name in ("steps", "eval_every", "eval_episodes", "log_every", "save_every", "threads"):
            value = getattr(self, name)
            if value is not None and (not _whole(value) or value < 1):
                raise ConfigError(f"'{name}' must be a whole number from 1, not {value!r}.")
        if not isinstance(self.clip_actions, bool):
            raise ConfigError(f"'clip_actions' is true or false, not {self.clip_actions!r}.")
        if not self.seeds or any(not _whole(s) or s < 0 for s in self.seeds):
            raise ConfigError("'seeds' must be whole numbers from 0.", "Use --seeds 0-4.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("'seeds' names one seed twice.", "Name each seed once.")
        share = self.holdout
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if share is not None and not (number and 0 <= share < 1):
            raise ConfigError(
                f"'holdout' is a share of episodes from 0 to below 1, not {share!r}.",
                "Use --holdout 0.2.",
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"'{name}' cannot be {getattr(self, name)!r}.",
                    f"Use one of {', '.join(str(c) for c in choices if c)}.",
                )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "compile": ("auto", "on", "off"),
    "precision": ("fp32", "bf16"),
    "allow_nonfinite": (None, "drop-episode"),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """Settings, configuration, and the facts that they were resolved to."""

    settings: Settings  # nothing in here is "auto" or None any more, except eval_env and eval_every
    config: dict[str, Any]  # the algorithm's settings, every one
    algorithm: str  # the algorithm's own name, also that of its table in run.toml
    fingerprint: str  # of the dataset
    held_out: tuple[int, ...]  # numbers of the episodes that no loss and no statistic sees
    spec: dict[str, str]  # the spaces, as Minari writes them
    env: str | None  # the dataset's registered environment
    versions: dict[str, str]
    source_sha256: str | None = None  # of a user's algorithm file
    online: dict[str, Any] | None = None  # how it acts and learns, where it does
    env_steps: int | None = None  # steps in the environment `env`
    parent: str | None = None  # the run that it goes on from
    policy_sha256: str | None = None  # of the weights of a policy that the run judges

    def to_toml(self) -> str:
        """The text of run.toml: what can be set at the top, what was found below."""
        settings = {k: v for k, v in asdict(self.settings).items() if v is not None}
        settings["seeds"] = list(self.settings.seeds)
        facts = {
            "algorithm": self.algorithm,
            "fingerprint": self.fingerprint,
            "held_out": list(self.held_out),
            "spec": self.spec,
            "env": self.env,
            "versions": self.versions,
            "source_sha256": self.source_sha256,
            "env_steps": self.env_steps,
            "parent": self.parent,
            "policy_sha256": self.policy_sha256,
        }
        resolved = {k: v for k, v in facts.items() if v is not None}
        online = {} if self.online is None else {"online": self.online}
        return tomli_w.dumps(
            {
                "format": FORMAT,
                **settings,
                self.algorithm: self.config,
                **online,
                "resolved": resolved,
            }
        )

    def resumed(self, now: "Run", folder: Path | None) -> tuple["Run", list[str]]:
        """This run as `now` goes on with it in `folder`, and notes on what is not the same.

        Raises ConfigError where `now` has other settings.
        """
        if differences := self.differences(now):
            raise ConfigError(
                f"The run in {folder} was started otherwise: {'; '.join(differences)}.",
                "Resume it with --out RUN --resume alone, or train into a new folder.",
            )
        notes = [
            f"{name} is {now.versions.get(name)}, was {was}: the resumed run is not exact."
            for name, was in self.versions.items()
            if now.versions.get(name) != was
        ]
        # The user's file may be typed by another path now; that is the one to open again.
        return replace(self, settings=replace(self.settings, algo=now.settings.algo)), notes

    def differences(self, other: "Run") -> list[str]:
        """How `other` departs from this run, one clause each; versions aside."""
        mine, theirs = tomllib.loads(self.to_toml()), tomllib.loads(other.to_toml())
        for side in (mine, theirs):
            side["resolved"].pop("versions")
            if "source_sha256" in side["resolved"]:  # a user's file may be named by another path
                side["algo"] = side["algo"].rpartition(":")[2]
        flat_mine, flat_theirs = _flat(mine), _flat(theirs)
        return [
            f"{key} is {flat_theirs.get(key)!r}, was {flat_mine.get(key)!r}"
            for key in sorted(flat_mine.keys() | flat_theirs.keys())
            if flat_mine.get(key) != flat_theirs.get(key)
        ]


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def read_run(path: Path) -> Run:
    """The run of a folder's run.toml; a user's algorithm file is not imported.

    Raises CorruptDataError or IncompatibleVersionError naming the file.
    """
    table = read_toml(path)
    try:
        resolved = table["resolved"]
        name = resolved["algorithm"]
        return Run(
            settings=settings_of({k: v for k, v in table.items() if k in SETTINGS}),
            config=table[name],
            algorithm=name,
            fingerprint=resolved["fingerprint"],
            held_out=tuple(resolved["held_out"]),
            spec=resolved["spec"],
            env=resolved.get("env"),
            versions=resolved["versions"],
            source_sha256=resolved.get("source_sha256"),
            online=table.get("online"),
            env_steps=resolved.get("env_steps"),
            parent=resolved.get("parent"),
            policy_sha256=resolved.get("policy_sha256"),
        )
    except (KeyError, TypeError) as error:
        raise CorruptDataError(
            f"{path} lacks what a run needs: {error}.", "Train again into a new folder."
        ) from error


SETTINGS = {f.name for f in fields(Settings)}


def settings_of(values: dict[str, Any]) -> Settings:
    """Settings from names and values; ConfigError where algorithm or dataset are missing."""
    if missing := [name for name in ("algo", "dataset") if values.get(name) is None]:
        raise ConfigError(
            f"A run needs an algorithm and a dataset; there is no {' and no '.join(missing)}.",
            "Give --algo and --dataset, or a --config file that names them.",
        )
    seeds = values.get("seeds", (0,))
    if isinstance(seeds, int):
        seeds = (seeds,)
    return Settings(**{**values, "seeds": tuple(seeds)})


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file of ours; NotFoundError, CorruptDataError or IncompatibleVersionError name it."""
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.", "Look at the path.")
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CorruptDataError(f"{path} is not TOML: {error}.", "Mend or replace it.") from error
    if table.get("format", FORMAT) != FORMAT:
        raise IncompatibleVersionError(
            f"{path} has format {table['format']}; this offrl reads format {FORMAT}.",
            "Install the offrl that wrote it.",
        )
    return table


def refuse_unread(
    path: Path, file: dict[str, Any], algorithm: str, algorithms: Iterable[str]
) -> None:
    """Raise ConfigError for a key of a config file that nothing reads, with the nearest one.

    A table may be that of another algorithm, so that one file serves several.
    """
    tables = {algorithm, *algorithms, "online", "resolved"}
    for key, value in file.items():
        table = isinstance(value, dict)
        if key not in (tables if table else SETTINGS | {"format"}):
            near = suggest(key, tables - {"resolved"} if table else SETTINGS)
            raise ConfigError(
                f"{path} sets '{key}', which nothing reads.{near}",
                f"Settings of the algorithm go into a [{algorithm}] table.",
            )


def current_versions() -> dict[str, str]:
    """Versions that bits depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("offrl", "torch", "numpy", "gymnasium", "minari"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware(device: str = "cpu") -> str:
    """The machine in a few words: system, processor, cores, and the device that computes."""
    processor = platform.processor()
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        names = [line for line in text.splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    except OSError:
        pass  # another system than Linux
    told = [f"{platform.system()} {platform.machine()}", processor, f"{os.cpu_count()} cores"]
    if device.startswith("cuda"):
        import torch

        told.append(torch.cuda.get_device_name(device))
    return ", ".join(part for part in told if part)


def read_result(folder: Path) -> dict[str, Any]:
    """What a run's result.json holds; nothing where there is none.

    Raises CorruptDataError where it is damaged, IncompatibleVersionError for another format.
    """
    path = folder / RESULT
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CorruptDataError(
            f"{path} cannot be read: {error}.", "Mend it, or move it away."
        ) from error
    if not isinstance(found, dict):
        raise CorruptDataError(f"{path} is not a JSON object.", "Mend it, or move it away.")
    if found.get("format", FORMAT) != FORMAT:
        raise IncompatibleVersionError(
            f"{path} has format {found['format']}; this offrl reads format {FORMAT}.",
            "Install the offrl that wrote it.",
        )
    return found

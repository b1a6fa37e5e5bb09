"""The algorithms: one file each, one line here."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from offrl.algorithm import Algorithm
from offrl.errors import ConfigError, NotFoundError, suggest

ALGORITHMS = {
    "awr": "offrl.algos.awr:AWR",
    "bc": "offrl.algos.bc:BC",
    "cal-ql": "offrl.algos.cal_ql:CalQL",
    "cql": "offrl.algos.cql:CQL",
    "ddpg": "offrl.algos.ddpg:DDPG",
    "dqn": "offrl.algos.dqn:DQN",
    "fqe": "offrl.algos.fqe:FQE",
    "iql": "offrl.algos.iql:IQL",
    "iwpg": "offrl.algos.iwpg:IWPG",
    "sac": "offrl.algos.sac:SAC",
    "td3": "offrl.algos.td3:TD3",
    "td3-bc": "offrl.algos.td3_bc:TD3BC",
}


def get(name: str) -> type[Algorithm[Any]]:
    """The algorithm called `name`, or the class named by `FILE.py:CLASS`.

    Raises NotFoundError with the nearest name; ConfigError where the class is no Algorithm.
    """
    if name in ALGORITHMS:
        module, _, attribute = ALGORITHMS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), attribute)
    raise NotFoundError(
        f"There is no algorithm '{name}'.{suggest(name, ALGORITHMS)}",
        f"Use one of {', '.join(sorted(ALGORITHMS))}, or your own as FILE.py:CLASS.",
    )


def source_of(name: str) -> Path | None:
    """The file of an algorithm that was named by path, else None."""
    path, _, _ = name.rpartition(":")
    return Path(path) if path.endswith(".py") else None


def _from_file(path: Path, attribute: str) -> type[Algorithm[Any]]:
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.", "Give --algo FILE.py:CLASS.")
    name = f"_offrl_algorithm_{path.stem}"  # a file called random.py must not hide a module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file.", "Give --algo FILE.py:CLASS.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise ConfigError(
            f"{path} cannot be imported: {type(error).__name__}: {error}.",
            "Run it by itself first.",
        ) from error
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        classes = [
            k
            for k, v in vars(module).items()
            if isinstance(v, type) and issubclass(v, Algorithm) and v.__module__ == name
        ]
        raise ConfigError(
            f"{path} has no algorithm '{attribute}'.",
            f"It has: {', '.join(classes)}." if classes else "Subclass offrl.Algorithm in it.",
        )
    return found

"""Environments: made from what the user typed, or from an installed id that a dataset names.

A dataset's metadata is data. Of the environment that it describes, only an id that is registered
here is made, with the dataset's keyword arguments only where its entry point is the installed one;
entry points, wrappers and `module:Id` of metadata are never imported unless the user trusts it.
"""

import dataclasses
import difflib
import importlib
import importlib.metadata
import importlib.util
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import error, spaces
from gymnasium.envs.registration import EnvSpec
from packaging.requirements import InvalidRequirement, Requirement

from offrl.data.metadata import ENV_PACKAGES, entry_text
from offrl.data.spec import Spec
from offrl.errors import ConfigError, EnvError, NotFoundError, OffrlError, UnsafeDataError

# Packages that register environments when imported: the ids they bring and how they are installed.
PACKAGES: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (module, pip, re.compile(pattern))
    for module, pip, pattern in (
        (
            "gymnasium_robotics",
            "gymnasium-robotics",
            r"(Fetch|Hand(Reach|Manipulate)|Adroit|AntMaze|PointMaze|FrankaKitchen|MaMuJoCo).*",
        ),
        ("minigrid", "minigrid", r"(MiniGrid|BabyAI)-.*"),
        ("ale_py", "ale-py", r"ALE/.*"),
        (
            "ogbench",
            "ogbench",
            r"(pointmaze|antmaze|antsoccer|humanoidmaze|cube|scene|puzzle|powderworld|visual)-.*",
        ),
        ("miniworld", "miniworld", r"MiniWorld-.*"),
        ("highway_env", "highway-env", r"(highway|merge|roundabout|parking|intersection)(-.*)?"),
        ("panda_gym", "panda-gym", r"Panda[A-Z].*"),
        ("flappy_bird_gymnasium", "flappy-bird-gymnasium", r"FlappyBird-.*"),
    )
)
# What a missing module is installed with, where that is not its own name.
_INSTALL = {
    "mujoco": "gymnasium[mujoco]", "box2d": "gymnasium[box2d]",
    "pygame": "gymnasium[classic-control]", "jax": "gymnasium[jax]",
    "ale_py": "ale-py", "cv2": "opencv-python",
}  # fmt: skip


class DescribesEnv(Protocol):
    """What a dataset says of its environment."""

    id: str
    metadata: dict[str, Any]

    @property
    def spec(self) -> Spec:
        """The spaces of the data."""
        ...


def make_env(
    id: str, *, kwargs: Mapping[str, Any] | None = None, trust: bool = True
) -> gymnasium.Env[Any, Any]:
    """Make the environment `id`; with `trust`, as for what a user typed, also `module:Id-v0`.

    Raises NotFoundError for an id that is not registered (the nearest one is named), EnvError for
    one that cannot be made (the package to install is named), UnsafeDataError for `module:Id-v0`
    without trust.
    """
    if ":" in id:
        if not trust:
            raise UnsafeDataError(
                f"'{id}' names a module to import, and you did not type it.",
                f"If you trust it, type --env {id} or --trust-env.",
            )
    else:
        register(id)
    return _make(id, dict(kwargs or {}))


def env_for(
    dataset: DescribesEnv, *, trust_env: bool = False, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """Make the environment in which policies of a dataset are evaluated, and check its spaces.

    It is the metadata's eval_env_spec, else its env_spec. Raises ConfigError where there is none,
    UnsafeDataError where making it would follow an entry point, a wrapper or a module that the
    dataset names and `trust_env` is not given, NotFoundError, EnvError.
    """
    described = env_description(dataset.metadata)
    if described is None:
        raise ConfigError(f"{dataset.id} names no environment.", "Give one: --env ENV (env='ENV').")
    drawing = {} if render_mode is None else {"render_mode": render_mode}
    if trust_env:
        env = _trusted(described, drawing)
    else:
        id, kwargs = _installed_spec(described)
        env = _make(id, kwargs | drawing)
    try:
        check_spaces(env, dataset.spec)
    except OffrlError:
        env.close()
        raise
    return env


def plain_spec(env: gymnasium.Env[Any, Any]) -> EnvSpec | None:
    """Return the spec of an environment as a dataset should name it."""
    # `make_env` goes without gymnasium's checker; that is no property of the environment.
    spec = env.spec
    return None if spec is None else dataclasses.replace(spec, disable_env_checker=False)


def env_description(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the metadata's eval_env_spec, else its env_spec, as plain data; None without both."""
    for key in ("eval_env_spec", "env_spec"):
        text = metadata.get(key)
        if not isinstance(text, str):
            continue
        try:
            described = json.loads(text)
        except (ValueError, RecursionError):
            described = None
        if isinstance(described, dict) and isinstance(described.get("id"), str):
            return described
    return None


def register(id: str) -> None:
    """Import the allow-listed package that brings `id`, if one does and it is not registered yet.

    Raises EnvError naming the package where it is not installed.
    """
    if id in gymnasium.registry:
        return
    for module, pip, pattern in PACKAGES:
        if not pattern.fullmatch(id):
            continue
        if importlib.util.find_spec(module) is None:
            raise EnvError(f"The environment '{id}' needs {module}.", f"pip install {pip}")
        with _quiet():
            imported = importlib.import_module(module)
            gymnasium.register_envs(imported)
            # Since gymnasium 1.0 some packages register in a function that plugins call.
            hook = getattr(imported, "register_robotics_envs", None)
            if id not in gymnasium.registry and hook is not None:
                hook()
        return


def made_anywhere(id: str) -> bool:
    """Return whether another process can make `id` too: it was not registered in this one alone."""
    known = gymnasium.registry.get(id.partition(":")[2] or id)
    entry = None if known is None else known.entry_point
    ours = isinstance(entry, str) and entry.startswith("gymnasium.")
    return ":" in id or ours or any(pattern.fullmatch(id) for _, _, pattern in PACKAGES)


def check_spaces(env: gymnasium.Env[Any, Any], spec: Spec) -> None:
    """Raise EnvError where the environment's spaces are not the data's, before any step.

    Observation bounds may differ, since nothing depends on them; action bounds may not.
    """
    for name, ours, theirs in (
        ("observations", spec.observation_space, env.observation_space),
        ("actions", spec.action_space, env.action_space),
    ):
        difference = _difference(ours, theirs, bounds=name == "actions")
        if difference:
            raise EnvError(
                f"The {name} of {name_of(env)} are not the data's: {difference}.",
                "Name the environment that the data came from: --env ENV.",
            )


def version_note(metadata: Mapping[str, Any]) -> str | None:
    """Return a warning where environments have other versions than those that made a dataset."""
    ours = metadata.get("offrl")
    recorded = ours.get("versions") if isinstance(ours, Mapping) else None
    differing: list[str] = []
    if isinstance(recorded, Mapping):
        for name in ENV_PACKAGES.values():
            then, now = recorded.get(name), _version(name)
            if isinstance(then, str) and then != now:
                differing.append(f"{name} {then} then, {now or 'not installed'} now")
    requirements = metadata.get("requirements")
    for text in requirements if isinstance(requirements, list) else ():
        try:
            required = Requirement(str(text))
        except InvalidRequirement:
            continue
        now = _version(required.name)
        if now is None or not required.specifier.contains(now, prereleases=True):
            differing.append(f"it requires {required}, {now or 'not installed'} now")
    if not differing:
        return None
    return (
        f"The data was made with other versions ({'; '.join(differing)}): the same policy may get "
        "other returns, so do not compare across."
    )


def other_version(env_id: str, logged: str | None) -> tuple[str, ...]:
    """Return a note where `env_id` is the data's environment in another version."""
    if logged is None or env_id == logged:
        return ()
    if env_id.rpartition("-v")[0] != logged.rpartition("-v")[0]:
        return ()
    return (f"The data was logged in {logged}; returns in {env_id} need not compare with its.",)


def _installed_spec(described: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    id = described["id"]
    if ":" in id:
        raise UnsafeDataError(
            f"The dataset names the environment '{id}', a module to import.",
            "If you trust it, --trust-env imports it; or name an environment: --env ENV.",
        )
    register(id)
    entry, wrappers = described.get("entry_point"), described.get("additional_wrappers")
    known = gymnasium.registry.get(id)
    if known is None and entry is not None:
        raise UnsafeDataError(
            f"The dataset's environment '{id}' is not installed; it names the code {entry!r}.",
            "Install its package, or give --env ENV; --trust-env runs what the dataset names.",
        )
    if known is None:
        raise _unknown(id)
    installed = entry_text(known.entry_point)
    if entry is not None and entry != installed:
        raise UnsafeDataError(
            f"The dataset says that '{id}' is {entry!r}; the installed one is {installed!r}.",
            f"--env {id} uses the installed one; --trust-env runs what the dataset names.",
        )
    if wrappers:
        raise UnsafeDataError(
            f"The dataset's environment '{id}' has wrappers of its own to import.",
            f"--env {id} leaves them out; --trust-env runs what the dataset names.",
        )
    kwargs = described.get("kwargs") if entry is not None else None
    given = dict(kwargs) if isinstance(kwargs, Mapping) else {}
    given.pop("render_mode", None)  # nobody asked for a window
    limit = described.get("max_episode_steps")
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        given["max_episode_steps"] = limit
    return id, given


def _trusted(described: Mapping[str, Any], drawing: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    try:
        known = {"additional_wrappers": []} | {
            k: v for k, v in described.items() if k in _SPEC_FIELDS
        }
        spec = EnvSpec.from_json(json.dumps(known))
    except (TypeError, ValueError, KeyError, error.Error) as problem:
        raise EnvError(
            f"The dataset's environment spec is off: {problem}", "Give --env ENV."
        ) from problem
    if spec.entry_point is None:
        return make_env(spec.id, kwargs=spec.kwargs | drawing)
    return _make(spec, drawing)


_SPEC_FIELDS = (
    "id", "entry_point", "reward_threshold", "nondeterministic", "max_episode_steps",
    "order_enforce", "disable_env_checker", "kwargs", "additional_wrappers", "vector_entry_point",
)  # fmt: skip


def _make(id: str | EnvSpec, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    name = id if isinstance(id, str) else id.id
    try:
        with _quiet():
            # The passive checker only warns, and costs time at every step; we check by ourselves.
            return gymnasium.make(id, disable_env_checker=True, **kwargs)
    except (error.UnregisteredEnv, error.DeprecatedEnv) as problem:
        raise _unknown(name) from problem
    except error.DependencyNotInstalled as problem:
        raise EnvError(
            f"The environment '{name}' needs a package: {' '.join(map(str, problem.args))}",
            _advice(str(problem), None),
        ) from problem
    except ImportError as problem:
        raise EnvError(
            f"The environment '{name}' cannot be imported: {problem}",
            _advice(str(problem), problem.name),
        ) from problem
    except error.Error as problem:
        raise NotFoundError(f"'{name}' is not an environment id: {problem}", "") from problem
    except Exception as problem:
        raise EnvError(
            f"Making the environment '{name}' raised {type(problem).__name__}: {problem}",
            "Make it with gymnasium.make to see where.",
        ) from problem


def _unknown(id: str) -> NotFoundError:
    plain = id.partition(":")[2] or id
    return NotFoundError(
        f"There is no environment '{plain}'.{_near(plain)}",
        "Check the id, install its package, or write module:Id-v0 for a module that registers it.",
    )


def _near(id: str) -> str:
    newest: dict[str, str] = {}  # by lower-case name without its version
    for known in gymnasium.registry:
        name, _, version = known.rpartition("-v")
        held = newest.get(name.lower())
        if held is None or int(version) > int(held.rpartition("-v")[2]):
            newest[name.lower()] = known
    name = (id.rpartition("-v")[0] or id).lower()
    found = difflib.get_close_matches(name, newest, n=1, cutoff=0.6)
    return f" Did you mean '{newest[found[0]]}'?" if found else ""


def _advice(message: str, module: str | None) -> str:
    quoted = re.search(
        r"pip install [\"']?(gymnasium\[[a-z0-9-]+\]|[A-Za-z0-9_.-]+\[[^\]]+\])", message
    )
    if quoted:
        return f'pip install "{quoted[1]}"'
    lowered = f"{module or ''} {message}".lower()
    if "mujoco_py" in lowered:
        return "It needs the old mujoco-py; use the newest version of the environment."
    for name, package in _INSTALL.items():
        if name in lowered:
            return f'pip install "{package}"' if "[" in package else f"pip install {package}"
    if module:
        return f"pip install {module.partition('.')[0]}"
    return "Install what it names, or put its folder on PYTHONPATH."


def _difference(ours: spaces.Space[Any], theirs: spaces.Space[Any], *, bounds: bool) -> str:
    if isinstance(ours, spaces.Text):
        return ""  # text is no part of what a policy sees, and MiniGrid has a kind of its own
    if type(ours) is not type(theirs):
        return f"{ours} in the data, {theirs} in the environment"
    if isinstance(ours, spaces.Dict) and isinstance(theirs, spaces.Dict):
        return _part_difference(ours.spaces, theirs.spaces, bounds)
    if isinstance(ours, spaces.Tuple) and isinstance(theirs, spaces.Tuple):
        return _part_difference(
            dict(enumerate(ours.spaces)), dict(enumerate(theirs.spaces)), bounds
        )
    if isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box):
        same = ours.shape == theirs.shape and (
            not bounds
            or (np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high))
        )
    else:
        same = ours == theirs
    return "" if same else f"{ours} in the data, {theirs} in the environment"


def _part_difference(ours: Mapping[Any, Any], theirs: Mapping[Any, Any], bounds: bool) -> str:
    if set(ours) != set(theirs):
        return f"parts {list(ours)} in the data, {list(theirs)} in the environment"
    for key in ours:
        difference = _difference(ours[key], theirs[key], bounds=bounds)
        if difference:
            return f"{key}: {difference}"
    return ""


def name_of(env: gymnasium.Env[Any, Any]) -> str:
    """What to call an environment in a sentence."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what gymnasium says of older versions: the user chose the id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield

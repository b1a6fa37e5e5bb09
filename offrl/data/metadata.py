"""What metadata.json says: Minari's fields where Minari looks for them, offrl's under `offrl`."""

import dataclasses
import importlib.metadata
import json
import logging
import platform
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from offrl.errors import ConfigError, NotFoundError, suggest

FORMAT = 1
_LOG = logging.getLogger("offrl")
# Fields of Minari that whoever writes a dataset may set, and their types.
MINARI_FIELDS: dict[str, type | tuple[type, ...]] = {
    "algorithm_name": str, "author": (str, list, tuple, set),
    "author_email": (str, list, tuple, set), "code_permalink": str,
    "combined_datasets": list, "description": str, "eval_env_spec": str,
    "num_episodes_average_score": int, "ref_max_score": (int, float),
    "ref_min_score": (int, float), "requirements": list,
}  # fmt: skip
# Fields that follow from what is written; given ones (of a copied dataset) are left aside.
_DERIVED = (
    "action_space", "data_format", "dataset_id", "dataset_size", "env_spec", "jpeg_encoding",
    "minari_version", "observation_space", "total_episodes", "total_steps",
)  # fmt: skip
_DERIVED_OURS = ("fingerprint", "format")
# Whose versions change the data: the same seed gives other numbers on another version.
ENV_PACKAGES = {
    "gymnasium": "gymnasium", "gymnasium_robotics": "gymnasium-robotics", "mujoco": "mujoco",
    "minigrid": "minigrid", "ale_py": "ale-py", "Box2D": "box2d", "ogbench": "ogbench",
}  # fmt: skip
_OURS = ("offrl", "numpy", "minari", "h5py")


def user_metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return given metadata as {"minari": {...}, "offrl": {...}}, JSON through and through.

    Raises ConfigError naming the key that JSON cannot hold or that has the wrong type.
    """
    minari: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key in MINARI_FIELDS:
            if not isinstance(value, MINARI_FIELDS[key]):
                raise ConfigError(f"The metadata '{key}' is {value!r}.", "See Minari's fields.")
            listed = key in ("author", "author_email")
            minari[key] = (
                ([value] if isinstance(value, str) else sorted(value)) if listed else value
            )
        elif key == "offrl" and isinstance(value, Mapping):
            ours |= {k: v for k, v in value.items() if k not in _DERIVED_OURS}
        elif key not in _DERIVED:
            ours[key] = value
    for key, value in [*minari.items(), *ours.items()]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The metadata '{key}' is not JSON: {error}.", "Give text, numbers and lists."
            ) from error
    # One round trip, so that what is compared on resume is what a file would hold.
    return json.loads(json.dumps({"minari": minari, "offrl": ours}))


def env_spec_json(env: EnvSpec | str | None) -> str | None:
    """Return the environment as the text that Minari keeps, None where there is none.

    `env` is a spec, a registered id, or such a text copied from another dataset, which is data:
    nothing is made from it. A spec that JSON cannot hold is left out, with a warning. Raises
    NotFoundError for an id that is not registered.
    """
    if env is None:
        return None
    if isinstance(env, str):
        if env.lstrip().startswith("{"):
            return _completed(env)
        if env not in gymnasium.registry:
            raise NotFoundError(
                f"There is no environment '{env}'.{suggest(env, gymnasium.registry)}",
                "Import its package first, or leave env out.",
            )
        env = gymnasium.spec(env)
    if callable(env.entry_point):
        env = dataclasses.replace(env, entry_point=entry_text(env.entry_point))
    try:
        return env.to_json()
    except (TypeError, ValueError) as error:
        _LOG.warning(
            "The spec of %s cannot be written (%s): the data will not name its environment.",
            env.id, error,
        )  # fmt: skip
        return None


def entry_text(entry: object) -> str | None:
    """Return an entry point as `module:name`, also one that was registered as a class."""
    if entry is None or isinstance(entry, str):
        return entry
    return f"{getattr(entry, '__module__', '')}:{getattr(entry, '__qualname__', '')}"


def _completed(text: str) -> str:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The env spec is not JSON: {error}.", "Give an id.") from error
    if not isinstance(given, dict) or not isinstance(given.get("id"), str):
        raise ConfigError("The env spec has no id.", "Give the id of an environment.")
    if set(given) == {"id"} and given["id"] in gymnasium.registry:
        return gymnasium.spec(given["id"]).to_json()
    # What `EnvSpec.from_json` of Minari's reader cannot do without.
    return json.dumps({"entry_point": None, "additional_wrappers": []} | given)


def versions() -> dict[str, str]:
    """Return versions of Python, of what writes data, and of the environments that are imported."""
    names = list(_OURS) + [name for module, name in ENV_PACKAGES.items() if module in sys.modules]
    return {"python": platform.python_version()} | dict(_installed(names))


def _installed(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def published(
    dataset_id: str, manifest: Mapping[str, Any], fingerprint: str, size: int
) -> dict[str, Any]:
    """Return metadata.json of a finished dataset of `size` bytes."""
    settings = manifest["settings"]
    given, ours = settings["metadata"]["minari"], settings["metadata"]["offrl"]
    table = {
        "total_episodes": len(manifest["episodes"]),
        "total_steps": sum(entry["steps"] for entry in manifest["episodes"]),
        "data_format": "hdf5",
        # Images are kept as they are: JPEG would lose what a network sees.
        "jpeg_encoding": False,
        "observation_space": settings["observation_space"],
        "action_space": settings["action_space"],
        "dataset_size": round(size / 1e6, 1),
        "dataset_id": dataset_id,
        "minari_version": importlib.metadata.version("minari"),
    }
    if settings["env_spec"] is not None:
        table["env_spec"] = settings["env_spec"]
    references = ours.get("references")
    if isinstance(references, Mapping):
        scores = {
            "ref_min_score": references.get("random"),
            "ref_max_score": references.get("expert"),
        }
        table |= {key: value for key, value in scores.items() if value is not None}
    own = {"format": FORMAT, "versions": manifest["versions"], **ours, "fingerprint": fingerprint}
    return table | given | {"offrl": own}

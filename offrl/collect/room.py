"""Whether the disk has room for a recording, looked at before it begins."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from offrl.data.recipe import Recipe
from offrl.data.spec import Spec

_LOG = logging.getLogger("offrl")
_BESIDE = 26  # bytes of a step besides observation and action: reward, two flags, two infos
_COPIES = 2  # the shards, and the one file that is made of them


def most_bytes(plan: Recipe, world: gymnasium.Env[Any, Any]) -> int | None:
    """Return what a recording takes at most while it is made, None where nobody can know."""
    limit = world.spec.max_episode_steps if world.spec is not None else None
    if plan.env_steps is not None:
        steps = plan.env_steps + (limit or 0)
    elif plan.episodes is not None and limit is not None:
        steps = plan.episodes * limit
    else:
        return None
    spec = Spec(world.observation_space, world.action_space)
    parts = [(part.shape, part.dtype) for part in spec.obs_parts if part.kind != "text"]
    parts.append((world.action_space.shape or (), str(world.action_space.dtype)))
    row = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in parts)
    return _COPIES * steps * (row + _BESIDE)


def warn_of_want(plan: Recipe, world: gymnasium.Env[Any, Any], root: Path) -> None:
    """Log a warning with both numbers where a recording may take more than is free."""
    needed = most_bytes(plan, world)
    there = next((folder for folder in (root, *root.parents) if folder.exists()), None)
    if needed is None or there is None:
        return
    free = shutil.disk_usage(there).free
    if needed > free:
        amount = f"{plan.env_steps} steps" if plan.env_steps else f"{plan.episodes} episodes"
        _LOG.warning(
            "%s may take up to %.1f MB in %s while they are recorded, and %.1f MB are free.",
            amount, needed / 1e6, there, free / 1e6,
        )  # fmt: skip

"""Small agents in the form in which Stable-Baselines3 saves them, made without it."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

HIDDEN, OBS_DIM = 8, 3
BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
CHOICE = spaces.Discrete(3, start=1)
OBS = spaces.Box(-10.0, 10.0, (OBS_DIM,), np.float64)

_MODULES = {"ppo": "stable_baselines3.common.policies", "ars": "sb3_contrib.ars.policies"}


def linear(name: str, n_in: int, n_out: int, rng: np.random.Generator) -> dict[str, Any]:
    """Weights of one layer under the names that torch gives them."""
    return {
        f"{name}.weight": rng.normal(size=(n_out, n_in)) / np.sqrt(n_in),
        f"{name}.bias": rng.normal(size=n_out) * 0.3,
    }


def trunk(prefix: str, rng: np.random.Generator) -> dict[str, Any]:
    """Two hidden layers."""
    return linear(f"{prefix}.0", OBS_DIM, HIDDEN, rng) | linear(f"{prefix}.2", HIDDEN, HIDDEN, rng)


def weights_of(kind: str, n: int, rng: np.random.Generator) -> dict[str, Any]:
    """The acting weights of an agent: ppo, ppo-sde, sac, sac-sde, td3, dqn, qrdqn or ars."""
    if kind.startswith("ppo"):
        found = trunk("mlp_extractor.policy_net", rng) | linear("action_net", HIDDEN, n, rng)
        found |= trunk("mlp_extractor.value_net", rng) | linear("value_net", HIDDEN, 1, rng)
        sde = kind == "ppo-sde"
        return found | {"log_std": rng.normal(size=(HIDDEN, n) if sde else n) * 0.3 - 0.7}
    if kind == "sac":
        heads = linear("actor.mu", HIDDEN, n, rng) | linear("actor.log_std", HIDDEN, n, rng)
        return trunk("actor.latent_pi", rng) | heads | linear("critic.qf0.0", OBS_DIM + n, 1, rng)
    if kind == "sac-sde":
        heads = linear("actor.mu.0", HIDDEN, n, rng)
        log_std = {"actor.log_std": rng.normal(size=(HIDDEN, n)) * 0.3 - 0.7}
        return trunk("actor.latent_pi", rng) | heads | log_std
    name = {"td3": "actor.mu", "dqn": "q_net.q_net", "ars": "action_net"}.get(
        kind, "quantile_net.quantile_net"
    )
    outputs = n * 5 if kind == "qrdqn" else n
    return trunk(name, rng) | linear(f"{name}.4", HIDDEN, outputs, rng)


def save_agent(
    path: Path,
    kind: str,
    space: spaces.Space[Any],
    *,
    weights: dict[str, Any] | None = None,
    **data: Any,
) -> dict[str, Any]:
    """Write an agent of a kind for actions of `space` and return its weights."""
    n = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))
    found = weights_of(kind, n, np.random.default_rng(7)) if weights is None else weights
    if isinstance(space, spaces.Discrete):
        found.pop("log_std", None)
    module = _MODULES.get(kind.partition("-")[0], f"stable_baselines3.{kind[:3]}.policies")
    page: dict[str, Any] = {
        "policy_class": {":serialized:": "gASV", "__module__": module},
        "use_sde": kind.endswith("sde"),
        "n_quantiles": 5,
        "policy_kwargs": {},
    }
    content = io.BytesIO()
    torch.save({k: torch.tensor(np.asarray(v), dtype=torch.float32) for k, v in found.items()},
               content)  # fmt: skip
    members = {"data": json.dumps(page | data).encode(), "policy.pth": content.getvalue()}
    write_zip(path, members)
    return found


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    """Write a zip of members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)

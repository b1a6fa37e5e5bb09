"""`weights:NAME`: policies that ship with offrl, small files of tensors beside the recipes.

    datasets/hopper/weights/sac-90000.safetensors    the policy network, float32
                           /sac-90000.json           what it is, its SHA-256, the command it is from

NAME is `hopper/sac-90000`, or the path of a file of one's own. Such a policy needs no run folder
and acts in numpy as `run:DIR` does, with the same log-probabilities.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from torch import Tensor

from offrl.checkpoint import TrainedRun
from offrl.collect.agents import Agent
from offrl.collect.runs import agent_of, require_spaces
from offrl.data.catalogue import shipped_weights
from offrl.data.durable import write_file
from offrl.data.json_files import read_object
from offrl.data.spec import Spec
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    IncompatibleVersionError,
    NotFoundError,
    OffrlError,
    suggest,
)
from offrl.nn import Head, policy_head
from offrl.policy import Policy

FORMAT = 1
SUFFIX = ".safetensors"
_MOST = 64 * 2**20  # bytes; what ships has some hundred thousand
_REMEDY = "Copy the two files again, or write them again from the run."


def weights_agent(
    reference: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> Agent:
    """Return the policy of `weights:NAME` for an environment's spaces.

    Raises NotFoundError, ConfigError where its spaces are not the environment's, CorruptDataError
    or IncompatibleVersionError for files that are not what was written.
    """
    policy = read_policy(reference)
    require_spaces(f"weights:{reference}", policy.spec, Spec(observation_space, action_space))
    return agent_of(policy)


def weights_digests(reference: str) -> dict[str, Any]:
    """Return the SHA-256 of the weights, kept with the data, and what they were taken from."""
    page = read_page(reference)
    return {key: page[key] for key in ("algorithm", "seed", "step", "sha256")}


def weights_path(reference: str) -> Path:
    """Return the file of a shipped name or of a path; NotFoundError with the nearest name."""
    shipped = shipped_weights()
    if reference in shipped:
        return shipped[reference]
    path = Path(reference)
    if path.suffix == SUFFIX and path.is_file():
        return path
    raise NotFoundError(
        f"There are no weights '{reference}'.{suggest(reference, shipped)}",
        f"Name shipped ones ({', '.join(shipped) or 'there are none'}), or a {SUFFIX} file.",
    )


def read_page(reference: str) -> dict[str, Any]:
    """Return what is said of the weights; CorruptDataError where it is not what was written."""
    path = weights_path(reference).with_suffix(".json")
    page = read_object(path, _REMEDY)
    if page.get("format") != FORMAT:
        raise IncompatibleVersionError(
            f"{path} has format {page.get('format')!r}; this offrl reads format {FORMAT}.",
            "Install the offrl that wrote it.",
        )
    lacking = {"sha256", "policy", "spec", "algorithm", "seed", "step"} - page.keys()
    if lacking:
        raise CorruptDataError(f"{path} lacks {', '.join(sorted(lacking))}.", _REMEDY)
    return page


def read_policy(reference: str) -> Policy:
    """Return the policy of a shipped name or of a path; nothing of the files is run.

    Raises NotFoundError, CorruptDataError naming the file and the fault, IncompatibleVersionError.
    """
    path, page = weights_path(reference), read_page(reference)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MOST else b""
    except OSError as error:
        raise CorruptDataError(f"{path} cannot be read: {error.strerror}.", _REMEDY) from error
    if size > _MOST:
        raise CorruptDataError(f"{path} has {size} bytes; at most {_MOST} are read.", _REMEDY)
    if hashlib.sha256(data).hexdigest() != page["sha256"]:
        raise CorruptDataError(f"{path} is damaged: its SHA-256 is not that of its page.", _REMEDY)
    try:
        spec = Spec.from_json(page["spec"])
        return Policy(spec, _network(page["policy"], spec, safetensors.torch.load(data)))
    except (OffrlError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        fault = str(error).splitlines()[-1].strip().rstrip(".") if str(error) else "a fault"
        raise CorruptDataError(f"{path} is not a policy: {fault}.", _REMEDY) from error


def _network(description: dict[str, Any], spec: Spec, tensors: dict[str, Tensor]) -> Head:
    """Build the network that a page describes around the tensors of its file."""
    sizes = [description[name] for name in ("hidden_size", "hidden_layers")]
    if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes):
        raise ValueError(f"its network has the sizes {sizes}")
    if sizes[1] > len(tensors):
        raise ValueError(f"{sizes[1]} layers cannot be of {len(tensors)} tensors")
    if (description["obs_dim"], description["action_dim"]) != (spec.obs_dim, spec.action_dim):
        raise ValueError("its network is not one for its spaces")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"'{name}' is not made of finite float32 numbers")
    with torch.device("meta"):  # no memory is taken by sizes that the file does not bear out
        network = policy_head(**description)
    network.load_state_dict(tensors, assign=True)
    return network


def export_policy(
    run: TrainedRun,
    out: Path,
    command: str,
    *,
    seed: int | None = None,
    checkpoint: str | int = "last",
) -> Path:
    """Write the policy of a run's checkpoint as `out` (.safetensors) and the page beside it.

    `command` is what trained the run, for whoever wants to make the weights again. Raises
    ConfigError for a name without that ending, and for a policy network that offrl does not know;
    NotFoundError where the run has no such seed or checkpoint.
    """
    if out.suffix != SUFFIX:
        raise ConfigError(f"{out} does not end in {SUFFIX}.", f"Call it {out.name}{SUFFIX}.")
    seed = run.seeds[0] if seed is None else seed
    policy = run.policy(seed, checkpoint)
    found = run.checkpoint(seed, checkpoint)
    if not isinstance(policy.network, Head):
        raise ConfigError("The run's policy network is one of your own.", "Use run:DIR.")
    tensors = {name: t.detach().contiguous() for name, t in policy.network.state_dict().items()}
    data = safetensors.torch.save(tensors)
    page: dict[str, Any] = {
        "format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "command": command,
        "algorithm": run.run.algorithm,
        "env": run.run.env,
        "seed": seed,
        "step": found.step,
        **({"env_step": found.page["env_step"]} if "env_step" in found.page else {}),
        "policy": policy.network.description,
        "spec": policy.spec.to_json(),
        "settings": {
            run.run.algorithm: _written(run.run.config),
            "online": _written(run.run.online or {}),
        },
        "versions": run.run.versions,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, data)
    write_file(out.with_suffix(".json"), (json.dumps(page, indent=1) + "\n").encode())
    return out


def _written(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without infinite ones, which JSON has no word for and which mean none."""
    return {
        name: value
        for name, value in settings.items()
        if not isinstance(value, float) or math.isfinite(value)
    }

"""`--trust`: agents that only Stable-Baselines3 can load, because it executes what they pickle.

Of the zip it is given the pickled policy class, its arguments and the two spaces, and nothing else;
of statistics beside it the whole pickle. The policy then acts by its own `predict`. Where that is
Stable-Baselines3's own, around a distribution of Stable-Baselines3's own, its actions can also be
sampled and scored exactly; a policy that answers in a way of its own has no log-probability.
"""

import copy
import importlib
import inspect
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from offrl.collect.agents import Agent
from offrl.collect.distributions import Bounds, Choices, Clipped, Distribution, Squashed, Stretch
from offrl.collect.zips import Archive
from offrl.data.spec import Spec
from offrl.errors import ConfigError, OffrlError, WorkError
from offrl.policy import threads

_EXECUTED = ("policy_class", "policy_kwargs", "observation_space", "action_space")
_PEERS = ("stable_baselines3.", "sb3_contrib.")
_OWN_FUNCTION = "Load it yourself, in a function of yours: FILE.py:FUNCTION."


def trusted_agent(archive: Archive, spec: Spec, see: Callable[[Any], Any]) -> Agent:
    """Return the agent of a zip as Stable-Baselines3 loads it, for raw observations seen by `see`.

    Raises ConfigError where a library that it needs is not installed or it does not fit the spaces,
    WorkError where its own code raises.
    """
    policy = _load(archive, spec)
    bounds = Bounds(spec.action_space) if isinstance(spec.action_space, spaces.Box) else None
    bounded = bounds is not None and bool(np.isfinite([bounds.low, bounds.high]).all())
    stretch = bounds.stretched() if bounds is not None and bounded else None

    def at(obs: Any) -> _Asked:
        return _Asked(policy, see(obs), bounds, stretch)

    space = copy.deepcopy(spec.observation_space)
    space.seed(0)
    try:
        first = at(space.sample())
        first.mode()
        scored = first.distribution is not None
    except Exception as error:
        raise ConfigError(
            f"{archive.path} does not act on what the environment shows: {_told(error)}",
            "Name the environment that it was trained in: --env ENV.",
        ) from error
    note = "was loaded by stable-baselines3, which executed what it pickles (--trust)."
    return Agent(at, scored, (note,))


def trusted_statistics(path: Path) -> Callable[[Any], Any]:
    """Return what normalises an observation as Stable-Baselines3 does, having unpickled the file.

    Raises ConfigError where a library is not installed, WorkError where the pickle raises.
    """
    loaded = _guarded(path, lambda: _saving().load_from_pkl(str(path)))
    return lambda obs: loaded.normalize_obs(obs)


class _Asked:
    """A loaded policy before one observation, asked when somebody wants to know."""

    def __init__(
        self, policy: Any, obs: Any, bounds: Bounds | None, stretch: Stretch | None
    ) -> None:
        self._policy, self._obs, self._bounds, self._stretch = policy, obs, bounds, stretch

    @cached_property
    def distribution(self) -> Distribution | None:
        """The distribution of the action that `predict` samples, None where it is not known."""
        with threads(1), torch.no_grad():
            found = _own_distribution(self._policy, self._obs)
        inner = getattr(found, "distribution", None)
        if isinstance(inner, torch.distributions.Categorical):
            return Choices(inner.logits[0].double().numpy(), 0)
        if not isinstance(inner, torch.distributions.Normal) or self._bounds is None:
            return None
        mean, std = inner.mean[0].double().numpy(), inner.stddev[0].double().numpy()
        squashed = type(found).__name__ == "SquashedDiagGaussianDistribution" or (
            getattr(found, "bijector", None) is not None
        )
        if squashed != bool(self._policy.squash_output):
            return None
        if not squashed:
            return Clipped(mean, std, self._bounds)
        return None if self._stretch is None else Squashed(mean, std, self._stretch)

    def mode(self) -> Any:
        """Return the action of `predict`."""
        with threads(1):
            return self._policy.predict(self._obs, deterministic=True)[0]

    def sample(self, rng: np.random.Generator) -> Any:
        """Return a draw."""
        return self._known.sample(rng)

    def log_prob(self, action: Any) -> float:
        """Return the log-probability, NaN where there is no distribution."""
        return float("nan") if self.distribution is None else self.distribution.log_prob(action)

    def at_bound(self, action: Any) -> bool:
        """Return whether a coordinate was clipped."""
        return self._known.at_bound(action)

    @property
    def _known(self) -> Distribution:
        if self.distribution is None:
            raise WorkError("The policy has no distribution that offrl knows.", _OWN_FUNCTION)
        return self.distribution


def _own_distribution(policy: Any, obs: Any) -> Any:
    """Return the library's distribution of a policy whose way of acting is the library's."""
    kind = type(policy)
    if not (_is_peers(kind.predict) and _is_peers(kind._predict)):
        return None
    seen, _ = policy.obs_to_tensor(obs)
    actor: Any = getattr(policy, "actor", None)
    if hasattr(policy, "get_distribution"):
        found = policy.get_distribution(seen)
    elif hasattr(actor, "get_action_dist_params") and _is_peers(type(actor).forward):
        mean, log_std, more = actor.get_action_dist_params(seen)
        found = actor.action_dist.proba_distribution(mean, log_std, **more)
    else:
        return None  # values of actions, or one action
    return found if _is_peers(type(found)) else None


def _is_peers(thing: Any) -> bool:
    return str(thing.__module__).startswith(_PEERS)


def _load(archive: Archive, spec: Spec) -> Any:
    """Return the policy with its weights."""
    left_alone = {name: None for name in archive.data if name not in _EXECUTED}

    def load() -> Any:
        data, weights, _ = _saving().load_from_zip_file(
            str(archive.path), custom_objects=left_alone, device="cpu"
        )
        made = data.get("policy_class")
        if not isinstance(made, type):
            raise TypeError("its policy class cannot be unpickled")
        options = dict(data.get("policy_kwargs") or {})
        if archive.data.get("use_sde") is True:
            options.setdefault("use_sde", True)
        seen = data.get("observation_space") or spec.observation_space
        acts = data.get("action_space") or spec.action_space
        # ARS, which has no gradient, has no learning rate either.
        names = inspect.signature(made).parameters
        rate = () if "lr_schedule" not in names and "net_arch" in names else (_no_learning,)
        policy = made(seen, acts, *rate, **options)
        policy.load_state_dict(weights["policy"])
        policy.set_training_mode(False)
        return policy

    return _guarded(archive.path, load)


def _no_learning(_: float) -> float:
    return 0.0


def _saving() -> Any:
    return importlib.import_module("stable_baselines3.common.save_util")


def _guarded(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except OffrlError:
        raise
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        package = {"stable_baselines3": "stable-baselines3", "sb3_contrib": "sb3-contrib"}.get(
            missing, missing
        )
        raise ConfigError(
            f"Loading {path} needs the package {package}, which is not installed.",
            f"Install it: pip install {package}",
        ) from error
    except Exception as error:
        raise WorkError(
            f"Loading {path} with stable-baselines3 failed: {_told(error)}", _OWN_FUNCTION
        ) from error


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0]}"

"""Controllers that solve five classic environments from the raw observation.

    pendulum-swing-up     Pendulum-v1                 energy pumping, then proportional-derivative
    cartpole-balance      CartPole-v1                 the sign of a linear feedback
    mountain-car-pump     MountainCarContinuous-v0    a constant push along the velocity
    mountain-car-swing    MountainCar-v0              a full push along the velocity
    acrobot-swing         Acrobot-v1                  a torque against the inner joint's turn

Each is a deterministic function of one observation; noise and exploration are added around it by
`behaviors`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from offrl.errors import ConfigError

Controller = Callable[[Any], Any]


@dataclass(frozen=True)
class BuiltIn:
    """A controller with the environment that it was made for."""

    act: Controller
    env_id: str
    obs_shape: tuple[int, ...]
    action: spaces.Box | spaces.Discrete

    def check(self, name: str, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        """Raise ConfigError where the spaces are not those of the controller's environment."""
        if isinstance(observation, spaces.Box) and observation.shape == self.obs_shape:
            same = type(action) is type(self.action) and action.shape == self.action.shape
            if same and action == self.action:
                return
        raise ConfigError(
            f"The controller '{name}' acts in {self.env_id} (observations of shape "
            f"{self.obs_shape}, {self.action}), and this environment has {observation} and "
            f"{action}.",
            f"Use --env {self.env_id}, or --policy random, or your own FILE.py:FUNCTION.",
        )


def pendulum_swing_up(obs: Any) -> np.ndarray:
    """Return the torque [1] that brings the pendulum upright from (cos, sin, velocity).

    Its energy above the upright rest is E = velocity^2 / 2 + 15 (cos - 1); a torque along the
    velocity raises it. Near the top, torque = -14 angle - 4 velocity holds it.
    """
    cosine, sine, velocity = (float(v) for v in obs)
    if cosine > 0.85:
        torque = -14.0 * math.atan2(sine, cosine) - 4.0 * velocity
    else:
        energy = 0.5 * velocity * velocity + 15.0 * (cosine - 1.0)
        torque = math.copysign(1.0, velocity) * -energy
    return np.array([min(2.0, max(-2.0, torque))], np.float32)


def cartpole_balance(obs: Any) -> int:
    """Return 1 (push right) where position, velocity, angle and turn ask for it, else 0."""
    x, velocity, angle, turn = (float(v) for v in obs)
    return int(0.1 * x + 0.2 * velocity + angle + 0.5 * turn > 0.0)


def mountain_car_pump(obs: Any) -> np.ndarray:
    """Return a push [1] of 0.6 along the velocity: the fuel costs less than at full force."""
    return np.array([0.6 if float(obs[1]) >= 0.0 else -0.6], np.float32)


def mountain_car_swing(obs: Any) -> int:
    """Return 2 (push right) where the velocity is not to the left, else 0."""
    return 2 if float(obs[1]) >= 0.0 else 0


def acrobot_swing(obs: Any) -> int:
    """Return the torque, 0 (-1) or 2 (+1), that adds to the swing of the inner joint.

    A torque on the elbow pushes the inner arm the other way, so it is against that arm's turn, less
    0.8 of the elbow's own, which would else wind up.
    """
    inner, elbow = float(obs[4]), float(obs[5])
    return 2 if inner - 0.8 * elbow < 0.0 else 0


CONTROLLERS: dict[str, BuiltIn] = {
    "pendulum-swing-up": BuiltIn(
        pendulum_swing_up, "Pendulum-v1", (3,), spaces.Box(-2.0, 2.0, (1,), np.float32)
    ),
    "cartpole-balance": BuiltIn(cartpole_balance, "CartPole-v1", (4,), spaces.Discrete(2)),
    "mountain-car-pump": BuiltIn(
        mountain_car_pump, "MountainCarContinuous-v0", (2,), spaces.Box(-1.0, 1.0, (1,), np.float32)
    ),
    "mountain-car-swing": BuiltIn(mountain_car_swing, "MountainCar-v0", (2,), spaces.Discrete(3)),
    "acrobot-swing": BuiltIn(acrobot_swing, "Acrobot-v1", (6,), spaces.Discrete(3)),
}

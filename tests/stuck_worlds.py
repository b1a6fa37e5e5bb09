"""Environments that stop answering, or die, at a step: tests copy this file to where it is found.

HANG is a file whose first line says how and at which step in all, counted over resets; without it
they are Pendulum, with episodes of 40 steps.
"""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import PendulumEnv

HANG = Path(os.environ.get("STUCK_WORLDS", "hang"))


class Stuck(PendulumEnv):
    """Pendulum, until it is told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def reset(self, **given: Any) -> Any:
        obs, info = super().reset(**given)
        self._fail("reset")
        return obs, info

    def step(self, u: Any) -> Any:
        self.taken += 1
        self._fail("step")
        return super().step(u)

    def _fail(self, where: str) -> None:
        if not HANG.is_file():
            return
        how, at = HANG.read_text().split()
        if at not in (where, str(self.taken)):
            return
        told = Path(f"{HANG}.telling")
        told.write_text(str(os.getpid()))
        told.replace(f"{HANG}.pid")
        if how == "sleep":
            time.sleep(600)
        if how == "lock":
            ctypes.PyDLL(None).sleep(600)  # holds on to the interpreter all the while
        if how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "raise":
            raise ZeroDivisionError("by nothing")


class Parts(gymnasium.Env[Any, Any]):
    """Observations and actions of several kinds of parts; it counts what it is given."""

    observation_space = gymnasium.spaces.Dict(
        {
            "place": gymnasium.spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
            "kind": gymnasium.spaces.Discrete(7),
        }
    )
    action_space = gymnasium.spaces.Discrete(3, start=1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.total = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        if type(action) is not int:
            raise TypeError(type(action).__name__)
        self.total += action
        return self._obs(), np.float32(0.1) * self.total, self.total > 9, False, {"kept": object()}

    def _obs(self) -> Any:
        return {"place": self.np_random.normal(size=(2, 2)), "kind": np.int64(self.total % 7)}


gymnasium.register("Stuck-v0", f"{__name__}:Stuck", max_episode_steps=40)
gymnasium.register("Parts-v0", f"{__name__}:Parts", max_episode_steps=20)

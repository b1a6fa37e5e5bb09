"""Environments in a process of their own, which is ended where one takes too long.

    this process                       the other (`guarded`)
    Guard(seconds).make(id)      ->    make     {"spaces": ..., "spec": ...}
    env.reset(seed=7)            ->    reset    observation
    env.step(action)             ->    step     observation, reward, terminated, truncated

What hangs may be code in any language that holds on to its thread, so that nothing less than
ending its process is sure. Values travel as bytes (`frames`): an environment behind a guard gives
the bits that it gives here. Its infos stay behind.
"""

import builtins
import json
import math
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from offrl import errors, guarded
from offrl.data.frames import described, read_message, restored, write_message
from offrl.data.spec import Spec
from offrl.environments import DescribesEnv, env_for, make_env
from offrl.errors import ConfigError, NotFoundError, OffrlError, WorkError

Env = gymnasium.Env[Any, Any]
STARTING = 60.0  # seconds more to import what an environment needs, and to make it
_GRACE = 2.0  # seconds in which the process ends once its input is closed


def check_seconds(seconds: float) -> None:
    """Raise ConfigError for what is no time that a step may take."""
    if not 0 < seconds < math.inf:
        raise ConfigError(f"A step cannot have {seconds:g} s.", "Give more than 0 seconds.")


class Guard:
    """A process with environments, any of which may take `seconds` for a step or a reset."""

    def __init__(self, seconds: float) -> None:
        check_seconds(seconds)
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: selectors.BaseSelector

    def make(self, id: str, *, trust: bool = True) -> "GuardedEnv":
        """Make an environment, as `make_env` does, with its errors."""
        return self._made(id, {"id": id, "trust": trust})

    def make_for(self, dataset: DescribesEnv, *, trust_env: bool = False) -> "GuardedEnv":
        """Make the environment of a dataset, as `env_for` does, with its errors."""
        known = {k: dataset.metadata.get(k) for k in ("env_spec", "eval_env_spec")}
        page = {"dataset": dataset.id, "metadata": known, "spec": dataset.spec.to_json()}
        return self._made(dataset.id, {**page, "trust": trust_env})

    def ask(
        self, what: Mapping[str, Any], body: bytes, who: str, more: float = 0.0
    ) -> tuple[dict[str, Any], bytes]:
        """Return the answer to a request about `who`.

        Raises WorkError where there is none in time or the process ends, and what the environment
        raised.
        """
        process = self._started(what)
        if process.stdin is None or process.stdout is None:
            raise ValueError("the process has no pipes")
        with suppress(BrokenPipeError):  # one that has ended is noticed below
            write_message(process.stdin, what, body)
        if not self._ready.select(self.seconds + more):
            self._end(0.0)
            raise WorkError(
                f"{who} took longer than {self.seconds + more:g} s, and was ended.",
                "Mend the environment, or allow it more seconds with --step-timeout.",
            )
        answer = read_message(process.stdout)
        if answer is None:
            code = process.wait()
            self._end(0.0)
            how = f"signal {-code}" if code < 0 else f"status {code}"
            raise WorkError(
                f"{who} ended its process with {how}.", "Mend the environment, then go on."
            )
        if "error" in answer[0]:
            raise _told(answer[0])
        if "raised" in answer[0]:
            raise _raised(answer[0])
        return answer

    def close(self) -> None:
        """End the process."""
        self._end(_GRACE)

    def _made(self, name: str, page: dict[str, Any]) -> "GuardedEnv":
        answer, _ = self.ask({"do": "make", **page}, b"", f"Making the environment '{name}'",
                             STARTING)  # fmt: skip
        return GuardedEnv(self, name, answer)

    def _started(self, what: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
        if self._process is None and what["do"] != "make":
            raise WorkError("The environment's process was ended.", "Make the environment again.")
        if self._process is None:
            # Our own file run by our own interpreter; -P: no module beside it is picked up. A
            # group of its own: Ctrl-C in a terminal reaches this process alone.
            self._process = subprocess.Popen(
                [sys.executable, "-P", guarded.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            )
            if self._process.stdin is None or self._process.stdout is None:
                raise ValueError("the process has no pipes")
            self._ready = selectors.DefaultSelector()
            self._ready.register(self._process.stdout, selectors.EVENT_READ)
            path = [os.path.abspath(entry) for entry in sys.path]
            line = json.dumps({"path": path, "seconds": self.seconds, "starting": STARTING})
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        return self._process

    def _end(self, grace: float) -> None:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._ready.close()
        process.stdout.close()
        self._process = None


@dataclass(frozen=True)
class Makers:
    """How environments are made: here, or behind a guard."""

    by_id: Callable[..., Env] = make_env
    of: Callable[..., Env] = env_for
    guarded: bool = False

    def refuse_ready(self) -> None:
        """Raise ConfigError where an environment that exists already would need a guard."""
        if self.guarded:
            raise ConfigError(
                "An environment that is made here cannot be ended alone where it hangs.",
                "Give its id (module:Id-v0 for one of yours), or leave step_timeout away.",
            )


@contextmanager
def makers(seconds: float | None) -> Iterator[Makers]:
    """How to make environments, of which with `seconds` any may take no longer for a step."""
    if seconds is None:
        yield Makers()
        return
    guard = Guard(seconds)
    try:
        yield Makers(guard.make, guard.make_for, guarded=True)
    finally:
        guard.close()


class GuardedEnv(gymnasium.Env[Any, Any]):
    """One environment of a guard."""

    def __init__(self, guard: Guard, name: str, answer: Mapping[str, Any]) -> None:
        self._guard, self._number = guard, int(answer["env"])
        spaces = Spec.from_json(answer["spaces"])
        self.observation_space, self.action_space = spaces.observation_space, spaces.action_space
        self.spec = EnvSpec.from_json(answer["spec"]) if answer["spec"] else None
        self.name = answer["name"] or name
        self._seed: int | None = None
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The first observation of an episode; options are not passed on."""
        self._seed, self._steps = seed, 0
        asked = {"do": "reset", "env": self._number, "seed": seed}
        answer, body = self._guard.ask(asked, b"", f"The environment '{self.name}' in reset()")
        return guarded.plain(restored(answer["obs"], bytearray(body), [0])), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; the info is empty."""
        parts: list[bytes] = []
        asked = {"do": "step", "env": self._number, "action": described(action, parts)}
        after = "" if self._seed is None else f" after reset(seed={self._seed})"
        who = f"The environment '{self.name}' at step {self._steps}{after}"
        answer, body = self._guard.ask(asked, b"".join(parts), who)
        self._steps += 1
        obs = guarded.plain(restored(answer["obs"], bytearray(body), [0]))
        return obs, answer["reward"], answer["terminated"], answer["truncated"], {}

    def close(self) -> None:
        """Close it, where its process still runs."""
        with suppress(OffrlError, OSError, ValueError):
            self._guard.ask({"do": "close", "env": self._number}, b"", "Closing an environment")


def _told(header: Mapping[str, Any]) -> OffrlError:
    told = getattr(errors, header["error"], OffrlError)(header["cause"], header["remedy"])
    if isinstance(told, NotFoundError):
        told.remedy = f"{told.remedy} What is registered here alone needs module:Id-v0."
    return told


def _raised(header: Mapping[str, Any]) -> Exception:
    """The environment's error, of a builtin's type where it was one."""
    kind = getattr(builtins, header["raised"], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(Exception):  # some want more than a text
            return kind(header["text"])
    return type(header["raised"], (RuntimeError,), {})(header["text"])

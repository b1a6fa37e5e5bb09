"""The process behind a guard: makes environments, and resets and steps them as it is asked.

Run by `guard` as a program of its own. Standard input brings one JSON line, then frames; standard
output takes a frame for each. It ends where its input does. Where that cannot be seen, because an
environment hangs and whoever asked is gone, an alarm of the system ends it.
"""

import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO


def plain(value: Any) -> Any:
    """Whole numbers and text without the array that carried them."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(part) for part in value)
    if value.ndim == 0 and value.dtype.kind in "iubO":
        return value.item()
    return value


@dataclass
class _Described:
    """What is known here of a dataset."""

    id: str
    metadata: dict[str, Any]
    spec: Any


def serve(source: BinaryIO, out: BinaryIO, seconds: float, starting: float) -> None:
    """Answer requests until there are no more."""
    from offrl.data.frames import described, read_message, restored, write_message
    from offrl.errors import OffrlError

    envs: list[Any] = []
    while (message := read_message(source)) is not None:
        asked, body = message
        parts: list[bytes] = []
        answer: dict[str, Any] = {}
        allowed = seconds + (starting if asked["do"] == "make" else 0.0)
        signal.setitimer(signal.ITIMER_REAL, 2 * allowed + 1)
        try:
            if asked["do"] == "make":
                envs.append(_make(asked))
                answer = {"env": len(envs) - 1, **_spaces(envs[-1])}
            elif asked["do"] == "reset":
                obs, _ = envs[asked["env"]].reset(seed=asked["seed"])
                answer = {"obs": described(obs, parts)}
            elif asked["do"] == "step":
                action = plain(restored(asked["action"], bytearray(body), [0]))
                obs, reward, terminated, truncated, _ = envs[asked["env"]].step(action)
                answer = {
                    "obs": described(obs, parts),
                    "reward": float(reward),
                    "terminated": bool(terminated),
                    "truncated": bool(truncated),
                }
            else:
                envs[asked["env"]].close()
        except OffrlError as error:
            kind = type(error).__name__
            answer = {"error": kind, "cause": error.cause, "remedy": error.remedy}
        except Exception as error:
            answer = {"raised": type(error).__name__, "text": str(error)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_message(out, answer, b"" if "obs" not in answer else b"".join(parts))


def _make(asked: dict[str, Any]) -> Any:
    from offrl.data.spec import Spec
    from offrl.environments import env_for, make_env

    if "id" in asked:
        return make_env(asked["id"], trust=asked["trust"])
    found = _Described(asked["dataset"], asked["metadata"], Spec.from_json(asked["spec"]))
    return env_for(found, trust_env=asked["trust"])


def _spaces(env: Any) -> dict[str, Any]:
    from offrl.data.spec import Spec

    spec = None
    if env.spec is not None:
        with contextlib.suppress(Exception):  # of arguments that JSON cannot hold
            spec = env.spec.to_json()
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    spaces = Spec(env.observation_space, env.action_space).to_json()
    return {"spaces": spaces, "spec": spec, "name": name}


def main() -> int:
    """Serve one guard and return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered by whoever asks
    source = os.fdopen(os.dup(0), "rb")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not be read as a frame
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    request = json.loads(source.readline() or "null")
    if request is None:
        return 1
    sys.path[:] = request["path"]  # the parent's: what it can import, this one can
    with contextlib.suppress(BrokenPipeError):
        serve(source, out, request["seconds"], request["starting"])
    return 0


if __name__ == "__main__":
    sys.exit(main())

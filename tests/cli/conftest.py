"""Typing a command: in this process, or in one of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import offrl
from offrl_cli import main


@dataclass(frozen=True)
class Typed:
    """What came of a command line."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def next(self) -> str:
        *_, last = self.out.splitlines()
        assert last.startswith("next: offrl ")
        return last.removeprefix("next: ")


Type = Callable[..., Typed]


@pytest.fixture
def type_(capsys: pytest.CaptureFixture[str]) -> Type:
    """Run `offrl <words>` in this process."""

    def type_words(*words: object) -> Typed:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Typed(status, out, err)

    return type_words


@pytest.fixture
def refused(type_: Type) -> Type:
    """Run a command that must be refused: status 2, nothing on standard output, two lines."""

    def type_words(*words: object) -> Typed:
        typed = type_(*words)
        assert (typed.status, typed.out) == (2, "")
        cause, remedy = typed.err.splitlines()
        assert cause.startswith("error: ")
        assert remedy.startswith("try: ")
        return typed

    return type_words


@pytest.fixture
def spawn() -> Type:
    """Run `offrl <words>` in a process of its own, without a terminal."""

    def spawn_words(*words: object, **environment: str) -> Typed:
        done = subprocess.run(
            [sys.executable, "-m", "offrl_cli", *map(str, words)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Typed(done.returncode, done.stdout, done.stderr)

    return spawn_words


@pytest.fixture
def shop() -> str:
    """A small saved dataset without an environment; its id."""
    rng = np.random.default_rng(0)
    steps, episodes = 12, 3
    data = offrl.Dataset.from_arrays(
        rng.normal(size=(steps + episodes, 3)).astype(np.float32),
        rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
        rng.normal(size=steps),
        np.arange(steps) % 4 == 3,
        np.zeros(steps, bool),
        action_space=spaces.Box(-1, 1, (2,), np.float32),
    )
    return data.save("me/shop-v0").id

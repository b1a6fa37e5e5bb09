"""Spaces are read from JSON exactly as Minari writes them, and from nothing else."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from minari.serialization import deserialize_space, serialize_space

from offrl.data.spaces import space_from_json, space_to_json
from offrl.errors import ConfigError, CorruptDataError, OffrlError

SPACES: Sequence[spaces.Space[Any]] = [
    spaces.Box(-1, 1, (2, 3), np.float32),
    spaces.Box(-np.inf, np.inf, (4,), np.float64),
    spaces.Box(0, 255, (32, 40, 3), np.uint8),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
    spaces.MultiBinary(3),
    spaces.Text(7, charset="abc"),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.Discrete(3)])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_json_form_is_minaris_own(space: spaces.Space[Any]) -> None:
    written = space_to_json(space)
    by_minari = serialize_space(space)
    assert json.loads(written) == json.loads(str(by_minari))
    if not isinstance(space, spaces.Text):  # a charset is a set: its order is not the space's
        assert written == by_minari
    assert space_from_json(by_minari, "observation_space") == space
    assert deserialize_space(written) == space


@pytest.mark.parametrize(
    ("described", "fragment"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "not an object"),
        ('{"type": "Blob"}', "unknown type 'Blob'"),
        ('{"type": ["Box"]}', "unknown type"),
        ('{"type": "Box"}', "without the key"),
        (
            '{"type": "Box", "dtype": "object", "shape": [1], "low": [0], "high": [1]}',
            "plain number type",
        ),
        ('{"type": "Box", "dtype": "float32", "shape": [1], "low": [2], "high": [1]}', "above"),
        ('{"type": "Box", "dtype": "float32", "shape": [1], "low": [NaN], "high": [1]}', "above"),
        ('{"type": "Box", "dtype": "float32", "shape": [1], "low": ["a"], "high": [1]}', "number"),
        ('{"type": "Box", "dtype": "uint8", "shape": [1], "low": [-1], "high": [1]}', "uint8"),
        ('{"type": "Box", "dtype": "int8", "shape": [1], "low": [0], "high": [Infinity]}', "int8"),
        (
            '{"type": "Box", "dtype": "float32", "shape": [1000000000000], "low": 0, "high": 1}',
            "elements",
        ),
        ('{"type": "Box", "dtype": "float32", "shape": [9], "low": 0, "high": 1}', "shape"),
        ('{"type": "Discrete", "n": 0, "start": 0}', "n is 0"),
        ('{"type": "Discrete", "n": 1e9, "start": 0}', "whole number"),
        ('{"type": "Discrete", "n": true, "start": 0}', "whole number"),
        ('{"type": "MultiDiscrete", "dtype": "int64", "nvec": [], "start": []}', "nvec|numbers"),
        ('{"type": "MultiDiscrete", "dtype": "int64", "nvec": [2], "start": [0, 1]}', "one shape"),
        ('{"type": "MultiBinary", "n": -1}', "n is -1"),
        ('{"type": "Text", "max_length": 3, "min_length": 1, "charset": 5}', "charset"),
        ('{"type": "Text", "max_length": 1, "min_length": 3, "charset": "a"}', "Text"),
        ('{"type": "Dict", "subspaces": []}', "not an object"),
        ('{"type": "Tuple", "subspaces": {}}', "not a list"),
        (5, "not JSON text"),
    ],
)
def test_what_is_no_space_is_refused_and_the_key_named(described: Any, fragment: str) -> None:
    with pytest.raises(CorruptDataError, match=fragment) as refused:
        space_from_json(described, "action_space")
    assert "action_space" in refused.value.cause


def test_depth_is_limited() -> None:
    described: dict[str, Any] = {"type": "Discrete", "n": 2, "start": 0}
    for _ in range(40):
        described = {"type": "Tuple", "subspaces": [described]}
    with pytest.raises(CorruptDataError, match="deep"):
        space_from_json(json.dumps(described), "observation_space")


@pytest.mark.parametrize("kind", ["Graph", "Sequence", "OneOf"])
def test_spaces_that_are_not_supported_say_so(kind: str) -> None:
    with pytest.raises(ConfigError, match=kind):
        space_from_json(json.dumps({"type": kind}), "observation_space")


def test_a_space_that_minari_cannot_hold_is_not_written() -> None:
    with pytest.raises(OffrlError, match="Graph"):
        space_to_json(spaces.Graph(spaces.Discrete(2), None))

"""A configuration declared once; statistics of the data; modules that depend on the seed."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.algorithm import (
    AlgorithmConfig,
    Peers,
    configure,
    constant_features,
    fields_of,
    start,
    statistics,
)
from offrl.algos import get
from offrl.batch import Table
from offrl.data.dataset import Dataset
from offrl.errors import ConfigError
from offrl.testing import toy_dataset


@dataclass(frozen=True, kw_only=True)
class Example(AlgorithmConfig):
    """Two settings of its own."""

    sharpness: Annotated[float, "How sharp.", Peers("beta", conversion="ours divides")] = 1.0
    mode: Annotated[Literal["a", "b"], "Which way."] = "a"


def test_every_setting_has_a_name_a_type_a_default_and_help_its_own_first():
    found = fields_of(Example)
    assert [f.name for f in found[:2]] == ["sharpness", "mode"]
    assert {f.name for f in found[2:]} == {f.name for f in fields_of(AlgorithmConfig)}
    sharpness, mode = found[0], found[1]
    assert (sharpness.type, sharpness.default, sharpness.help) == (float, 1.0, "How sharp.")
    assert (sharpness.peers, sharpness.conversion) == (("beta",), "ours divides")
    assert (mode.type, mode.choices) == (str, ("a", "b"))


@dataclass(frozen=True, kw_only=True)
class Optional(AlgorithmConfig):
    """A setting that no flag could carry."""

    perhaps: Annotated[int | None, "Or nothing."] = None


@dataclass(frozen=True, kw_only=True)
class Listed(AlgorithmConfig):
    """Another."""

    many: Annotated[list[int], "Several."] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Required(AlgorithmConfig):
    """A third."""

    needed: Annotated[int, "No default."]


@pytest.mark.parametrize(
    ("config", "name"), [(Optional, "perhaps"), (Listed, "many"), (Required, "needed")]
)
def test_a_setting_that_is_no_scalar_with_a_default_is_refused(config: Any, name: str):
    with pytest.raises(ConfigError, match=f"setting '{name}' must be a plain"):
        fields_of(config)


def table_of(obs: Any, action: Any, *, low: float, high: float) -> Table:
    n = len(action)
    data = Dataset.from_arrays(
        np.asarray(obs, np.float32),
        np.asarray(action, np.float32),
        np.arange(n) * 1.0,
        np.arange(n) == n - 1,
        np.zeros(n, bool),
        action_space=gym.spaces.Box(low, high, (np.shape(action)[1],), np.float32),
    )
    return Table.of(data.transitions, dtype=torch.float64)


def test_statistics_are_those_of_the_observations_and_the_returns_to_go():
    obs = np.random.default_rng(0).normal(3, 2, (6, 2))
    table = table_of(obs, np.zeros((5, 1)), low=-1, high=1)
    found = statistics(table, configure(AlgorithmConfig, {"discount": 0.5}))
    rows = obs.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(found["obs_mean"].numpy(), rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["obs_std"].numpy(), rows.std(0), rtol=1e-12)
    to_go = [4.0]
    for reward in (3.0, 2.0, 1.0, 0.0):
        to_go.append(reward + 0.5 * to_go[-1])
    assert float(found["return_mean"]) == pytest.approx(np.mean(to_go))
    assert float(found["return_std"]) == pytest.approx(np.std(to_go))


def test_observations_may_stay_as_they_are():
    table = table_of(np.ones((4, 2)), np.zeros((3, 1)), low=-1, high=1)
    assert "obs_mean" not in statistics(table, configure(AlgorithmConfig, {"normalize_obs": False}))


def test_a_constant_feature_is_centred_and_not_scaled_however_it_rounds():
    values = [0.0, 0.1, -1e6, 123456.789]
    obs = np.tile(np.array(values), (50, 1))
    table = table_of(
        np.concatenate([obs, np.arange(50)[:, None] * 1e-12], 1), np.zeros((49, 1)), low=-1, high=1
    )
    found = statistics(table, AlgorithmConfig())
    assert constant_features(table) == [0, 1, 2, 3]
    assert found["obs_std"][:4].tolist() == [1.0] * 4
    assert 1e-12 < float(found["obs_std"][4]) < 1e-10


def test_bounds_are_the_spaces_own_else_the_datas_and_never_meet():
    action = np.array([[-3.0, 1000.0], [5.0, 1000.0], [1.0, 1000.0]])
    inside = statistics(table_of(np.zeros((4, 1)), action, low=-10, high=2000), AlgorithmConfig())
    assert inside["action_low"].tolist() == [-10, -10]
    assert inside["action_high"].tolist() == [2000, 2000]
    open_ = statistics(
        table_of(np.zeros((4, 1)), action, low=-np.inf, high=np.inf), AlgorithmConfig()
    )
    assert open_["action_low"].tolist() == [-3, 1000]
    assert float(open_["action_high"][0]) == 5
    assert float(open_["action_high"][1].float()) > 1000.0  # also where weights are float32


@pytest.mark.parametrize("name", ["bc", "awr"])
def test_weights_depend_on_the_seed_and_on_nothing_that_was_drawn_before(name: str):
    data = toy_dataset(discrete=False)
    algorithm = get(name)(get(name).Config(hidden_size=8), data.spec)
    table = Table.of(data.transitions)

    def weights(seed: int) -> dict[str, torch.Tensor]:
        return start(algorithm, table, seed)[1]["params"]["policy"]

    first = weights(0)
    torch.randn(17)
    assert all(torch.equal(first[key], tensor) for key, tensor in weights(0).items())
    assert not torch.equal(first["net.head.weight"], weights(1)["net.head.weight"])


def test_targets_are_made_for_the_networks_that_ask_for_one(monkeypatch: pytest.MonkeyPatch):
    algorithm: Any = get("awr")
    monkeypatch.setattr(algorithm, "targets", ("value",))
    data = toy_dataset(discrete=False)
    _, state = start(
        algorithm(algorithm.Config(hidden_size=8), data.spec), Table.of(data.transitions), 0
    )
    assert set(state["params"]) == {"policy", "value", "target_value"}
    for key, tensor in state["buffers"]["value"].items():
        assert torch.equal(tensor, state["buffers"]["target_value"][key])
    assert float(state["buffers"]["target_value"]["return_std"]) != 1.0

"""RLlib's logs: lists and packed arrays alike, and nothing packed is run."""

import base64
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import codes, notes, stored_frame, walk
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import offrl
from offrl.data.formats.packed import expand, unpack
from offrl.errors import ConfigError, CorruptDataError, OffrlError, UnsafeDataError


def pack(value: Any) -> str:
    return base64.b64encode(stored_frame(pickle.dumps(value, protocol=5))).decode()


def log(path: Path, *batches: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps({"type": "SampleBatch", **b}) + "\n" for b in batches))
    return path


def batch(**changes: Any) -> dict[str, Any]:
    """Two episodes of 4 and 3 steps, as lists."""
    rows = walk((4, 3))
    columns = {
        "obs": rows["obs"],
        "new_obs": rows["next_obs"],
        "actions": rows["action"],
        "rewards": rows["reward"],
        "dones": rows["done"].astype(bool),
        "eps_id": np.repeat([70, 7], [4, 3]),
        **changes,
    }
    return {
        key: value.tolist() if hasattr(value, "tolist") else value
        for key, value in columns.items()
        if value is not None
    }


NUMBERS = st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_])


class TestPackedArrays:
    @given(arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=1, max_dims=3)))
    def test_what_was_packed_comes_out(self, array: np.ndarray):
        found = unpack(pack(array))
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()

    @given(arrays.arrays(np.float32, (4, 3)))
    def test_another_order_in_memory_is_the_same_array(self, array: np.ndarray):
        assert unpack(pack(np.asfortranarray(array))).tobytes() == array.tobytes()

    def test_repeats_are_expanded(self):
        # Worked by hand: the literals "ab", then 6 bytes from 2 back, then the literal "c".
        block = bytes([0x22, *b"ab", 2, 0, 0x10, *b"c"])
        head = struct.pack("<IBBB", 0x184D2204, 0b01100000, 0x40, 0)
        assert expand(head + struct.pack("<I", len(block)) + block + b"\0\0\0\0") == b"ababababc"

    def test_a_payload_is_refused_and_not_run(self, tmp_path: Path):
        class Payload:
            def __reduce__(self) -> Any:
                return (os.system, (f"touch {tmp_path / 'ran'}",))

        for hostile in (Payload(), [Payload()], np.array([Payload()], dtype=object)):
            with pytest.raises(UnsafeDataError):
                unpack(pack(hostile))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("module", "name"),
        [("os", "system"), ("builtins", "eval"), ("numpy", "load"), ("numpy", "frombuffer")],
    )
    def test_only_two_names_are_known(self, module: str, name: str):
        asks = b"\x80\x04" + b"".join(
            b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)
        )
        with pytest.raises(UnsafeDataError, match=f"asks for {module}.{name}"):
            unpack(base64.b64encode(stored_frame(asks + b"\x93.")).decode())

    @given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
    def test_a_flipped_bit_makes_an_error_or_an_array_and_nothing_else(self, at: int, bit: int):
        content = bytearray(stored_frame(pickle.dumps(np.arange(12.0).reshape(3, 4), protocol=5)))
        content[at % len(content)] ^= 1 << bit
        try:
            found = unpack(base64.b64encode(content).decode())
        except (ValueError, OffrlError):
            return
        assert found.size <= 96

    @given(size=st.integers(0, 200))
    def test_a_cut_array_is_an_error(self, size: int):
        content = stored_frame(pickle.dumps(np.arange(30.0), protocol=5))
        with pytest.raises((ValueError, OffrlError)):
            unpack(base64.b64encode(content[:size]).decode())

    def test_a_bomb_is_refused_by_what_it_declares(self):
        head = struct.pack("<IBBQB", 0x184D2204, 0b01101000, 0x40, 2**40, 0)
        with pytest.raises(ValueError, match="declares"):
            expand(head + b"\0\0\0\0")


class TestLogs:
    def test_episodes_follow_their_numbers_across_lines(self, tmp_path: Path):
        whole = batch()
        lines = [{k: v[:2] for k, v in whole.items()}, {k: v[2:] for k, v in whole.items()}]
        data = offrl.import_file(log(tmp_path / "a.json", *lines))
        assert [len(episode) for episode in data] == [4, 3]
        assert np.allclose(data.transitions.next_obs, walk((4, 3))["next_obs"])
        assert data.transitions.terminated.tolist() == [False] * 3 + [True] + [False] * 3
        assert bool(data[1].truncations[-1])

    def test_packed_columns_and_lists_give_the_same(self, tmp_path: Path):
        plain = log(tmp_path / "a.json", batch())
        rows = walk((4, 3))
        packed = {
            "obs": pack(rows["obs"].astype(np.float64)),
            "new_obs": pack(rows["next_obs"].astype(np.float64)),
        }
        other = log(tmp_path / "b.json", batch() | packed)
        assert offrl.import_file(plain).fingerprint == offrl.import_file(other).fingerprint

    def test_probabilities_become_log_probabilities(self, tmp_path: Path):
        chance = np.linspace(0.1, 0.7, 7)
        one = offrl.import_file(log(tmp_path / "a.json", batch(action_prob=chance)))
        assert np.allclose(one.transitions.behavior_log_prob, np.log(chance))
        columns = batch(action_prob=chance, action_logp=np.log(chance))
        both = offrl.import_file(log(tmp_path / "b.json", columns))
        assert np.allclose(both.transitions.behavior_log_prob, np.log(chance))
        columns = batch(action_prob=chance + 0.1, action_logp=np.log(chance))
        apart = offrl.import_file(log(tmp_path / "c.json", columns))
        assert "action_prob is not exp(action_logp) in 7 rows" in notes(apart)

    def test_unit_actions_are_stretched_and_densities_with_them(self, tmp_path: Path):
        path = log(tmp_path / "a.json", batch(action_logp=np.linspace(-2, 0, 7)))
        space = spaces.Box(-2, 4, (1,), np.float32)
        data = offrl.import_file(path, unit_actions=True, action_space=space)
        assert np.allclose(data.transitions.action, 1 + 3 * walk((4, 3))["action"], atol=1e-6)
        expected = np.linspace(-2, 0, 7) - np.log(3)
        assert np.allclose(data.transitions.behavior_log_prob, expected)
        assert "-1.09861" in notes(data)
        kept = offrl.import_file(path, action_space=space)
        assert np.allclose(kept.transitions.action, walk((4, 3))["action"])
        assert "--unit-actions converts them" in notes(kept)
        with pytest.raises(ConfigError, match="needs the bounds"):
            offrl.import_file(path, unit_actions=True)

    @pytest.mark.parametrize(
        ("text", "error", "said"),
        [
            ("{", CorruptDataError, "line 1 is not JSON"),
            ('{"type": "Other"}', CorruptDataError, "line 1 is no SampleBatch"),
            ('{"type": "MultiAgentBatch"}', ConfigError, "batch of several agents"),
            (json.dumps({"type": "SampleBatch", "obs": []}), CorruptDataError, "has no 'actions'"),
        ],
    )
    def test_a_line_that_is_none_is_named(
        self, tmp_path: Path, text: str, error: type[Exception], said: str
    ):
        path = tmp_path / "a.json"
        path.write_text(text)
        with pytest.raises(error, match=said):
            offrl.import_file(path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"rewards": [1.0]}, "line 1: 'obs' has 7 rows, where 'rewards' has 1"),
            ({"actions": ["x"] * 7}, "line 1: 'actions' is not a column of numbers"),
            ({"obs": [[1.0], [1.0, 2.0]] * 3 + [[1.0]]}, "line 1: 'obs' cannot be read"),
            ({"obs": "BCJNGGhA4AkAAAA"}, "line 1: 'obs' cannot be read"),
            ({"action_prob": [0.0] * 7}, "'action_prob' is 0 in row 0"),
        ],
    )
    def test_a_column_that_does_not_fit_is_named(
        self, tmp_path: Path, change: dict[str, Any], said: str
    ):
        with pytest.raises(CorruptDataError) as raised:
            offrl.import_file(log(tmp_path / "a.json", batch(**change)))
        assert said in str(raised.value)

    def test_a_zip_of_logs_is_read_in_place(self, tmp_path: Path):
        log(tmp_path / "a.json", batch())
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(tmp_path / "a.json", "../../a.json")
        one = offrl.import_file(tmp_path / "a.json")
        assert offrl.import_file(tmp_path / "a.zip").fingerprint == one.fingerprint


class TestRealLogs:
    def test_cartpole(self, realdata: Path):
        folder = realdata / "rllib-logged-data"
        data = offrl.import_file(folder / "cartpole" / "large.json")
        summary = data.summary()
        assert (summary["episodes"], summary["steps"]) == (21, 4137)
        assert summary["return_mean"] == pytest.approx(197.0)
        assert data.log_prob == "logged"
        assert codes(data)["time-limit-as-end"] == 20
        with np.load(folder / "derived_npz" / "cartpole_ppo_large.npz") as decoded:
            assert np.array_equal(data.transitions.behavior_log_prob, decoded["action_logp"])
            assert np.array_equal(data.transitions.obs, decoded["obs"].astype(np.float32))

    def test_pendulum(self, realdata: Path):
        folder = realdata / "rllib-logged-data"
        data = offrl.import_file(
            folder / "pendulum" / "pendulum_medium_sac_50eps.zip",
            env="Pendulum-v1",
            action_bounds=(-2.0, 2.0),
            unit_actions=True,
        )
        summary = data.summary()
        assert (summary["episodes"], summary["steps"]) == (50, 10_000)
        assert summary["return_mean"] == pytest.approx(-524.3, abs=0.05)
        assert summary["terminated_episodes"] == 0
        with np.load(folder / "derived_npz" / "pendulum_medium_sac.npz") as decoded:
            assert np.array_equal(data.transitions.next_obs, decoded["new_obs"])
            density = decoded["action_logp"] - np.log(2)
            assert np.allclose(data.transitions.behavior_log_prob, density, atol=1e-9)
        # The environment's own equation, with the torque in its units.
        built = data.transitions
        angle = np.arctan2(built.obs[:, 1], built.obs[:, 0]).astype(np.float64)
        torque = built.action[:, 0]
        reward = -(angle**2 + 0.1 * built.obs[:, 2] ** 2 + 0.001 * torque**2)
        assert np.allclose(reward, built.reward, atol=2e-5)

"""Nothing that an agent's files hold is run: payloads stay payloads, and the refusal names them."""

import base64
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_zips import BOX, OBS, save_agent, weights_of, write_zip
from gymnasium import spaces

from offrl.collect.agents import load_agent
from offrl.collect.behaviors import build
from offrl.collect.recorder import record
from offrl.collect.vecnormalize import read_statistics
from offrl.data.recipe import BehaviorSpec
from offrl.errors import ConfigError, CorruptDataError, OffrlError, UnsafeDataError
from offrl_cli import main


class _Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return (open, (str(self.mark), "w"))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.zip"


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def typed(path: Path) -> int:
    words = ["collect", "--env", "Pendulum-v1", "--policy", f"sb3:{path}", "--episodes", "1"]
    return main([*words, "--out", "me/agent-v0"])


class TestWeights:
    @pytest.fixture(params=["pickle", "torch", "old torch"])
    def hostile(self, request: pytest.FixtureRequest, path: Path, mark: Path) -> Path:
        """An agent whose weights carry a payload."""
        save_agent(path, "ppo", BOX)
        inner = io.BytesIO()
        if request.param == "pickle":
            inner.write(pickle.dumps(_Payload(mark)))
        else:
            new = request.param == "torch"
            torch.save({"log_std": _Payload(mark)}, inner, _use_new_zipfile_serialization=new)
        write_zip(path, members(path) | {"policy.pth": inner.getvalue()})
        return path

    def test_that_are_a_payload_are_refused(
        self, hostile: Path, mark: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises((UnsafeDataError, CorruptDataError), match="not weights alone"):
            load_agent(f"sb3:{hostile}", OBS, BOX)
        assert typed(hostile) == 1
        assert "not weights alone" in capsys.readouterr().err
        assert not mark.exists()

    def test_are_refused_also_where_the_environment_turns_the_default_off(
        self, hostile: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        with pytest.raises(OffrlError, match="not weights alone"):
            load_agent(f"sb3:{hostile}", OBS, BOX)
        assert not mark.exists()

    def test_that_are_no_table_are_refused(self, path: Path) -> None:
        save_agent(path, "ppo", BOX)
        inner = io.BytesIO()
        torch.save([torch.zeros(2)], inner)
        write_zip(path, members(path) | {"policy.pth": inner.getvalue()})
        with pytest.raises(CorruptDataError, match="not a table of weights"):
            load_agent(f"sb3:{path}", OBS, BOX)


def test_pickles_that_the_page_quotes_are_left_alone(path: Path, mark: Path) -> None:
    save_agent(path, "ppo", BOX)
    kept = members(path)
    page = json.loads(kept["data"])
    quoted = base64.b64encode(pickle.dumps(_Payload(mark))).decode()
    page["policy_class"][":serialized:"] = page["lr_schedule"] = quoted
    page["action_noise"] = {":serialized:": quoted}
    kept["pytorch_variables.pth"] = pickle.dumps(_Payload(mark))
    write_zip(path, kept | {"data": json.dumps(page).encode()})
    assert load_agent(f"sb3:{path}", OBS, BOX).stochastic
    assert not mark.exists()


class VecNormalize:
    """Stands for the class of that name: only its name and its state are written."""


class RunningMeanStd:
    """The same."""


VecNormalize.__module__ = "stable_baselines3.common.vec_env.vec_normalize"
RunningMeanStd.__module__ = "stable_baselines3.common.running_mean_std"


def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickle find the stand-ins under the names that they claim."""
    import sys
    import types

    for kind in (VecNormalize, RunningMeanStd):
        parts = kind.__module__.split(".")
        for i in range(1, len(parts) + 1):
            name = ".".join(parts[:i])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        setattr(sys.modules[kind.__module__], kind.__name__, kind)


@pytest.fixture
def statistics(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write statistics beside the agent and return their path."""
    named(monkeypatch)

    def write(protocol: int = 4, **changes: Any) -> Path:
        moments = RunningMeanStd()
        vars(moments).update(
            mean=np.array([1.0, 2.0, 3.0]), var=np.array([4.0, 9.0, 1.0]), count=np.float64(10)
        )
        whole = VecNormalize()
        state = {
            "obs_rms": moments, "norm_obs": True, "clip_obs": 1.5, "epsilon": np.float64(1e-8),
            "observation_space": OBS, "action_space": BOX,
        }  # fmt: skip
        vars(whole).update(state | changes)
        found = path.with_name("agent.vecnormalize.pkl")
        found.write_bytes(pickle.dumps(whole, protocol))
        return found

    return write


class TestStatistics:
    @pytest.mark.parametrize("protocol", [3, 4, 5])
    def test_normalise_what_the_agent_sees(
        self, path: Path, statistics: Callable[..., Path], protocol: int
    ) -> None:
        save_agent(path, "ppo", BOX)
        raw = np.array([2.0, -7.0, 3.5])
        plain = load_agent(f"sb3:{path}", OBS, BOX)
        statistics(protocol)
        seeing = load_agent(f"sb3:{path}", OBS, BOX)
        assert not np.array_equal(seeing.mode(raw), plain.mode(raw))
        np.testing.assert_array_equal(seeing.mode(raw), plain.mode(np.array([0.5, -1.5, 0.5])))

    def test_are_said_to_be_used(
        self, path: Path, statistics: Callable[..., Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        save_agent(path, "ppo", BOX)
        statistics()
        build(BehaviorSpec(f"sb3:{path}"), OBS, BOX)
        assert "normalised by agent.vecnormalize.pkl" in caplog.text

    def test_of_other_observations_are_told(
        self, path: Path, statistics: Callable[..., Path]
    ) -> None:
        save_agent(path, "ppo", BOX)
        statistics()
        wide = spaces.Box(-1.0, 1.0, (4,))
        weights = weights_of("ppo", 2, np.random.default_rng(0))
        weights["mlp_extractor.policy_net.0.weight"] = np.zeros((8, 4))
        save_agent(path, "ppo", BOX, weights=weights)
        with pytest.raises(ConfigError, match=r"normalises 3 observation numbers .* gives 4"):
            load_agent(f"sb3:{path}", wide, BOX)

    def test_that_leave_observations_alone_do(self, statistics: Callable[..., Path]) -> None:
        assert read_statistics(statistics(norm_obs=False)) is None

    def test_are_found_where_they_usually_lie(
        self, path: Path, statistics: Callable[..., Path]
    ) -> None:
        from offrl.collect.zips import digests, statistics_path

        save_agent(path, "ppo", BOX)
        assert statistics_path(path) is None
        found = statistics()
        for name in ("vecnormalize.pkl", "agent/vecnormalize.pkl", "agent.vecnormalize.pkl"):
            target = path.parent / name
            target.parent.mkdir(exist_ok=True)
            found = found.rename(target)
            assert statistics_path(path) == target
            assert digests(path)["statistics"] == target.name
            found = target

    def test_of_a_dictionary_are_told(self, statistics: Callable[..., Path]) -> None:
        with pytest.raises(ConfigError, match="dictionary of observations"):
            read_statistics(statistics(obs_rms={}))

    @pytest.mark.parametrize(
        "changes",
        [{"epsilon": "x"}, {"obs_rms": None}, {"clip_obs": None}, {"obs_rms": [1.0]}],
    )
    def test_that_are_not_numbers_are_told(
        self, statistics: Callable[..., Path], changes: dict[str, Any]
    ) -> None:
        with pytest.raises(CorruptDataError, match=r"agent\.vecnormalize\.pkl cannot be read"):
            read_statistics(statistics(**changes))

    def test_with_a_payload_are_refused(
        self, path: Path, mark: Path, statistics: Callable[..., Path]
    ) -> None:
        torque = spaces.Box(-2.0, 2.0, (1,), np.float32)
        save_agent(path, "ppo", torque)
        for changes in ({"venv": _Payload(mark)}, {"epsilon": _Payload(mark)}):
            statistics(**changes)
            with pytest.raises(UnsafeDataError, match=r"names '_?io open'"):
                load_agent(f"sb3:{path}", OBS, torque)
        assert typed(path) == 1
        assert not mark.exists()

    @pytest.mark.parametrize("protocol", range(6))
    def test_that_are_nothing_but_a_payload_are_refused(
        self, tmp_path: Path, mark: Path, protocol: int
    ) -> None:
        found = tmp_path / "vecnormalize.pkl"
        found.write_bytes(pickle.dumps(_Payload(mark), protocol))
        with pytest.raises(UnsafeDataError):
            read_statistics(found)
        assert not mark.exists()

    @pytest.mark.parametrize(
        "program",
        [
            b"(S'echo'\nios\nsystem\n.",  # INST
            b"(cos\nsystem\nS'echo'\no.",  # GLOBAL, OBJ
            b"\x80\x02\x82\x01.",  # EXT1
            b"Pid\n.",  # PERSID
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04echo\x85R.",
            b"cnumpy\nload\n.",
            b"cbuiltins\neval\n.",
        ],
    )
    def test_in_any_other_words_are_refused(self, tmp_path: Path, program: bytes) -> None:
        found = tmp_path / "vecnormalize.pkl"
        found.write_bytes(program)
        with pytest.raises((UnsafeDataError, CorruptDataError)):
            read_statistics(found)

    def test_that_are_damaged_are_told_and_never_hang(
        self, statistics: Callable[..., Path]
    ) -> None:
        found = statistics()
        content, rng = found.read_bytes(), np.random.default_rng(0)
        for _ in range(300):
            changed = bytearray(content)
            for at in rng.integers(len(content), size=3):
                changed[at] = rng.integers(256)
            found.write_bytes(changed[: int(rng.integers(1, len(content) + 1))])
            with suppress(OffrlError):  # anything else would be a crash
                read = read_statistics(found)
                assert read is None or np.isfinite(read.mean).all()

    def test_that_are_too_large_are_refused(
        self, statistics: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from offrl.collect import vecnormalize

        found = statistics()
        monkeypatch.setattr(vecnormalize, "_LARGEST", 10)
        with pytest.raises(UnsafeDataError, match="too large"):
            read_statistics(found)

    def test_of_published_agents_are_those_of_an_independent_reading(self, realdata: Path) -> None:
        folder = realdata / "rl-trained-agents"
        files = sorted(folder.glob("zips/*/*.pkl"))
        assert files
        for found in files:
            read = read_statistics(found)
            assert read is not None
            name = f"{found.parent.name}-{found.name.partition('.')[0]}.npz"
            with np.load(folder / "actors_npz" / name) as z:
                np.testing.assert_array_equal(read.mean, z["obs_mean"])
                np.testing.assert_allclose(read.std**2, z["obs_var"] + z["obs_eps"], rtol=1e-12)
                assert read.clip == z["obs_clip"]


def test_what_was_refused_left_nothing_behind(path: Path, mark: Path) -> None:
    write_zip(path, {"data": b"{}", "policy.pth": pickle.dumps(_Payload(mark))})
    with pytest.raises(OffrlError):
        record(env="Pendulum-v1", policies=f"sb3:{path}", episodes=1, out="me/a-v0")
    assert not mark.exists()

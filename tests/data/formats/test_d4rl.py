"""D4RL files: both ways to read a boundary, and what is said where flags and data disagree."""

from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from foreign_files import codes, d4rl_arrays, notes, save_d4rl, walk
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import offrl
from offrl.errors import ConfigError, CorruptDataError, UnsafeDataError


def qlearning(arrays: dict[str, np.ndarray]) -> list[tuple[Any, Any, bool]]:
    """(obs, action, done) of the rows that D4RL's own reader keeps."""
    obs, actions, terminals, timeouts = (
        arrays[key].tolist() for key in ("observations", "actions", "terminals", "timeouts")
    )
    n = len(obs)
    return [(obs[i], actions[i], terminals[i]) for i in range(n - 1) if not timeouts[i]]


class TestBoundaries:
    def test_keep_keeps_every_step(self, tmp_path: Path):
        arrays = d4rl_arrays()
        data = offrl.import_file(save_d4rl(tmp_path / "a.hdf5", arrays))
        assert [len(episode) for episode in data] == [4, 3, 5]
        assert np.array_equal(data.transitions.obs, arrays["observations"])
        assert data.transitions.terminated.tolist() == arrays["terminals"].tolist()
        assert "2 episodes end without a logged last observation" in notes(data)
        assert data.spec.action_space == spaces.Box(-1, 1, (1,), np.float32)

    @given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=6), seed=st.integers(0, 99))
    def test_d4rl_keeps_the_steps_that_its_own_reader_keeps(
        self, tmp_path_factory: Any, lengths: list[int], seed: int
    ):
        arrays = d4rl_arrays(tuple(lengths), seed=seed)
        kept = qlearning(arrays)
        path = save_d4rl(tmp_path_factory.mktemp("d4rl") / "a.hdf5", arrays)
        if not kept:
            with pytest.raises(ConfigError, match="No step is left"):
                offrl.import_file(path, boundaries="d4rl")
            return
        built = offrl.import_file(path, boundaries="d4rl").transitions
        found = zip(
            built.obs.tolist(), built.action.tolist(), built.terminated.tolist(), strict=True
        )
        assert list(found) == kept
        # Where a step does not end its episode, D4RL's next observation is the next row.
        rows = {tuple(row): i for i, row in enumerate(arrays["observations"].tolist())}
        for i in np.flatnonzero(~built.terminated):
            following = arrays["observations"][rows[tuple(built.obs[i].tolist())] + 1]
            assert np.array_equal(built.next_obs[i], following)

    @given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=8))
    def test_no_step_pairs_two_episodes(self, tmp_path_factory: Any, lengths: list[int]):
        rows = walk(tuple(lengths))
        arrays = d4rl_arrays(tuple(lengths)) | {"next_observations": rows["next_obs"]}
        path = save_d4rl(tmp_path_factory.mktemp("d4rl") / "a.hdf5", arrays)
        for split in ("flags", "jumps"):
            data = offrl.import_file(path, split=split)
            assert [len(episode) for episode in data] == lengths
            assert np.array_equal(data.transitions.next_obs, rows["next_obs"])


class TestColumns:
    def test_infos_are_kept_and_the_log_probability_becomes_the_behaviours(self, tmp_path: Path):
        arrays = d4rl_arrays() | {
            "infos/action_log_probs": np.linspace(-3, 0, 12),
            "infos/sim/qpos": np.arange(24.0).reshape(12, 2),
            "infos/odd": np.arange(5),
            "metadata/algorithm": np.array(7),
        }
        data = offrl.import_file(save_d4rl(tmp_path / "a.hdf5", arrays))
        assert data.log_prob == "logged"
        assert np.allclose(data.transitions.behavior_log_prob, arrays["infos/action_log_probs"])
        assert data[1].infos["sim"]["qpos"].tolist() == arrays["infos/sim/qpos"][4:7].tolist()
        assert "left aside: infos/odd" in notes(data)
        assert "left aside: metadata/algorithm" in notes(data)

    @pytest.mark.parametrize(
        ("change", "error", "said"),
        [
            ({"terminals": None}, ConfigError, "has no 'terminals'"),
            ({"actions": np.zeros((3, 1))}, CorruptDataError, "'actions' has 3 rows, where"),
            ({"rewards": np.array([b"x"] * 12)}, CorruptDataError, "'rewards' is |S1, not numbers"),
            ({"terminals": np.full(12, 2)}, CorruptDataError, "'terminals' is 2 in row 0"),
            ({"next_observations": np.zeros((12, 9))}, CorruptDataError, "(12, 9)"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_named(
        self, tmp_path: Path, change: dict[str, Any], error: type[Exception], said: str
    ):
        arrays = {k: v for k, v in {**d4rl_arrays(), **change}.items() if v is not None}
        with pytest.raises(error) as raised:
            offrl.import_file(save_d4rl(tmp_path / "a.hdf5", arrays))
        assert said in str(raised.value)

    def test_a_minari_file_needs_no_import(self, tmp_path: Path):
        path = save_d4rl(tmp_path / "a.hdf5", {"episode_0/rewards": np.zeros(3)})
        with pytest.raises(ConfigError, match="is a Minari dataset"):
            offrl.import_file(path)

    def test_a_file_that_reads_another_is_refused(self, tmp_path: Path):
        path = save_d4rl(tmp_path / "a.hdf5", d4rl_arrays())
        with h5py.File(path, "a") as file:
            file["infos/secret"] = h5py.ExternalLink("/etc/hostname", "/")
        with pytest.raises(UnsafeDataError, match="infos/secret is a link to another file"):
            offrl.import_file(path)

    def test_a_cut_file_is_damaged(self, tmp_path: Path):
        path = save_d4rl(tmp_path / "a.hdf5", d4rl_arrays())
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(CorruptDataError, match="is damaged"):
            offrl.import_file(path)


def pendulums(lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Swings, each from its own place, smooth inside an episode: a course that can be foretold."""
    rng = np.random.default_rng(3)
    parts, actions = [], []
    for length in lengths:
        state, states = np.array([rng.uniform(2, 4) * rng.choice([-1, 1]), 0.0]), []
        torque = rng.uniform(-1, 1, size=length)
        for push in torque:
            states.append(state)
            speed = state[1] - 0.05 * np.sin(state[0]) + 0.01 * push
            state = np.array([state[0] + 0.05 * speed, speed])
        parts.append(states)
        actions.append(torque)
    last = np.zeros(sum(lengths), dtype=bool)
    last[np.cumsum(lengths) - 1] = True
    return {
        "observations": np.concatenate(parts).astype(np.float32),
        "actions": np.concatenate(actions).astype(np.float32)[:, None],
        "rewards": np.arange(sum(lengths), dtype=np.float32),
        "terminals": np.zeros(sum(lengths), dtype=bool),
        "timeouts": last,
    }


class TestContradictions:
    LENGTHS = (60, 50, 70, 40)

    def path(self, tmp_path: Path, **changed: np.ndarray) -> Path:
        return save_d4rl(tmp_path / "a.hdf5", pendulums(self.LENGTHS) | changed)

    def test_a_good_file_has_none(self, tmp_path: Path):
        data = offrl.import_file(self.path(tmp_path))
        assert data.metadata["offrl"]["import"]["findings"] == []
        assert [len(episode) for episode in data] == list(self.LENGTHS)

    def test_a_time_out_where_the_log_runs_on(self, tmp_path: Path):
        timeouts = pendulums(self.LENGTHS)["timeouts"]
        timeouts[[20, 130]] = True
        path = self.path(tmp_path, timeouts=timeouts)
        data = offrl.import_file(path)
        assert [len(episode) for episode in data] == [21, 39, 50, 21, 49, 40]
        assert codes(data)["timeout-inside-episode"] == 2
        assert "(2: row 20, row 130): an episode ends there; --split jumps" in notes(data)
        other = offrl.import_file(path, split="jumps")
        assert [len(episode) for episode in other] == list(self.LENGTHS)

    def test_a_terminal_where_the_log_runs_on(self, tmp_path: Path):
        terminals = pendulums(self.LENGTHS)["terminals"]
        terminals[80] = True
        path = self.path(tmp_path, terminals=terminals)
        data = offrl.import_file(path)
        assert codes(data)["end-inside-log"] == 1
        assert data.transitions.terminated.sum() == 1
        assert not offrl.import_file(path, split="jumps").transitions.terminated.any()

    def test_a_jump_where_no_end_is_flagged(self, tmp_path: Path):
        timeouts = pendulums(self.LENGTHS)["timeouts"]
        timeouts[[59, 179]] = False
        path = self.path(tmp_path, timeouts=timeouts)
        data = offrl.import_file(path)
        assert [len(episode) for episode in data] == [110, 110]
        assert codes(data)["jump-without-end"] == 2
        assert "row 59, row 179): no episode ends there; --split jumps ends one" in notes(data)
        assert [len(e) for e in offrl.import_file(path, split="jumps")] == list(self.LENGTHS)

    @pytest.mark.slow
    @pytest.mark.parametrize("env", ["Pendulum-v1", "MountainCarContinuous-v0", "Hopper-v5"])
    def test_no_reset_runs_on_and_no_step_of_an_environment_jumps(self, tmp_path: Path, env: str):
        made = gymnasium.make(env, max_episode_steps=150)
        made.action_space.seed(0)
        rows: dict[str, list[Any]] = {key: [] for key in d4rl_arrays()}
        obs, _ = made.reset(seed=0)
        for _ in range(4000):
            action = made.action_space.sample()
            following, reward, terminated, truncated, _ = made.step(action)
            step = (obs, action, reward, terminated, truncated and not terminated)
            for key, value in zip(rows, step, strict=True):
                rows[key].append(value)
            obs = made.reset()[0] if terminated or truncated else following
        made.close()
        arrays = {key: np.array(column) for key, column in rows.items()}
        data = offrl.import_file(save_d4rl(tmp_path / "a.hdf5", arrays))
        assert data.metadata["offrl"]["import"]["findings"] == []

    def test_what_was_found_stays_with_the_saved_dataset(self, tmp_path: Path):
        timeouts = pendulums(self.LENGTHS)["timeouts"]
        timeouts[20] = True
        offrl.import_file(self.path(tmp_path, timeouts=timeouts), "me/swing-v0")
        report = offrl.check("me/swing-v0")
        (found,) = [p for p in report.problems if p.code == "timeout-inside-episode"]
        assert (found.count, found.places, found.severity) == (1, ("row 20",), "warning")

    def test_a_file_without_timeouts_says_so(self, tmp_path: Path):
        arrays = pendulums((120, 100, 140, 80))
        del arrays["timeouts"]
        data = offrl.import_file(save_d4rl(tmp_path / "a.hdf5", arrays))
        assert len(data) == 1
        assert "the file has no timeouts" in notes(data)
        assert codes(data)["jump-without-end"] == 3

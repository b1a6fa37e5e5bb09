"""npz archives: each kind becomes the episodes it holds, and nothing in one is unpickled."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import codes, notes, save_npz, walk
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import offrl
from offrl.errors import ConfigError, CorruptDataError, UnsafeDataError


class TestPlainArrays:
    def test_rows_become_episodes_with_their_last_observation(self, tmp_path: Path):
        rows = walk()
        data = offrl.import_file(save_npz(tmp_path / "a.npz", **rows))
        assert [len(episode) for episode in data] == [4, 3, 5]
        assert [bool(episode.terminations[-1]) for episode in data] == [True, False, False]
        assert np.array_equal(data[1].observations[-1], rows["next_obs"][6])
        assert np.array_equal(data.transitions.next_obs, rows["next_obs"])
        assert data[2].truncations.tolist() == [False] * 4 + [True]
        assert codes(data).keys() <= {"few-episodes"}

    @given(
        lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
        names=st.sampled_from(
            [
                ("obs", "action", "reward", "next_obs", "terminated", "truncated"),
                ("observations", "actions", "rewards", "next_observations", "dones", "timeouts"),
                ("states", "acts", "rews", "next_states", "terminals", "truncations"),
            ]
        ),
    )
    def test_the_names_of_others_mean_the_same_columns(
        self, tmp_path_factory: Any, lengths: list[int], names: tuple[str, ...]
    ):
        rows = walk(tuple(lengths))
        ours = ("obs", "action", "reward", "next_obs", "done", "truncated")
        path = tmp_path_factory.mktemp("npz") / "a.npz"
        arrays = {name: rows[key] for name, key in zip(names, ours, strict=True)}
        data = offrl.import_file(save_npz(path, **arrays))
        assert [len(episode) for episode in data] == lengths
        assert np.array_equal(data.transitions.next_obs, rows["next_obs"])

    def test_episode_numbers_split_where_no_flag_does(self, tmp_path: Path):
        rows = walk()
        del rows["truncated"]
        rows["done"][:] = 0
        numbers = np.repeat([70, 7, 12], [4, 3, 5])
        data = offrl.import_file(save_npz(tmp_path / "a.npz", **rows, eps_id=numbers))
        assert [len(episode) for episode in data] == [4, 3, 5]
        assert all(episode.truncations[-1] for episode in data)

    def test_a_jump_inside_is_an_end_that_the_log_forgot(self, tmp_path: Path):
        rows = walk((4, 3))
        rows["done"][:] = rows["truncated"][:] = 0
        data = offrl.import_file(save_npz(tmp_path / "a.npz", **rows))
        assert [len(episode) for episode in data] == [4, 3]
        assert "observations jump where no end is flagged (1: row 3)" in notes(data)
        assert codes(data)["jump-without-end"] == 1
        assert offrl.check(data).ok

    def test_propensities_become_log_probabilities(self, tmp_path: Path):
        rows = walk()
        chance = np.linspace(0.1, 1, 12)
        data = offrl.import_file(save_npz(tmp_path / "a.npz", **rows, action_prob=chance))
        assert np.allclose(data.transitions.behavior_log_prob, np.log(chance))
        assert data.log_prob == "logged"

    def test_bounds_come_from_the_words_and_are_never_guessed_from_strangers(self, tmp_path: Path):
        rows = walk()
        rows["acts"] = 3 * rows.pop("action")
        path = save_npz(tmp_path / "a.npz", **rows)
        data = offrl.import_file(path)
        assert np.isinf(data.spec.action_high).all()
        assert "--action-bounds" in notes(data)
        bounded = offrl.import_file(path, action_bounds=(-4.0, 4.0))
        assert bounded.spec.action_space == spaces.Box(-4, 4, (1,), np.float32)

    @pytest.mark.parametrize(
        ("change", "error", "said"),
        [
            ({"reward": None}, ConfigError, "has no array of the reward"),
            ({"action": np.zeros((11, 1))}, CorruptDataError, "'action' has 11 rows, where 12"),
            ({"done": np.full(12, 0.5)}, CorruptDataError, "'done' is 0.5 in row 0"),
            ({"reward": np.array(["x"] * 12)}, CorruptDataError, "'reward' is <U1, not numbers"),
            ({"reward": np.zeros((12, 2))}, CorruptDataError, "shape (12, 2)"),
            ({"propensity": np.zeros(12)}, CorruptDataError, "'propensity' is 0 in row 0"),
            ({"next_obs": np.zeros((12, 3))}, CorruptDataError, "(12, 3)"),
            ({"reward": np.zeros(0)}, CorruptDataError, "rows, where 0 are expected"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, tmp_path: Path, change: dict[str, Any], error: type[Exception], said: str
    ):
        arrays = {k: v for k, v in {**walk(), **change}.items() if v is not None}
        with pytest.raises(error) as raised:
            offrl.import_file(save_npz(tmp_path / "a.npz", **arrays))
        assert said in str(raised.value)


def ogbench(**more: np.ndarray) -> dict[str, np.ndarray]:
    """Two trajectories of 3 and 2 steps: 4 and 3 rows, of which the last is a state."""
    return {
        "observations": np.arange(14, dtype=np.float32).reshape(7, 2),
        "actions": np.linspace(-1, 1, 7, dtype=np.float32)[:, None],
        "terminals": np.array([0, 0, 0, 1, 0, 0, 1], dtype=bool),
        **more,
    }


class TestOGBench:
    def test_the_last_row_of_a_trajectory_is_a_state(self, tmp_path: Path):
        rows = ogbench(qpos=np.arange(7.0))
        data = offrl.import_file(save_npz(tmp_path / "a.npz", **rows))
        assert [len(episode) for episode in data] == [3, 2]
        assert data[1].observations.tolist() == rows["observations"][4:].tolist()
        assert data[0].infos["qpos"].tolist() == [0, 1, 2, 3]
        assert not data.transitions.terminated.any()
        assert "every reward is 0" in notes(data)
        assert data.spec.action_space == spaces.Box(-1, 1, (1,), np.float32)

    def test_masks_terminate_and_the_log_goes_on(self, tmp_path: Path):
        rows = ogbench(masks=np.array([1, 0, 1, 1, 1, 1, 1.0]), rewards=np.arange(7.0))
        path = save_npz(tmp_path / "a.npz", **rows)
        data = offrl.import_file(path)
        assert [len(episode) for episode in data] == [2, 1, 2]
        assert data.transitions.terminated.tolist() == [False, True, False, False, False]
        # The state after the goal begins the rest of the trajectory.
        assert np.array_equal(data[0].observations[-1], data[1].observations[0])
        whole = offrl.import_file(path, masks="ignore")
        assert [len(episode) for episode in whole] == [3, 2]
        assert "--masks ignore" in notes(data)

    def test_a_trajectory_that_is_one_state_is_refused(self, tmp_path: Path):
        rows = ogbench()
        rows["terminals"][4] = True
        with pytest.raises(CorruptDataError, match="the episode at row 4 has one state"):
            offrl.import_file(save_npz(tmp_path / "a.npz", **rows))


def imitation(lengths: tuple[int, ...] = (2, 3)) -> dict[str, np.ndarray]:
    n, episodes = sum(lengths), len(lengths)
    return {
        "obs": np.arange(n + episodes, dtype=np.float32)[:, None],
        "acts": np.arange(n) % 2,
        "rews": np.ones(n),
        "terminal": np.ones(episodes, bool),
        "indices": np.cumsum(lengths)[:-1],
    }


class TestImitation:
    def test_indices_split_the_acts(self, tmp_path: Path):
        data = offrl.import_file(save_npz(tmp_path / "a.npz", **imitation()))
        assert [len(episode) for episode in data] == [2, 3]
        assert data[1].observations[:, 0].tolist() == [3, 4, 5, 6]
        assert data.spec.discrete

    def test_a_time_limit_flagged_as_an_end_is_found_and_can_be_undone(self, tmp_path: Path):
        path = save_npz(tmp_path / "a.npz", **imitation((30, 30, 12, 30)))
        data = offrl.import_file(path)
        assert codes(data)["time-limit-as-end"] == 3
        assert "--time-limit 30" in notes(data)
        undone = offrl.import_file(path, time_limit=30)
        assert [bool(e.terminations[-1]) for e in undone] == [False, False, True, False]
        assert [bool(e.truncations[-1]) for e in undone] == [True, True, False, True]
        assert "time-limit-as-end" not in codes(undone)

    @pytest.mark.parametrize("indices", [[0], [5], [3, 3], [9]])
    def test_indices_that_leave_an_episode_empty_are_named(
        self, tmp_path: Path, indices: list[int]
    ):
        arrays = imitation() | {"indices": np.array(indices), "terminal": np.ones(len(indices) + 1)}
        arrays["obs"] = np.zeros((5 + len(indices) + 1, 1))
        with pytest.raises(CorruptDataError, match="'indices' gives episode"):
            offrl.import_file(save_npz(tmp_path / "a.npz", **arrays))

    def test_another_reading_of_the_boundaries_makes_no_sense_here(self, tmp_path: Path):
        path = save_npz(tmp_path / "a.npz", **imitation())
        with pytest.raises(ConfigError, match="holds whole episodes"):
            offrl.import_file(path, boundaries="d4rl")


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


class TestHostileArchives:
    def test_objects_are_never_unpickled(self, tmp_path: Path):
        ran = tmp_path / "ran"
        rows: dict[str, Any] = walk()
        payload = np.array([Payload(ran)] * 12, dtype=object)
        data = offrl.import_file(save_npz(tmp_path / "a.npz", **rows, infos=payload))
        assert "left aside: infos" in notes(data)
        rows["reward"] = payload
        with pytest.raises(UnsafeDataError, match="'reward' holds Python objects"):
            offrl.import_file(save_npz(tmp_path / "b.npz", **rows))
        assert not ran.exists()

    def test_a_pickle_is_refused_by_its_first_bytes(self, tmp_path: Path):
        ran = tmp_path / "ran"
        path = tmp_path / "a.npz"
        path.write_bytes(pickle.dumps(Payload(ran)))
        with pytest.raises(ConfigError, match="is a pickle"):
            offrl.import_file(path)
        assert not ran.exists()

    def test_a_flipped_bit_is_found(self, tmp_path: Path):
        path = save_npz(tmp_path / "a.npz", **walk())
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            at = archive.getinfo("reward.npy").header_offset + 200
        content[at] ^= 1
        path.write_bytes(content)
        with pytest.raises(CorruptDataError, match="'reward' is damaged"):
            offrl.import_file(path)

    @pytest.mark.parametrize("share", [0.99, 0.5, 0.01])
    def test_a_cut_file_is_damaged(self, tmp_path: Path, share: float):
        path = save_npz(tmp_path / "a.npz", **walk())
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(CorruptDataError, match="damaged"):
            offrl.import_file(path)

    def test_a_header_that_promises_more_than_there_is_is_refused(self, tmp_path: Path):
        path = tmp_path / "a.npz"
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
        member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("reward.npy", member)
        with pytest.raises(CorruptDataError, match="declares the shape"):
            offrl.import_file(path)


class TestRealArchives:
    @pytest.mark.parametrize(
        ("name", "episodes", "steps", "mean"),
        [
            ("neorl2/DMSD-high-20000-val.npz", 200, 20_000, 481.2),
            ("neorl2/DMSD-high-100000-train.npz", 1000, 100_000, 494.5),
            ("neorl2/Pipeline-high-20000-val.npz", 20, 20_000, -286.9),
            ("neorl2/Pipeline-high-100000-train.npz", 100, 100_000, -421.4),
            ("imitation-testdata/cartpole_0_rollouts.npz", 57, 26_964, 473.1),
            ("imitation-testdata/pendulum_0_rollouts.npz", 56, 11_200, -189.4),
            ("generated-by-public-recipes/ogbench-pointmaze-medium-navigate.npz", 10, 10_000, 0),
            ("generated-by-public-recipes/ogbench-cube-single-play.npz", 5, 5_000, 0),
        ],
    )
    def test_the_figures_are_those_of_its_readme(
        self, realdata: Path, name: str, episodes: int, steps: int, mean: float
    ):
        data = offrl.import_file(realdata / name)
        summary = data.summary()
        assert (summary["episodes"], summary["steps"]) == (episodes, steps)
        assert summary["return_mean"] == pytest.approx(mean, abs=0.05)
        assert offrl.check(data).ok

    def test_pendulum_never_terminates_though_the_archive_says_so(self, realdata: Path):
        data = offrl.import_file(realdata / "imitation-testdata/pendulum_0_rollouts.npz")
        assert codes(data)["time-limit-as-end"] == 56

"""What Minari writes, in each of its storage formats, is read as Minari reads it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari_files import ACTION, episode, metadata, stacked, write_folder

from offrl.data.dataset import load
from offrl.data.episodes import leaves
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    UnsafeDataError,
)

Run = Callable[..., tuple[int, str, str]]
EVERYTHING = spaces.Dict(
    {
        "box": spaces.Box(-1, 1, (2, 3), np.float64),
        "tuple": spaces.Tuple([spaces.Discrete(3, start=1), spaces.Text(6)]),
        "image": spaces.Box(0, 255, (32, 40, 3), np.uint8),
        "grey": spaces.Box(0, 255, (32, 33), np.uint8),
        "small": spaces.Box(0, 255, (7, 7, 3), np.uint8),
        "switches": spaces.MultiBinary(4),
        "dials": spaces.MultiDiscrete([2, 3]),
    }
)


def by_minari(id: str, data_format: str, *, jpeg: bool, action_space: spaces.Space[Any]) -> Any:
    """A dataset written by Minari itself, of every kind of part that it knows."""
    EVERYTHING.seed(0)
    action_space.seed(0)
    rng = np.random.default_rng(0)
    buffers = []
    for number, steps in enumerate((3, 1, 5)):
        obs = stacked([EVERYTHING.sample() for _ in range(steps + 1)])
        obs["tuple"] = (obs["tuple"][0], list(obs["tuple"][1]))
        actions = np.stack([action_space.sample() for _ in range(steps)])
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=number + 5,
                options={"goal": 1},
                observations=obs,
                actions=actions,  # pyright: ignore[reportArgumentType] - Minari takes arrays too
                rewards=list(rng.normal(size=steps)),
                terminations=[False] * steps,
                truncations=[False] * (steps - 1) + [True],
                infos={
                    "behavior_log_prob": [float("nan"), *(-rng.random(steps))],
                    "nested": {"position": rng.normal(size=(steps + 1, 2, 2))},
                    "word": ["a"] * (steps + 1),
                },
            )
        )
    return minari.create_dataset_from_buffers(
        id,
        buffers,
        observation_space=EVERYTHING,
        action_space=action_space,
        data_format=data_format,
        jpeg_encoding=jpeg,
        code_permalink="x",
        author="x",
        author_email="x",
        algorithm_name="x",
        description="x",
    )


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.parametrize("jpeg", [True, False], ids=["jpeg", "raw"])
@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize(
    "action_space", [ACTION, spaces.Discrete(4, start=1)], ids=["box", "choice"]
)
def test_what_minari_writes_is_read_as_minari_reads_it(
    data_format: str, jpeg: bool, action_space: spaces.Space[Any], root: Path
) -> None:
    theirs = by_minari("me/theirs-v0", data_format, jpeg=jpeg, action_space=action_space)
    ours = load("me/theirs-v0")
    assert (ours.n_episodes, ours.n_steps, ours.log_prob) == (3, 9, "logged")
    for one, other in zip(ours, theirs, strict=True):
        expected = dict(leaves(other.observations))
        for path, leaf in leaves(one.observations):
            np.testing.assert_array_equal(
                leaf.tolist(), np.asarray(_listed(expected, other.observations, path)).tolist()
            )
        for name in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(
            one.infos["behavior_log_prob"], other.infos["behavior_log_prob"]
        )
        assert one.infos["nested"]["position"].shape == (len(one) + 1, 2, 2)
        assert one.infos["word"].tolist() == ["a"] * (len(one) + 1)
    assert [one.seed for one in ours] == [5, 6, 7]
    assert ours.transitions.obs.shape == (9, 6 + 3 + 32 * 40 * 3 + 32 * 33 + 147 + 4 + 5)


def _listed(expected: dict[str, Any], observations: Any, path: str) -> Any:
    """Minari gives text as a plain list, which is no leaf of arrays."""
    return observations["tuple"][1] if path == "tuple/1" else expected[path]


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_storage_formats_hold_the_same_data(root: Path) -> None:
    prints = set()
    for data_format in ("hdf5", "arrow", "parquet"):
        by_minari(f"me/{data_format}-v0", data_format, jpeg=True, action_space=ACTION)
        prints.add(load(f"me/{data_format}-v0").fingerprint)
    assert len(prints) == 1


def test_what_is_saved_minari_opens_with_every_array_equal(root: Path) -> None:
    data = load_made(
        root,
        [episode(4, 0, observation_space=EVERYTHING), episode(2, 1, observation_space=EVERYTHING)],
    )
    data.save("me/ours-v0")
    theirs = minari.load_dataset("me/ours-v0")
    assert theirs.total_steps == 6
    for one, other in zip(data, theirs.iterate_episodes(), strict=True):
        expected = dict(leaves(other.observations))
        for path, leaf in leaves(one.observations):
            found = _listed(expected, other.observations, path)
            np.testing.assert_array_equal(leaf.tolist(), np.asarray(found).tolist())
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.rewards, other.rewards)


def load_made(root: Path, episodes: Any) -> Any:
    write_folder(
        root / "me" / "all-v0",
        episodes,
        metadata(episodes, EVERYTHING, id="me/all-v0") | {"jpeg_encoding": False},
    )
    return load("me/all-v0")


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_without_pyarrow_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_minari("me/arrow-v0", "arrow", jpeg=False, action_space=ACTION)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "offrl.data.arrow_store", raising=False)
    with pytest.raises(ConfigError, match=r"offrl\[arrow\]"):
        load("me/arrow-v0")


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_damaged_arrow_files_are_named(data_format: str, root: Path) -> None:
    by_minari("me/arrow-v0", data_format, jpeg=False, action_space=ACTION)
    part = next((root / "me/arrow-v0/data/1").glob("part-*"))
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(CorruptDataError, match=part.name):
        load("me/arrow-v0")
    part.unlink()
    with pytest.raises(CorruptDataError, match=rf"holds no \.{data_format} file"):
        load("me/arrow-v0")
    next((root / "me/arrow-v0/data/2").glob("part-*")).rename(part)
    (root / "me/arrow-v0/data/2/metadata.json").unlink()
    (root / "me/arrow-v0/data/2").rmdir()
    with pytest.raises(CorruptDataError, match="total_episodes"):
        load("me/arrow-v0")


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_an_arrow_file_that_leads_outside_is_not_read(root: Path, tmp_path: Path) -> None:
    """Fault S9 for Arrow storage."""
    by_minari("me/arrow-v0", "arrow", jpeg=False, action_space=ACTION)
    part = next((root / "me/arrow-v0/data/1").glob("part-*"))
    part.rename(tmp_path / "elsewhere.arrow")
    part.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(UnsafeDataError, match="outside the dataset"):
        load("me/arrow-v0")


def test_a_column_of_t_rows_where_infos_have_t_plus_one_is_understood(root: Path) -> None:
    one = episode(3)
    one.infos["behavior_log_prob"] = np.array([-1.0, -2.0, -3.0])
    write_folder(root / "me/made-v0", [one], metadata([one]))
    assert load("me/made-v0").transitions.behavior_log_prob.tolist() == [-1.0, -2.0, -3.0]


def test_log_probabilities_of_another_length_are_found_at_open(root: Path, typed: Run) -> None:
    one = episode(3)
    one.infos["behavior_log_prob"] = np.zeros(7)
    write_folder(root / "me/made-v0", [one], metadata([one]))
    with pytest.raises(CorruptDataError, match=r"episode 0: infos/behavior_log_prob has 7 rows"):
        load("me/made-v0")

"""Datasets that other people's recorders wrote: they open, check and flatten."""

import json
from collections.abc import Callable
from pathlib import Path

import minari
import numpy as np
import pytest

import offrl

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sets(realdata: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Minari root with sets made by Minari's own recorder."""
    folder = realdata / "generated-by-public-recipes" / "minari"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def test_a_maze_with_dictionary_observations_opens(sets: Path) -> None:
    data = offrl.load("check/pointmaze-large-v0")
    assert (data.n_episodes, data.n_steps, data.env_id) == (85, 20_000, "PointMaze_Large-v3")
    paths = [(part.path, part.width) for part in data.spec.obs_parts]
    assert paths == [("achieved_goal", 2), ("desired_goal", 2), ("observation", 4)]
    built = data.transitions
    assert built.observations.shape == (20_085, 8)
    assert not built.terminated.any()
    assert int(built.truncated.sum()) == 85
    found = {problem.code: problem.severity for problem in offrl.check(data).problems}
    # One walk through the maze, cut where a goal was reached, by a controller that pushes fully.
    assert found == {"continued-in-next": "note", "saturated-action": "note"}


def test_a_grid_world_with_text_and_images_opens_without_its_words(sets: Path) -> None:
    data = offrl.load("minari:check/babyai-gotoredballgrey-bot-v0")
    assert [(part.path, part.start, part.stop) for part in data.spec.obs_parts] == [
        ("direction", 0, 4),
        ("image", 4, 151),
        ("mission", 151, 151),
    ]
    assert data.spec.discrete
    assert data.spec.action_dim == 7
    assert data.transitions.obs.shape == (614, 151)
    assert data.transitions.action.dtype == np.int64
    assert isinstance(data[0].observations["mission"][0], str)
    report = offrl.check(data)
    assert report.ok
    assert {problem.severity for problem in report.problems} <= {"note"}


@pytest.mark.parametrize("id", ["check/pointmaze-large-v0", "check/babyai-gotoredballgrey-bot-v0"])
def test_minari_reads_the_same_values(sets: Path, id: str) -> None:
    ours, theirs = offrl.load(id), minari.load_dataset(id)
    for i in (0, 7, len(ours) - 1):
        one, other = ours[i], theirs[i]
        for path in (part.path for part in ours.spec.obs_parts):
            found = np.asarray(one.observations[path]).tolist()
            assert found == np.asarray(other.observations[path]).tolist()
        for name in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_commands_show_the_mapping_of_columns(sets: Path, typed: Run) -> None:
    status, out, _ = typed("data", "show", "check/babyai-gotoredballgrey-bot-v0", "--json")
    assert status == 0
    shown = json.loads(out)
    assert shown["episodes"] == 100
    assert [(part["path"], part["columns"]) for part in shown["parts"]] == [
        ("direction", [0, 4]),
        ("image", [4, 151]),
        ("mission", None),
    ]


def test_a_copy_keeps_every_value(sets: Path, tmp_path: Path) -> None:
    data = offrl.load("check/babyai-gotoredballgrey-bot-v0")
    copy = data.save("me/copy-v0", root=tmp_path / "copies")
    assert copy.fingerprint == data.fingerprint
    assert copy.env_id == data.env_id

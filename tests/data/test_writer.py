"""What a Writer takes, what it refuses, and what Minari reads of what it wrote."""

import json
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.envs.registration import EnvSpec
from recordings import (
    ACT,
    ID,
    OBS,
    episode,
    folder,
    kept_episodes,
    record,
    record_steps,
    writer,
)

from offrl.data.dataset import Dataset, load
from offrl.data.publishing import Workshop
from offrl.data.writer import Writer
from offrl.errors import ConfigError, CorruptDataError, NotFoundError

NESTED = spaces.Dict(
    {
        "where": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]),
        "image": spaces.Box(0, 255, (40, 40, 3), np.uint8),
        "mission": spaces.Text(20),
    }
)
ZERO: dict[str, Any] = {
    "action": np.zeros(1, np.float32),
    "reward": 0.0,
    "next_obs": np.zeros(3, np.float32),
    "terminated": False,
    "truncated": False,
}


class Shop(PendulumEnv):
    """An environment that is registered as a class."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()


def record_one(*steps: dict[str, Any], before: int = 0) -> Dataset:
    """Record `before` episodes and one of steps that differ from zeros as given."""
    with writer() as w:
        for i in range(before):
            record_steps(w, i)
        w.reset(np.zeros(3, np.float32))
        for step in steps:
            w.step(**(ZERO | step))
    return w.close()


class TestWhatMinariReads:
    def test_every_array_is_equal(self) -> None:
        record()
        opened = minari.load_dataset(ID)
        assert (opened.total_episodes, opened.total_steps) == (10, 50)
        assert opened.observation_space == OBS
        assert opened.action_space == ACT
        for i, theirs in enumerate(opened.iterate_episodes()):
            ours = episode(i)
            assert theirs.id == i
            np.testing.assert_array_equal(theirs.observations, ours.observations)
            np.testing.assert_array_equal(theirs.actions, ours.actions)
            np.testing.assert_array_equal(theirs.rewards, ours.rewards)
            np.testing.assert_array_equal(theirs.terminations, ours.terminations)
            np.testing.assert_array_equal(theirs.truncations, ours.truncations)
            np.testing.assert_array_equal(
                theirs.infos["behavior_log_prob"], [np.nan, -1.0, -2.0, -3.0, -4.0, -5.0]
            )
            np.testing.assert_array_equal(theirs.infos["behavior"], [-1] * 6)
        assert len(list(opened.sample_episodes(3))) == 3
        assert [m["seed"] for m in opened.storage.get_episode_metadata(range(10))] == [*range(10)]

    def test_an_episode_without_infos_has_no_infos_and_not_none(self) -> None:
        with writer() as w:
            w.add(episode(0, infos={}))
        assert minari.load_dataset(ID)[0].infos == {}

    def test_nested_observations_text_and_images_come_back_without_loss(self) -> None:
        NESTED.seed(0)
        rows = [NESTED.sample() for _ in range(4)]
        with Writer(ID, NESTED, spaces.Discrete(4, start=1)) as w:
            w.reset(rows[0])
            for t, row in enumerate(rows[1:]):
                w.step(1 + t, 0.5, row, False, t == 2, log_prob=-1.0)
        theirs = next(iter(minari.load_dataset(ID).iterate_episodes()))
        ours = load(ID)[0]
        image = np.stack([row["image"] for row in rows])
        np.testing.assert_array_equal(theirs.observations["image"], image)
        np.testing.assert_array_equal(ours.observations["image"], image)
        assert theirs.observations["mission"] == [row["mission"] for row in rows]
        assert list(ours.observations["mission"]) == theirs.observations["mission"]
        for part in (0, 1):
            expected = np.stack([row["where"][part] for row in rows])
            np.testing.assert_array_equal(theirs.observations["where"][part], expected)
        assert theirs.actions.tolist() == [1, 2, 3]

    def test_the_metadata_has_what_minari_writes_and_what_offrl_adds(self) -> None:
        record(
            env="Pendulum-v1",
            metadata={
                "author": "me",
                "description": "ten",
                "seeds": {"seed": 3},
                "references": {"random": -1200.0, "expert": -150.0, "source": "measured"},
            },
        )
        data = load(ID)
        kept = json.loads((folder() / "data" / "metadata.json").read_text())
        spec = minari.load_dataset(ID).spec
        assert spec.env_spec is not None
        assert spec.env_spec.id == "Pendulum-v1"
        assert (kept["author"], kept["description"]) == (["me"], "ten")
        assert (kept["ref_min_score"], kept["ref_max_score"]) == (-1200.0, -150.0)
        assert kept["offrl"]["seeds"] == {"seed": 3}
        assert kept["offrl"]["format"] == 1
        assert kept["offrl"]["fingerprint"] == data.fingerprint
        assert "gymnasium" in kept["offrl"]["versions"]

    def test_long_columns_carry_checksums_and_minari_can_lengthen_them(self) -> None:
        Dataset.from_episodes([episode(0, 400)], OBS, ACT).save(ID)
        with h5py.File(folder() / "data" / "main_data.hdf5") as file:
            column = file["episode_0/observations"]
            assert isinstance(column, h5py.Dataset)
            assert column.fletcher32
            assert column.maxshape == (None, 3)

    def test_an_episode_of_one_step_takes_little_room_and_minari_reads_it(self) -> None:
        given = [episode(number, 1) for number in range(200)]
        data = Dataset.from_episodes(given, OBS, ACT).save(ID)
        main = folder() / "data" / "main_data.hdf5"
        assert main.stat().st_size / 200 < 3_000
        assert main.read_bytes().count(b"OHDR") > 200 * 8  # headers with checksums
        theirs = minari.load_dataset(ID)
        for ours, read in zip(given, theirs.iterate_episodes(), strict=True):
            for name in ("observations", "actions", "rewards", "terminations", "truncations"):
                np.testing.assert_array_equal(getattr(read, name), getattr(ours, name))
            assert set(read.infos) == set(ours.infos)
            for key, column in ours.infos.items():
                np.testing.assert_array_equal(read.infos[key], column)
        assert load(ID).fingerprint == data.fingerprint

    def test_the_manifest_beside_the_data_has_digests_of_file_and_episodes(self) -> None:
        record()
        manifest = json.loads((folder() / "manifest.json").read_text())
        main = folder() / "data" / "main_data.hdf5"
        (file,) = manifest["files"]
        assert file["bytes"] == main.stat().st_size
        assert len(file["sha256"]) == 64
        assert [entry["steps"] for entry in manifest["episodes"]] == [5] * 10

    def test_a_dataset_saved_again_has_the_same_fingerprint(self) -> None:
        first = record()
        again = first.save("me/test/copy-v0")
        assert again.fingerprint == first.fingerprint
        assert again.metadata["offrl"]["versions"] == first.metadata["offrl"]["versions"]


class TestWhatDoesNotFit:
    @pytest.mark.parametrize(
        ("changes", "fragment"),
        [
            ({"next_obs": np.zeros(2, np.float32)}, r"next_obs has shape \(2,\)"),
            ({"next_obs": np.zeros(3, complex)}, "next_obs is complex128"),
            ({"next_obs": "up"}, "next_obs"),
            ({"next_obs": [1.0, [2.0]]}, "next_obs is ragged"),
            ({"action": np.zeros((1, 1), np.float32)}, r"action has shape \(1, 1\)"),
            ({"action": 0.5}, r"action has shape \(\)"),
            ({"reward": None}, "reward is None"),
            ({"reward": "1"}, "reward is '1'"),
            ({"terminated": 1}, "terminated is 1"),
            ({"truncated": None}, "truncated is None"),
            ({"log_prob": float("inf")}, "log_prob is inf"),
        ],
    )
    def test_in_a_step_is_named_and_finished_episodes_are_kept(
        self, changes: dict[str, Any], fragment: str
    ) -> None:
        with pytest.raises(ConfigError, match=fragment) as caught:
            record_one({}, changes, before=1)
        assert "Episode 1, step 1" in str(caught.value)
        assert kept_episodes() == 1

    @pytest.mark.parametrize("action", [True, 0.0, 2, -1, np.array([0])])
    def test_as_a_choice_is_refused(self, action: Any) -> None:
        w = Writer(ID, OBS, spaces.Discrete(2))
        w.reset(np.zeros(3, np.float32))
        with pytest.raises(ConfigError, match="action"):
            w.step(**(ZERO | {"action": action}))
        w.abandon()

    @pytest.mark.parametrize(
        ("changes", "fragment"),
        [
            ({"observations": np.zeros((5, 3), np.float32)}, "observations has 5 rows"),
            ({"actions": np.zeros((6, 1), np.float32)}, "actions has 6 rows"),
            ({"rewards": np.zeros(4)}, "rewards has 4 rows"),
            ({"terminations": np.zeros(4, bool)}, "terminations has 4 rows"),
            ({"truncations": np.zeros(6, bool)}, "truncations has 6 rows"),
            ({"observations": np.zeros((6, 4), np.float32)}, "observations has the shape"),
            ({"observations": np.zeros((6, 3), complex)}, "observations is complex128"),
            ({"infos": {"note": np.array(1.0)}}, "infos/note"),
            ({"infos": {"a/b": np.zeros(6)}}, "a/b"),
            ({"infos": {"what": np.array([object()] * 6)}}, "infos/what"),
        ],
    )
    def test_in_an_episode_is_named(self, changes: dict[str, Any], fragment: str) -> None:
        w = writer()
        w.add(episode(0))
        with pytest.raises(ConfigError, match=fragment) as caught:
            w.add(episode(1, **changes))
        assert "Episode 1" in str(caught.value)
        assert w.close().n_episodes == 1

    def test_as_an_episode_without_steps_is_refused_and_one_step_is_enough(self) -> None:
        with writer() as w:
            with pytest.raises(ConfigError, match="no steps"):
                w.add(episode(0, steps=0))
            w.add(episode(0, steps=1))
        assert w.close().n_steps == 1

    def test_a_part_that_is_missing_is_named(self) -> None:
        w = Writer(ID, NESTED, ACT)
        with pytest.raises(ConfigError, match="has the parts"):
            w.reset({"image": np.zeros((40, 40, 3), np.uint8)})
        w.abandon()

    @pytest.mark.parametrize("field", ["action", "reward", "next_obs"])
    def test_a_number_that_is_not_finite_is_named(self, field: str) -> None:
        bad = {field: ZERO[field] + np.nan, "terminated": True}
        with pytest.raises(CorruptDataError, match=r"Episode 1: .* is nan at step") as caught:
            record_one({}, bad, before=1)
        assert field.removeprefix("next_")[:3] in str(caught.value)
        assert kept_episodes() == 1

    def test_a_step_before_a_reset_is_refused(self) -> None:
        w = writer()
        with pytest.raises(ConfigError, match="no first observation"):
            w.step(**ZERO)
        w.abandon()

    def test_a_closed_writer_takes_nothing_more(self) -> None:
        w = writer()
        record_steps(w, 0)
        first = w.close()
        assert w.close() is first
        with pytest.raises(ConfigError, match="closed"):
            w.reset(np.zeros(3, np.float32))

    def test_metadata_that_is_not_json_is_named(self) -> None:
        with pytest.raises(ConfigError, match="'when' is not JSON"):
            writer(metadata={"when": object()})

    def test_an_environment_that_json_cannot_hold_is_left_out_with_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        spec = EnvSpec("Mine-v0", entry_point=Shop, kwargs={"shop": object()})
        assert record(1, env=spec).env_id is None
        assert "Mine-v0 cannot be written" in caplog.text

    def test_an_environment_made_of_a_class_is_named(self) -> None:
        data = record(1, env=EnvSpec("Mine-v0", entry_point=Shop))
        assert data.env_spec is not None
        assert data.env_id == "Mine-v0"
        assert data.env_spec["entry_point"].endswith("test_writer:Shop")

    def test_an_environment_that_is_not_registered_is_named(self) -> None:
        with pytest.raises(NotFoundError, match="Did you mean 'Pendulum-v1'"):
            writer(env="Pendulm-v1")


class TestTheOpenEpisode:
    def test_ends_as_truncated_at_the_next_reset_and_at_the_end(self) -> None:
        with writer() as w:
            record_steps(w, 0, steps=3, end=False)
            record_steps(w, 1, steps=2, end=False)
        data = w.close()
        assert [e.truncations.tolist() for e in data] == [[False, False, True], [False, True]]

    def test_copies_what_a_loop_changes_in_place(self) -> None:
        obs = np.zeros(3, np.float32)
        with writer() as w:
            w.reset(obs)
            for t in range(3):
                obs += 1
                w.step(np.zeros(1, np.float32), 0.0, obs, False, t == 2)
        assert w.close()[0].observations[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]

    def test_infos_become_columns_with_a_row_for_the_reset(self) -> None:
        infos = [{"price": float(t), "shop": {"open": True}, "name": f"n{t}"} for t in range(2)]
        steps = [{"infos": row, "behavior": 4} for row in infos]
        found = record_one(*steps)[0].infos
        np.testing.assert_array_equal(found["price"], [np.nan, 0.0, 1.0])
        assert found["shop"]["open"].tolist() == [False, True, True]
        assert found["behavior"].tolist() == [-1, 4, 4]
        names = [n.decode() if isinstance(n, bytes) else n for n in found["name"]]
        assert names == ["", "n0", "n1"]

    def test_infos_with_other_keys_are_named(self) -> None:
        with pytest.raises(ConfigError, match="step 1: infos has other keys"):
            record_one({"infos": {"a": 1}}, {"infos": {"b": 1}})

    def test_plain_lists_and_numbers_get_the_type_of_the_space(self) -> None:
        with writer() as w:
            w.reset([0, 0, 0])
            w.step([0.5], 1, [1.0, 2.0, 3.0], False, True)
        found = w.close()[0]
        assert (found.observations.dtype, found.actions.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("shard", [0, 2])
def test_whoever_takes_ctrl_c_and_records_on_has_every_episode_once(
    shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = Workshop.commit, [0]

    def stopped(self: Workshop, *args: Any) -> None:
        plain(self, *args)
        calls[0] += 1
        if calls[0] == shard + 1:
            raise KeyboardInterrupt  # after a shard is committed, before it is forgotten

    monkeypatch.setattr(Workshop, "commit", stopped)
    with writer(shard_episodes=3) as w:
        for number in range(10):
            try:
                record_steps(w, number)
            except KeyboardInterrupt:
                assert number == 3 * shard + 2
            assert (w.n_episodes, w.n_steps) == (number + 1, 5 * (number + 1))
    assert w.close().fingerprint == record(10, overwrite=True).fingerprint

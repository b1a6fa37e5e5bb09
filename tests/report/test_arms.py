"""Runs that differ in nothing but their seeds are pooled, and no others."""

from pathlib import Path

import judged_runs
import pytest

from offrl.errors import NotFoundError
from offrl.report.arms import gather


def test_folders_of_single_seeds_are_one_arm_as_a_folder_of_several_is(tmp_path: Path):
    for seed in range(3):
        judged_runs.judged(tmp_path / f"a{seed}", {seed: [1.0, 2.0]})
    (arm,) = gather(tmp_path).arms
    assert arm.label == "bc"
    assert [seed for _, seed in arm.seeds] == [0, 1, 2]


def test_another_setting_makes_another_arm_and_names_it(tmp_path: Path):
    for lr in (0.1, 0.01):
        judged_runs.judged(tmp_path / f"lr{lr}", {0: [1.0]}, config={"lr": lr})
    assert [arm.label for arm in gather(tmp_path).arms] == ["bc lr=0.01", "bc lr=0.1"]


def test_one_seed_trained_twice_is_two_arms_told_apart_by_their_folders(tmp_path: Path):
    for name in ("first", "again"):
        judged_runs.judged(tmp_path / name, {0: [1.0]})
    labels = [arm.label for arm in gather(tmp_path).arms]
    assert len(labels) == 2
    assert "again" in labels[0]
    assert "first" in labels[1]


def test_two_sweeps_of_the_same_seeds_are_two_arms_of_all_their_seeds(tmp_path: Path):
    for sweep in ("one", "two"):
        for seed in range(2):
            judged_runs.judged(tmp_path / sweep / str(seed), {seed: [1.0]})
    arms = gather(tmp_path).arms
    assert [[seed for _, seed in arm.seeds] for arm in arms] == [[0, 1], [0, 1]]


def test_other_data_under_the_same_name_is_not_pooled(tmp_path: Path):
    for seed, digest in enumerate(("sha256:a", "sha256:b")):
        judged_runs.judged(tmp_path / digest[-1], {seed: [1.0]}, fingerprint=digest)
    assert len(gather(tmp_path).arms) == 2


def test_a_damaged_result_is_told_and_the_others_are_there(tmp_path: Path):
    judged_runs.judged(tmp_path / "a", {0: [1.0]})
    judged_runs.judged(tmp_path / "b", {1: [1.0]})
    (tmp_path / "a" / "result.json").write_text("{")
    found = gather(tmp_path)
    assert len(found.runs) == 2
    assert any(str(tmp_path / "a" / "result.json") in note for note in found.notes)


def test_no_run_at_all_is_an_error(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no run"):
        gather(tmp_path)

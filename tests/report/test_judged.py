"""Estimates from logs beside the truth: only where both are of the same policy and discount."""

import json
from pathlib import Path
from typing import Any

import judged_runs
import pytest

from offrl.report.arms import gather
from offrl.report.judged import Judged
from offrl.report.judged import judged_runs as read

ESTIMATE = {"value": -4.0, "lo": -6.0, "hi": -2.0, "interval": "refits", "refused": None}
REFUSED = {"value": None, "lo": None, "hi": None, "interval": None, "refused": "too few"}
FOUND: dict[str, Any] = {
    "format": 1, "run": "a", "ess": None, "estimates": {"fqe": ESTIMATE, "wis": REFUSED},
    "discount": 0.5, "behavior_value": -5.0, "behavior_ci": [-6.0, -4.0], "level": 0.95,
    "episodes": 8, "disagreements": [], "notes": [], "remarks": [], "decision": None,
    "acts": "mode", "seed": 0, "checkpoint_step": 100, "picked": "last", "in_sample": False,
}  # fmt: skip


def one(folder: Path, *, lived: dict[str, Any], **changes: Any) -> Judged:
    """What is read of a run that was judged and evaluated."""
    run = judged_runs.judged(folder / "a", {0: [-9.0, -9.0]})
    told = json.loads((run / "result.json").read_text())
    told["evaluation"]["discount"] = lived.pop("discount", 0.5)
    told["evaluation"]["seeds"][0] |= {"lengths": [2, 1], "cut": [True, False], **lived}
    (run / "result.json").write_text(json.dumps(told))
    (run / "seed_0" / "ope.json").write_text(json.dumps(FOUND | changes))
    (found,), faults = read(gather(folder))
    assert not faults
    return found


def test_the_truth_is_the_mean_discounted_return_of_the_same_checkpoint(tmp_path: Path):
    found = one(tmp_path, lived={"values": [-3.0, -4.0]})
    assert found.truth == pytest.approx(-3.5)
    assert found.truth_n == 2
    assert found.left == pytest.approx((0.5**2 + 0.0) / 2)  # an episode that ended leaves nothing
    assert [found.covers(estimate) for estimate in found.estimates] == [True, None]


@pytest.mark.parametrize(
    ("lived", "changes"),
    [
        ({"values": [-3.0, -4.0], "discount": 0.9}, {}),
        ({"values": [-3.0, -4.0]}, {"checkpoint_step": 50}),
        ({"values": [-3.0, -4.0]}, {"seed": 1}),
        ({"values": [-3.0, -4.0]}, {"acts": "sample"}),
        ({}, {}),
    ],
    ids=["another discount", "another step", "another seed", "another policy", "no values"],
)
def test_what_is_not_of_the_same_policy_is_no_truth(
    tmp_path: Path, lived: dict[str, Any], changes: dict[str, Any]
):
    assert one(tmp_path, lived=lived, **changes).truth is None


def test_a_damaged_file_is_told_and_left_aside(tmp_path: Path):
    run = judged_runs.judged(tmp_path / "a", {0: [-9.0]})
    (run / "seed_0" / "ope.json").write_text('{"estimates": 3}')
    found, (fault,) = read(gather(tmp_path))
    assert found == []
    assert str(run / "seed_0" / "ope.json") in fault

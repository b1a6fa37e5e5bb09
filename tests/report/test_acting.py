"""What acting did, as one line a policy."""

import json
from pathlib import Path

import judged_runs

from offrl.report.acting import HEADINGS, Acted, acted
from offrl.report.arms import Arm, Task, gather

DIPPED = {"before": -100.0, "after": -50.0, "dip": -300.0, "early_dip": -200.0}


def test_means_over_seeds_their_intervals_and_how_many_recovered(tmp_path: Path):
    run = judged_runs.judged(tmp_path / "a", {0: [-50.0], 1: [-150.0]})
    text = (run / "run.toml").read_text()
    (run / "run.toml").write_text(
        text.replace("[resolved]", "[online]\nmix = 0.5\n\n[resolved]\nenv_steps = 1000", 1)
    )
    told = json.loads((run / "result.json").read_text())
    told["outcome"] = {
        "0": {**DIPPED, "recovered_at": 400, "regret_evaluations": 0.25, "regret_episodes": 0.5},
        "1": {**DIPPED, "after": -150.0, "recovered_at": None, "regret_evaluations": 0.25},
    }
    (run / "result.json").write_text(json.dumps(told))
    (found,) = acted(gather(tmp_path))
    line = dict(zip(HEADINGS, found.cells(), strict=True))
    assert line["before"] == "-100.0 [-100.0, -100.0]"
    assert line["after"].startswith("-100.0 [")
    assert line["change"].startswith("0.0 [-635.3, 635.3]")
    assert line["recovered"] == "1 of 2, by step 400"
    assert line["regret, evaluations"] == "0.250 [0.250, 0.250]"
    assert line["regret, episodes"] == "0.500"  # of the one seed that has it
    assert line["env steps"] == "1,000"


def test_a_policy_that_never_fell_has_nothing_to_recover_from():
    seed = {**DIPPED, "dip": 0.0, "early_dip": 0.0, "recovered_at": 0}
    arm = Arm(Task("", "P", acts=True), "sac", 0, (), ())
    line = dict(zip(HEADINGS, Acted(arm, 1000, (seed, seed)).cells(), strict=True))
    assert line["recovered"] == "no dip"

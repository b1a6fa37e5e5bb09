"""Two policies of a shop, each judged from the log of the other, beside what the A/B test says.

python examples/open_bandit.py FOLDER        (the small Open Bandit Data, 2008.07146)
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

import offrl
from offrl.evaluation.statistics import interval

roles: Any = {"action": "item_id", "reward": "click", "propensity": "propensity_score"}
roles |= {"bandit": True, "obs": "position,user_feature_*", "categories": "position"}
files = {name: Path(sys.argv[1]) / name / "men" / "men.csv" for name in ("random", "bts")}
logs = {name: offrl.import_file(file, **roles) for name, file in files.items()}
shown = logs["bts"].transitions
often = np.ones((3, 34))  # how often Thompson sampling shows an item at a position, and once more
np.add.at(often, (shown.obs[:, :3].argmax(1), shown.action), 1)
thompson = often / often.sum(1, keepdims=True)
policies = {
    "random": lambda obs: np.full((len(obs["position"]), 34), 1 / 34),
    "bts": lambda obs: thompson[obs["position"] - 1],
}
for name, logged in (("random", "bts"), ("bts", "random")):
    clicks = logs[name].transitions.reward
    low, high = interval(clicks) or (0.0, 0.0)
    print(f"{name} from the log of {logged}: A/B {clicks.mean():.5f} [{low:.5f}, {high:.5f}]")
    found = offrl.judge(policies[name], logs[logged], reward_range=(0, 1), fqe_steps=400)
    findings = found.candidates[0][1]
    print(f"  {findings.ess:.0f} effective of {findings.episodes} decisions")
    for estimator, one in findings.estimates.items():
        low, high = one.bounds or (np.nan, np.nan)
        print(f"  {estimator:12}{one.value:.5f} [{low:.5f}, {high:.5f}] by {one.by}")
    for note in (*findings.notes, *findings.disagreements):
        print(f"  {note}")

"""Cards of shipped datasets say what collecting them gives."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cards import card, histogram
from offrl.collect.recorder import record
from offrl.data.catalogue import shipped_recipes
from offrl.evaluation.references import lookup


def test_a_histogram_counts_every_episode_once() -> None:
    rng = np.random.default_rng(0)
    returns = [rng.normal(0, 1, 70).tolist(), rng.normal(3, 1, 30).tolist()]
    rows = [line.split("|")[1:-1] for line in histogram(returns).splitlines() if " to " in line]
    counts = np.array([[int(cell) for cell in row[1:4]] for row in rows])
    assert counts.sum(0).tolist() == [70, 30, 100]
    assert max(row[4].count("#") for row in rows) == 30
    assert "all equal: 500.00" in histogram([[500.0] * 3])


def test_a_card_has_returns_scores_and_a_histogram_of_what_was_recorded() -> None:
    data = record("offrl/pendulum/mixed-v0", episodes=9)
    text = card("offrl/pendulum/mixed-v0", data)
    reference = lookup("Pendulum-v1")
    assert reference is not None
    returns = [episode.episode_return for episode in data]
    scored = 100 * (np.mean(returns) - reference.random) / (reference.expert - reference.random)
    assert re.search(rf"\| all \|  \| 9 \| {np.mean(returns):.2f} \| .* \| {scored:.1f} \|", text)
    assert data.fingerprint in text
    assert "in ten equal bins" in text


@pytest.mark.parametrize("recipe_id", sorted(shipped_recipes()))
def test_every_card_names_its_scores_returns_and_fingerprint(recipe_id: str) -> None:
    text = (shipped_recipes()[recipe_id] / "README.md").read_text(encoding="utf-8")
    assert re.search(r"sha256:[0-9a-f]{64}", text)
    assert "A score is 100 (return - random) / (expert - random)" in text
    assert "Returns of single episodes, " in text


@pytest.mark.slow
@pytest.mark.parametrize("recipe_id", sorted(shipped_recipes()))
def test_collecting_gives_the_card_on_the_machine_that_wrote_it(
    recipe_id: str, tmp_path: Path
) -> None:
    path = shipped_recipes()[recipe_id] / "README.md"
    if recipe_id.startswith("offrl/pointmaze/"):
        pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed")
    written, now = path.read_text(encoding="utf-8"), card(recipe_id, record(recipe_id))
    made = [
        re.search(r"^card\. On (.*) the fingerprint is$", text, re.M) for text in (written, now)
    ]
    assert made[0] is not None
    assert made[1] is not None
    # Of a process that has imported other environments, the card names those packages too.
    if not set(made[0][1].split(", ")) <= set(made[1][1].split(", ")):
        pytest.skip(f"the card was written on {made[0][1]}; this is {made[1][1]}")
    assert now.replace(made[1][1], made[0][1]) == written

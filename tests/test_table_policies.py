"""A policy that learned from a table takes rows of it and gives actions by their names."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import offrl
from offrl.errors import ConfigError


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """A clinic where the old on ward A get drug A, and everybody else nothing."""
    rng = np.random.default_rng(0)
    n = 600
    frame = pd.DataFrame(
        {
            "patient": np.repeat(np.arange(60), 10),
            "day": np.tile(np.arange(10), 60),
            "age": rng.uniform(20, 90, n).round(1),
            "ward": rng.choice(["A", "B"], n),
        }
    )
    treated = (frame.age > 55) & (frame.ward == "A")
    frame["treatment"] = np.where(treated, "drug A", "none")
    frame["cost"] = -rng.random(n)
    return frame


@pytest.fixture(scope="module")
def policy(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> offrl.Policy:
    """Behaviour cloning on the saved table, loaded again from its checkpoint."""
    folder: Path = tmp_path_factory.mktemp("clinic")
    data = offrl.Dataset.from_dataframe(
        frame, episode="patient", time="day", obs="age,ward", action="treatment", reward="cost",
        ends="terminated", fill="age=80,ward=A",
    ).save("me/clinic-v0", root=folder / "datasets")  # fmt: skip
    run = offrl.fit("bc", data, steps=400, out=folder / "run", compile="off")
    return offrl.load_policy(run.dir)


def test_a_row_gives_the_name_of_a_treatment(policy: offrl.Policy):
    assert policy.predict({"age": 85, "ward": "A"}) == "drug A"
    assert policy.predict({"age": 85, "ward": "B"}) == "none"


def test_the_fill_of_the_data_stands_for_what_is_missing(policy: offrl.Policy):
    assert policy.predict({"age": None, "ward": None}) == "drug A"


def test_a_frame_gives_a_name_for_each_row(policy: offrl.Policy, frame: pd.DataFrame):
    named = policy.predict(frame)
    assert named.shape == (len(frame),)
    assert (named == frame.treatment.to_numpy()).mean() > 0.95


def test_log_probabilities_are_asked_by_name(policy: offrl.Policy, frame: pd.DataFrame):
    some = frame.head(20)
    both = [policy.log_prob(some, [name] * len(some)) for name in ("drug A", "none")]
    assert np.allclose(np.exp(both).sum(axis=0), 1, atol=1e-6)
    action, log_prob = policy.sample(some.iloc[0], np.random.default_rng(0))
    assert action in ("drug A", "none")
    assert policy.log_prob(some.iloc[0], action) == pytest.approx(log_prob)


def test_observations_of_the_dataset_are_taken_as_well(policy: offrl.Policy, frame: pd.DataFrame):
    data = offrl.Dataset.from_dataframe(
        frame, episode="patient", time="day", obs="age,ward", action="treatment", reward="cost",
        ends="terminated",
    )  # fmt: skip
    rows = frame[frame.patient == 0]
    assert policy.predict(data[0].observations)[:-1].tolist() == policy.predict(rows).tolist()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"age": 50, "ward": "C"}, "'ward' holds 'C'"),
        ({"age": 50}, "no column 'ward'"),
        ({"age": "old", "ward": "A"}, "'age' holds 'old'"),
    ],
)
def test_a_row_that_the_data_could_not_hold_is_refused(
    policy: offrl.Policy, row: dict[str, object], said: str
):
    with pytest.raises(ConfigError) as raised:
        policy.predict(row)
    assert said in str(raised.value)


def test_an_action_that_there_is_not_is_refused(policy: offrl.Policy):
    with pytest.raises(ConfigError, match="'treatment' holds 'drug B'"):
        policy.log_prob({"age": 50, "ward": "A"}, "drug B")

"""Acting from scratch ends in a policy that is good."""

import pytest

from offrl.evaluation.evaluate import evaluate
from offrl.online.training import fit_online


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_the_pendulum_is_learned_from_scratch(algo: str):
    # A random policy returns about -1200, one that has learned about -150 over many episodes. The
    # bound leaves room for a dip on the way, which was -316 once, and for the luck of 20 episodes.
    run = fit_online(
        algo,
        "Pendulum-v1",
        10_000,
        out="run",
        compile="off",
        hyperparameters={"hidden_size": 64, "lr": 1e-3},
        online={"warmup": 1000, "eval_every": 10_000, "eval_episodes": 1},
    )
    assert evaluate(run, episodes=20, seed=1).return_mean > -500

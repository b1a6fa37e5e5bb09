"""Seeds of an online run in processes of their own, and what a run's values are held against."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offrl import checkpoint as checkpoints
from offrl.environments import made_anywhere
from offrl.errors import NumericsError
from offrl.events import Diverged, Event, Finished, Trained, Warned
from offrl.online import training
from offrl.online.outcome import Outcome
from offrl.online.plan import resolve
from offrl.watch import Extremes, Span

SMALL: dict[str, Any] = {"hidden_size": 8, "batch_size": 16}
ONLINE: dict[str, Any] = {
    "warmup": 20, "eval_every": 60, "eval_episodes": 1, "log_every": 20, "save_every": 50,
    "record": "me/acting-v0",
}  # fmt: skip


def plan(out: str, **given: Any) -> Any:
    settings: dict[str, Any] = {"seeds": (0, 4, 7), "hyperparameters": SMALL, "compile": "off"}
    online = {**ONLINE, **given.pop("online", {})}
    return resolve("td3", "Pendulum-v1", 120, out=out, online=online, **{**settings, **given})


def ran(out: str, **given: Any) -> list[Event]:
    return list(training.train(plan(out, **given)))


def state(out: str, seed: int) -> dict[str, torch.Tensor]:
    found = checkpoints.newest(Path(out, f"seed_{seed}"))
    assert found is not None
    return found.tensors


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def curve(out: str, seed: int) -> list[str]:
    lines = Path(out, f"seed_{seed}", "metrics.csv").read_text().splitlines()
    clock = lines[0].split(",").index("online/env_steps_per_second")
    return [",".join(v for i, v in enumerate(line.split(",")) if i != clock) for line in lines]


def test_seeds_in_two_processes_have_the_bits_of_seeds_in_one(spread: list[Any]):
    events = ran("spread", step_timeout=60.0)
    assert len(spread) == 2
    assert all(process.returncode == 0 for process in spread)
    assert sorted(e.seed for e in events if isinstance(e, Finished)) == [0, 4, 7]
    spread.clear()
    for seed in (0, 4, 7):
        ran(f"alone-{seed}", seeds=(seed,), online={"record": ""})
        alone = state(f"alone-{seed}", seed)
        ours = state("spread", seed)
        assert all(torch.equal(ours[k], alone[k]) for k in alone)
        assert curve("spread", seed) == curve(f"alone-{seed}", seed)
    result = json.loads(Path("spread", "result.json").read_text())
    assert set(result["outcome"]) == {"0", "4", "7"}
    assert result["recorded"]["7"] == "me/acting-seed-7-v0"


def test_a_run_in_processes_that_is_stopped_ends_in_the_same_bits(spread: list[Any]):
    ran("whole")
    events = training.train(plan("stopped", online={"record": "me/other-v0"}))
    for _ in range(9):
        next(events)
    events.close()
    assert all(process.returncode is not None for process in spread)
    list(training.train(resolve(out="stopped", resume=True)))
    assert all(same(state("whole", seed), state("stopped", seed)) for seed in (0, 4, 7))


def test_what_only_this_process_can_make_stays_in_it():
    assert made_anywhere("Pendulum-v1")
    assert made_anywhere("stuck_worlds:Stuck-v0")
    assert made_anywhere("MiniGrid-Empty-5x5-v0")
    assert not made_anywhere("Nobody-v0")


def test_rewards_of_last_steps_count_once_and_others_forever():
    rewards, end = np.array([1.0, -2.0, 5.0]), np.array([False, False, True])
    span = Extremes().seen(rewards[:2], end[:2]).seen(rewards[2:], end[2:]).possible(0.9)
    assert span == pytest.approx((-20.0, 10.0))
    assert Extremes().seen(np.array([50.0]), np.array([True])).possible(0.9) == Span(0.0, 50.0)


def test_values_beyond_all_that_was_lived_are_told_as_they_happen_and_at_the_end():
    made = plan("r", seeds=(0,), online={"record": ""})
    events = list(training.train(made))
    assert not [event for event in events if isinstance(event, Warned)]
    trained = [event for event in events if isinstance(event, Trained) and event.step]
    metrics = trained[-1].metrics
    low, high = metrics["online/possible_low"], metrics["online/possible_high"]
    assert low < 0.0
    assert high == 0.0  # Pendulum pays no reward above 0
    outcome = Outcome(made)
    assert outcome.take(Trained(0, 100, {**metrics, "critic/q_mean": -0.05 * low}, 1.0)) is None
    told = outcome.take(Trained(0, 120, {**metrics, "critic/q_mean": -0.2 * low}, 1.0))
    assert told is not None
    assert "no policy can earn more than 0 with the rewards seen so far" in told.message
    assert "--updates-per-step" in told.message
    outcome.write([[0]])
    result = json.loads(Path("r", "result.json").read_text())
    assert result["warnings"] == [told.message]
    assert result["values"]["possible"] == [low, high]


def test_a_seed_that_diverges_stops_with_its_last_good_state_and_the_others_go_on():
    made = plan("r", seeds=(0, 4), online={"record": ""})
    plain = training.make_update

    def ruined(*given: Any, **more: Any) -> Any:
        update, steps = plain(*given, **more), 0

        def faulty(state: Any, batch: Any, stage: str) -> Any:
            nonlocal steps
            steps += 1
            new, metrics = update(state, batch, stage)
            if steps == 30:  # of the first seed
                metrics = {**metrics, "critic/loss": metrics["critic/loss"] * torch.nan}
            return new, metrics

        return faulty

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_update", ruined)
        events = list(training.train(made))
    (stopped,) = [event for event in events if isinstance(event, Diverged)]
    assert (stopped.seed, stopped.step) == (0, 29)
    assert "critic/loss is nan" in stopped.message
    assert [event.seed for event in events if isinstance(event, Finished)] == [4]
    assert all(t.isfinite().all() for k, t in state("r", 0).items() if k.startswith("state/"))
    assert set(json.loads(Path("r", "result.json").read_text())["diverged"]) == {"0"}
    with pytest.raises(NumericsError, match="Seed 0 has diverged: critic/loss is nan"):
        training.fit_online("td3", "Pendulum-v1", 120, out="r", resume=True)

"""The floor: which evaluation counts, what comes back, and what a run is afterwards."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import offrl
from offrl import checkpoint as checkpoints
from offrl.errors import ConfigError, FloorError
from offrl.events import Evaluated, Finished, RolledBack
from offrl.learner import Progress
from offrl.online import training
from offrl.online.floor import Floor
from offrl.online.plan import resolve


def progress(step: int, value: float) -> Progress:
    state = {"params": {"policy": {"w": torch.full((2,), value)}}}
    return Progress(step, state, state, {})


class TestAFloor:
    def test_keeps_a_copy_of_the_best_state_and_the_first_of_equals(self):
        floor, best = Floor(-300.0, 3), progress(10, 1.0)
        floor.judge(best, 100, -150.0)
        floor.judge(progress(20, 2.0), 200, -150.0)
        floor.judge(progress(30, 3.0), 300, -200.0)
        best.state["params"]["policy"]["w"].zero_()
        assert floor.best == (10, 100, -150.0)
        assert floor.state is not None
        assert floor.state["params"]["policy"]["w"].tolist() == [1.0, 1.0]
        assert floor.fell is None

    def test_is_fallen_below_by_less_and_not_by_as_much(self):
        floor = Floor(-300.0, 3)
        floor.judge(progress(0, 0.0), 0, -300.0)
        assert floor.fell is None
        floor.judge(progress(1, 0.0), 5, math.nextafter(-300.0, -math.inf))
        assert floor.fell is not None

    def test_is_fallen_below_by_what_is_no_number(self):
        floor = Floor(-300.0, 3)
        floor.judge(progress(0, 0.0), 0, -200.0)
        floor.judge(progress(1, 0.0), 5, math.nan)
        assert floor.fell is not None
        assert floor.best == (0, 0, -200.0)

    def test_asks_for_an_evaluation_once_for_each_window_of_poor_episodes(self):
        floor = Floor(-300.0, 3)
        floor.lived([-400.0, -400.0], 10)
        assert not floor.alarmed
        floor.lived([-400.0], 10)
        assert floor.alarmed
        assert floor.fell is None
        floor.judge(progress(0, 0.0), 0, -200.0)
        assert not floor.alarmed
        floor.lived([-400.0, -400.0, 0.0], 10)
        assert not floor.alarmed
        floor.lived([-400.0, -400.0], 10)  # the newest three: 0, -400, -400
        assert not floor.alarmed
        floor.lived([-400.0], 10)
        assert floor.alarmed

    def test_does_not_count_the_episodes_of_a_warm_up(self):
        floor = Floor(-300.0, 1, warmup=50)
        floor.lived([-400.0], 49)
        assert not floor.alarmed
        floor.lived([-400.0], 50)
        assert floor.alarmed

    def test_that_is_not_set_keeps_nothing(self):
        floor = Floor(-math.inf, 1)
        floor.lived([-1e9], 10)
        floor.judge(progress(0, 0.0), 0, -1e9)
        assert not floor.alarmed
        assert floor.tensors() == floor.page() == {}


RUINOUS: dict[str, Any] = {"hyperparameters": {"lr": 0.3}, "compile": "off"}
ONLINE: dict[str, Any] = {
    "eval_every": 100, "eval_episodes": 2, "warmup": 50, "log_every": 50, "mix": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def swinging(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that has learned something, which a learning rate of 0.3 ruins."""
    folder = tmp_path_factory.mktemp("swinging")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        data = offrl.record(
            env="Pendulum-v1", policies="pendulum-swing-up", episodes=6, out="me/swing-v0"
        )
        small = {"hidden_size": 32, "batch_size": 64, "lr": 3e-3}
        offrl.fit("td3-bc", data, out=folder / "run", steps=400, compile="off", **small)
    return str(folder / "run")


def planned(run: str, out: str, n: int = 400, **online: Any) -> Any:
    settings = {"run": run, "out": out, "online": {**ONLINE, **online}, **RUINOUS}
    return resolve(env="Pendulum-v1", env_steps=n, **settings)


def acted(run: str, out: str, n: int = 400, **online: Any) -> list[Any]:
    return list(training.train(planned(run, out, n, **online)))


def means(events: list[Any]) -> list[tuple[int, float]]:
    tried = [e.evaluation for e in events if isinstance(e, Evaluated)]
    return [(found["env_step"], found["return_mean"]) for found in tried]


def test_a_policy_that_falls_is_stopped_and_the_best_one_is_the_last_checkpoint(swinging: str):
    free = means(acted(swinging, "free"))
    before = free[0][1]
    assert min(mean for _, mean in free) < before - 150
    level = before - 100
    fall = next(i for i, (_, mean) in enumerate(free) if mean < level)
    at, best = max(free[:fall], key=lambda one: one[1])
    events = acted(swinging, "held", floor=level)
    assert means(events) == free[: fall + 1]
    assert not [e for e in events if isinstance(e, Finished)]
    (event,) = [e for e in events if isinstance(e, RolledBack)]
    assert (event.to_env_step, event.to_return) == (at, best)
    result = json.loads(Path("held", "result.json").read_text())
    told = result["rolled_back"]["0"]
    assert told["rolled_back_to"] == event.to_step
    assert told["why"] == event.message
    assert f"{level:g}" in event.message
    assert result["outcome"]["0"]["after"] == result["after"] == best
    again = offrl.evaluate("held", "Pendulum-v1", episodes=2, seed=0)
    assert again.return_mean == best
    assert any(event.message in note for note in again.notes)
    with pytest.raises(FloorError, match="below the floor"):
        offrl.finetune(swinging, "Pendulum-v1", 400, out="held", resume=True)
    kept = offrl.load_run("held").checkpoint(0).tensors
    was = offrl.load_run("held").checkpoint(0, event.step).tensors
    assert all(torch.equal(kept[k], was[k]) for k in kept)


def test_a_run_that_was_stopped_anywhere_falls_and_rolls_back_alike(swinging: str):
    level = means(acted(swinging, "free"))[0][1] - 100
    whole = acted(swinging, "held", floor=level)
    for stop in range(3, len(whole), 3):
        out = f"stopped-{stop}"
        events = training.train(planned(swinging, out, floor=level))
        for _ in range(stop):
            next(events)
        events.close()
        *_, last = training.train(resolve(out=out, resume=True))
        assert last == whole[-1]
        ours, theirs = (checkpoints.newest(Path(o, "seed_0")) for o in (out, "held"))
        assert ours is not None
        assert theirs is not None
        assert all(torch.equal(ours.tensors[k], theirs.tensors[k]) for k in theirs.tensors)


def test_poor_lived_episodes_bring_the_evaluation_forward(swinging: str):
    """Episodes of Pendulum have 200 steps, and the next evaluation were at the end."""
    late = means(acted(swinging, "late", n=1000, eval_every=1000))
    level = late[0][1] - 100
    assert late[1][1] < level
    tried = means(acted(swinging, "held", n=1000, eval_every=1000, floor=level))
    assert tried[0] == late[0]
    assert 400 <= tried[1][0] < 1000
    assert tried[1][0] % 200 == 0
    assert tried[1][1] < level


def test_a_policy_below_the_floor_does_not_act_at_all(swinging: str):
    events = acted(swinging, "held", floor=-1.0)
    (event,) = [e for e in events if isinstance(e, RolledBack)]
    assert (event.step, event.to_step) == (0, 0)
    assert "none before did better" in event.message
    found = checkpoints.newest(Path("held", "seed_0"))
    assert found is not None
    assert found.page["env_step"] == 0


def test_one_that_does_not_act_records_nothing_and_the_other_seeds_go_on(swinging: str):
    for resume in (False, True):
        with pytest.raises(FloorError, match="below the floor"):
            offrl.finetune(
                swinging, "Pendulum-v1", 400, out="held", resume=resume,
                **({} if resume else {"online": {**ONLINE, "floor": -1.0, "record": "me/held-v0"}}),
                **({} if resume else RUINOUS),
            )  # fmt: skip
        result = json.loads(Path("held", "result.json").read_text())
        assert set(result["rolled_back"]) == {"0"}
        assert result["recorded"] == {}
        assert not list(Path(os.environ["MINARI_DATASETS_PATH"]).rglob("held-v0*"))


def test_a_policy_from_scratch_has_no_floor():
    with pytest.raises(ConfigError, match="below any floor"):
        resolve("td3", "Pendulum-v1", 400, online={"floor": -500.0})

"""The pure update: Adam, targets, gradients, and steps that stop before they do harm."""

import copy
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import grad_and_value
from torch.utils._pytree import tree_map

from offrl import learner as learning
from offrl.algos import get
from offrl.batch import Batch
from offrl.errors import NumericsError, OffrlError
from offrl.learner import Learner, Progress, adam, initial_state, make_update, steps
from offrl.testing import Trial, small_config, toy_dataset

# Raised where torch's compiler imports torch's own modules.
TORCHS_OWN_WARNING = pytest.mark.filterwarnings(r"ignore:.*torch\.jit:DeprecationWarning")

EMPTY = torch.zeros(0)
BATCH = Batch(EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, {}, {})


def test_our_adam_is_torchs_adam():
    torch.manual_seed(0)
    mine = {"w": torch.randn(7, 3).double(), "b": torch.randn(3).double()}
    theirs = [p.clone().requires_grad_() for p in mine.values()]
    optimizer = torch.optim.Adam(theirs, lr=3e-3)
    state = {
        "m": {k: torch.zeros_like(p) for k, p in mine.items()},
        "v": {k: torch.zeros_like(p) for k, p in mine.items()},
        "t": torch.tensor(0.0, dtype=torch.float64),
        "lr": torch.tensor(3e-3, dtype=torch.float64),
    }
    for step in range(500):
        scale = 10.0 ** (step % 7 - 3)  # gradients of many sizes
        grads = {k: scale * torch.randn_like(p) for k, p in mine.items()}
        for p, g in zip(theirs, grads.values(), strict=True):
            p.grad = g.clone()
        optimizer.step()
        mine, state = adam(mine, grads, state)
    for ours, p in zip(mine.values(), theirs, strict=True):
        assert torch.allclose(ours, p, atol=1e-12, rtol=0)


def one_weight(online: float = 1.0, target: float = 0.0, *, targets: tuple[str, ...] = ("critic",)):
    module = nn.Linear(1, 1, bias=False).double()
    module.register_buffer("scale", torch.tensor(3.0))
    state = initial_state({"critic": module}, targets, {"critic": 1e-3})
    state["params"]["critic"]["weight"] = torch.full((1, 1), online).double()
    if targets:
        state["params"]["target_critic"]["weight"] = torch.full((1, 1), target).double()
    return Learner({"critic": module}, state)


def test_a_target_moves_by_its_rate_each_time():
    now, seen = one_weight(), []
    for _ in range(3):
        now = now.track("critic", 0.005)
        seen.append(float(now.state["params"]["target_critic"]["weight"]))
    assert seen == pytest.approx([0.005, 0.009975, 0.014925125], abs=1e-15)
    assert float(now.state["params"]["critic"]["weight"]) == 1.0


def test_a_hard_update_is_a_copy_and_no_alias():
    now = one_weight().track("critic", 1.0)
    online = now.state["params"]["critic"]["weight"]
    target = now.state["params"]["target_critic"]["weight"]
    assert torch.equal(online, target)
    assert online.data_ptr() != target.data_ptr()


def test_tracking_leaves_buffers_and_the_old_state_alone():
    before = one_weight()
    before.state["buffers"]["target_critic"]["scale"] = torch.tensor(7.0)
    after = before.track("critic", 0.5)
    assert float(after.state["buffers"]["target_critic"]["scale"]) == 7.0
    assert float(before.state["params"]["target_critic"]["weight"]) == 0.0


def test_a_target_starts_equal_and_apart_and_is_in_no_optimiser():
    module = nn.Linear(2, 2)
    state = initial_state({"critic": module}, ("critic",), {"critic": 1e-3})
    for key, tensor in state["params"]["critic"].items():
        target = state["params"]["target_critic"][key]
        assert torch.equal(tensor, target)
        assert tensor.data_ptr() != target.data_ptr()
        assert tensor.data_ptr() != module.get_parameter(key).data_ptr()
    assert set(state["adam"]) == {"critic"}


def test_no_gradient_flows_into_a_target():
    now = one_weight()
    x = torch.ones(4, 1).double()

    def loss(nets: Any, batch: Batch):
        value = (nets.critic(x) - nets.target_critic(x) - 5).square().mean()
        return value, {"critic/loss": value}

    after, metrics = now.descend("critic", loss, BATCH)
    assert torch.equal(
        after.state["params"]["target_critic"]["weight"],
        now.state["params"]["target_critic"]["weight"],
    )
    assert float(after.state["params"]["critic"]["weight"]) > 1.0
    assert not metrics["critic/loss"].requires_grad
    assert float(metrics["critic/grad_norm"]) == pytest.approx(8.0)


def test_a_loss_may_be_taken_at_older_parameters_than_are_stepped():
    older, newer = one_weight(1.0), one_weight(5.0)

    def loss(nets: Any, batch: Batch):
        value = nets.critic(torch.ones(1, 1).double()).square().mean()
        return value, {"critic/loss": value}

    after, metrics = newer.descend("critic", loss, BATCH, at=older)
    assert float(metrics["critic/loss"]) == 1.0
    assert float(after.state["params"]["critic"]["weight"]) == pytest.approx(5 - 1e-3)


def cases():
    return [(name, space) for name in ("bc", "awr") for space in get(name).spaces]


@pytest.mark.parametrize(("name", "space"), cases())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tape_and_torch_func_give_equal_bits(name: str, space: str, dtype: torch.dtype):
    trial: Any = Trial(get(name), discrete=space == "discrete", dtype=dtype)
    modules, sampler, now = trial.begin()
    batch = trial.batch(modules, sampler, now)
    for network, loss in (("policy", "policy_loss"), ("value", "value_loss")):
        if network not in modules:
            continue
        owner = trial.algorithm if network == "policy" else trial.algorithm.advantages
        function = getattr(owner, loss)

        def objective(moving: Any, function: Any = function):
            params = {**now.state["params"], **moving}
            return function(learning.Nets(modules, now.state, params), batch)

        params = {network: now.state["params"][network]}
        taped, metrics = learning.gradients(objective, params)
        traced, (_, others) = grad_and_value(objective, has_aux=True)(params)
        for key, gradient in taped[network].items():
            assert torch.equal(gradient, traced[network][key]), key
        for key, value in metrics.items():
            assert torch.equal(value, others[key]), key


def test_an_unused_parameter_has_a_gradient_of_zero():
    grads, _ = learning.gradients(
        lambda p: (p["n"]["a"].sum(), {}), {"n": {"a": torch.ones(2), "b": torch.ones(3)}}
    )
    assert grads["n"]["b"].tolist() == [0, 0, 0]


def test_an_update_changes_neither_the_modules_nor_the_state_it_was_given():
    trial = Trial(get("awr"), discrete=False)
    modules, sampler, now = trial.begin()
    weights = copy.deepcopy({name: module.state_dict() for name, module in modules.items()})
    before = tree_map(torch.clone, now.state)
    for _ in trial_steps(trial, modules, sampler, now):
        pass
    tree_map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), before, now.state)
    for name, module in modules.items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, weights[name][key])


def trial_steps(trial: Trial, modules: Any, sampler: Any, now: Any, n: int | None = None):
    return steps(trial.algorithm, modules, sampler, now, n or trial.steps)


@pytest.mark.parametrize("poison", ["reward", "action"])
def test_a_loss_that_is_not_finite_stops_before_the_step(poison: str):
    trial = Trial(get("awr"), discrete=False, settings={"adv_norm": "none"})
    modules, sampler, begin = trial.begin()
    bad_row = int(sampler.index(5)[0])
    values = getattr(trial.table, poison).clone()
    values[bad_row] = torch.inf
    object.__setattr__(trial.table, poison, values)
    seen = [begin]
    named = r"(value|policy)/(loss|grad_norm) is (nan|inf|-inf) at step \d+"
    with pytest.raises(NumericsError, match=named):
        seen.extend(trial_steps(trial, modules, sampler, begin))
    assert all(bool(p.isfinite().all()) for p in seen[-1].state["params"]["policy"].values())
    assert seen[-1].step == len(seen) - 1


def test_an_infinite_gradient_of_a_finite_loss_is_caught():
    with pytest.raises(NumericsError, match="policy/grad_norm is inf at step 12"):
        learning.check_finite(
            {"policy/loss": torch.tensor(1.0), "policy/grad_norm": torch.tensor(torch.inf)}, 12
        )


def test_a_metric_that_is_no_loss_may_be_anything():
    learning.check_finite({"policy/loss": torch.tensor(1.0), "x": torch.tensor(torch.nan)}, 0)


def test_columns_are_computed_at_refreshes_and_once_more_where_a_run_goes_on():
    trial = Trial(get("awr"), discrete=False)
    calls = []
    columns = trial.algorithm.columns

    def counted(learner: Any, table: Any, step: int):
        calls.append(step)
        return columns(learner, table, step)

    trial.algorithm.columns = counted
    modules, sampler, begin = trial.begin()
    half = deque(trial_steps(trial, modules, sampler, begin, 20), maxlen=1)[0]
    assert calls == [0, 3, 6, 9, 12]
    calls.clear()
    deque(trial_steps(trial, modules, sampler, half, 26), maxlen=1)
    assert calls == [12, 24]


# As RLPD has it: of many critics a few count in each step, and the policy moves in every third.
MANY = {
    "critics": 4, "target_critics": 2, "follow_mean": True, "layer_norm": True, "policy_period": 3,
}  # fmt: skip


@TORCHS_OWN_WARNING
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stages", "settings"),
    [("bc", 1, {}), ("awr", 2, {}), ("iwpg", 3, {}), ("sac", 2, MANY), ("td3", 2, MANY)],
)
def test_each_stage_is_one_graph_and_resuming_or_another_seed_adds_none(
    name: str, stages: int, settings: dict[str, Any], tmp_path: Path
):
    from torch._dynamo.utils import counters

    from offrl import checkpoint

    trial = Trial(get(name), discrete=False, dtype=torch.float32, settings=settings)
    modules, sampler, begin = trial.begin()
    update = make_update(trial.algorithm, modules, compiled=True)
    counters.clear()
    now = deque(steps(trial.algorithm, modules, sampler, begin, trial.steps, update), maxlen=1)[0]
    assert counters["stats"]["unique_graphs"] == stages
    trees = {"state": now.state, "anchor": now.anchor}
    tensors = checkpoint.read(checkpoint.save(tmp_path, now.step, trees, {})).tensors
    for seed in (0, 1):
        other, sampler, begin = trial.begin(seed)
        both = checkpoint.restore({"state": begin.state, "anchor": begin.state}, tensors)
        resumed = Progress(now.step, both["state"], both["anchor"], {})
        for _ in steps(trial.algorithm, other, sampler, resumed, now.step + 30, update):
            pass
        for _ in steps(trial.algorithm, other, sampler, begin, 30, update):
            pass
    assert counters["stats"]["unique_graphs"] == stages


@TORCHS_OWN_WARNING
@pytest.mark.slow
def test_an_update_that_cannot_be_traced_says_so_with_the_way_out():
    trial = Trial(get("bc"), discrete=False)

    def untraceable(learner: Learner, batch: Batch, stage: str) -> Any:
        return learner, {"policy/loss": torch.tensor(float(input()))}

    trial.algorithm.update = untraceable
    modules, sampler, now = trial.begin()
    update = make_update(trial.algorithm, modules, compiled=True)
    with pytest.raises(OffrlError, match="update of bc cannot be compiled") as caught:
        update(now.state, sampler[0], "update")
    assert "--compile off" in caught.value.remedy


@TORCHS_OWN_WARNING
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_compiled_update_computes_what_the_eager_one_does(precision: str):
    from offrl.algorithm import start
    from offrl.sampler import Sampler

    data = toy_dataset(discrete=False)
    algorithm = get("awr")(small_config(get("awr"), {}), data.spec)
    from offrl.batch import Table

    table = Table.of(data.transitions)
    ends = []
    for compiled in (False, True):
        modules, state = start(algorithm, table, 0, precision)
        update = make_update(algorithm, modules, compiled=compiled)
        sampler = Sampler(table, 0, algorithm.config.batch_size)
        run = steps(algorithm, modules, sampler, Progress(0, state, state, {}), 40, update)
        ends.append(deque(run, maxlen=1)[0].state["params"]["policy"])
    for key, tensor in ends[0].items():
        assert torch.allclose(tensor, ends[1][key], atol=1e-4 if precision == "fp32" else 2e-2), key


@TORCHS_OWN_WARNING
@pytest.mark.slow
def test_compiled_updates_that_differ_in_a_setting_alone_are_never_taken_for_each_other():
    """Shapes, names and code are the same; only what is no input of the update differs."""
    pairs: list[tuple[Any, Any, Any, Any]] = []
    for discount in (0.9, 0.5):
        trial = Trial(get("td3"), discrete=False, settings={"discount": discount})
        modules, sampler, now = trial.begin()
        eager, compiled = (
            make_update(trial.algorithm, modules, compiled=on) for on in (False, True)
        )
        pairs.append((eager, compiled, sampler[0], now.state))
    losses: list[float] = []
    for eager, compiled, batch, state in [*pairs, *pairs]:  # each before and after the other
        asked, found = (u(state, batch, "critic")[1]["critic/loss"] for u in (eager, compiled))
        assert torch.allclose(asked, found, rtol=1e-6)
        losses.append(float(found))
    assert losses[0] == losses[2] != losses[1] == losses[3]


@TORCHS_OWN_WARNING
@pytest.mark.slow
def test_a_compiled_update_takes_batches_of_another_size():
    trial = Trial(get("bc"), discrete=False)
    modules, sampler, now = trial.begin()
    eager, compiled = (make_update(trial.algorithm, modules, compiled=on) for on in (False, True))
    batch = sampler[0]
    half = len(batch.reward) // 2
    smaller = batch._replace(
        **{k: v[:half] for k, v in batch._asdict().items() if isinstance(v, torch.Tensor)},
        columns={k: v[:half] for k, v in batch.columns.items()},
        noise={k: v[:half] for k, v in batch.noise.items()},
    )
    for part in (batch, smaller, batch):
        asked, found = (u(now.state, part, "update")[1] for u in (eager, compiled))
        assert torch.allclose(asked["policy/loss"], found["policy/loss"], rtol=1e-6)

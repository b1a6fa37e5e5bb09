"""The conformance suite: what must hold for every algorithm, offrl's own and yours.

from offrl.testing import conformance
conformance(MyAlgorithm)          # raises AssertionError naming the property that fails
"""

import tempfile
import tomllib
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tomli_w
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_map

from offrl import checkpoint
from offrl.algorithm import Algorithm, AlgorithmConfig, configure, fields_of, start
from offrl.batch import Batch, Table
from offrl.data.dataset import Dataset
from offrl.data.spec import Spec
from offrl.distributions import Categorical, Deterministic
from offrl.learner import Learner, Progress, State, Update, make_update, steps
from offrl.nn import policy_head
from offrl.policy import Policy
from offrl.sampler import Sampler

AlgorithmClass = type[Algorithm[Any]]


def toy_dataset(*, discrete: bool, episodes: int = 40, length: int = 5, seed: int = 0) -> Dataset:
    """Episodes in which one action is rewarded, three quarters of the time taken, and half end.

    Rewarded: 0.5 of [-1, 1] (else -0.5), or action 2 of 3 (else 0). Even episodes terminate, odd
    ones are cut off by a time limit. Observations are noise around 5 with a spread of 3.
    """
    rng = np.random.default_rng(seed)
    n = episodes * length
    good = rng.random(n) < 0.75
    action: np.ndarray = np.where(good, 2, 0)
    if not discrete:
        action = (np.where(good, 0.5, -0.5) + rng.normal(0, 0.1, n)).astype(np.float32)[:, None]
    last = np.arange(n) % length == length - 1
    even = (np.arange(n) // length) % 2 == 0
    box = gym.spaces.Box(-1, 1, (1,), np.float32)
    return Dataset.from_arrays(
        rng.normal(5, 3, (n + episodes, 4)).astype(np.float32),
        action,
        good.astype(np.float64),
        last & even,
        last & ~even,
        action_space=gym.spaces.Discrete(3) if discrete else box,
    )


class Trial:
    """A small run of an algorithm on a toy dataset, in float64 unless told otherwise."""

    def __init__(
        self,
        algorithm: AlgorithmClass,
        *,
        discrete: bool,
        settings: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float64,
        data: Dataset | None = None,
        policy: nn.Module | None = None,
    ) -> None:
        """`policy` is for an algorithm that judges one; by default one that knows nothing."""
        self.data = data or toy_dataset(discrete=discrete)
        self.config = small_config(algorithm, settings or {})
        spec = self.data.spec
        if algorithm.judges:
            head = "categorical" if spec.discrete else "gaussian"
            policy = policy or policy_head(head, spec.obs_dim, spec.action_dim, 16, 2)
            self.algorithm = algorithm(self.config, spec, policy)
        else:
            self.algorithm = algorithm(self.config, spec)
        self.table = Table.of(self.data.transitions, dtype=dtype)
        # Long enough to pass twice through every stage and refresh of a small configuration.
        self.steps = 2 * self.algorithm.least_steps() + 30

    def begin(self, seed: int = 0) -> tuple[dict[str, nn.Module], Sampler, Progress]:
        """Modules, sampler and the state before the first step."""
        modules, state = start(self.algorithm, self.table, seed)
        rows, draws = self.algorithm.rows(self.table), self.algorithm.draws()
        sampler = Sampler(self.table, seed, self.config.batch_size, rows, draws)
        return modules, sampler, Progress(0, state, state, {})

    def run(self, seed: int = 0, n: int | None = None, update: Update | None = None) -> Progress:
        """The state after n steps."""
        modules, sampler, begin = self.begin(seed)
        return self.go_on(modules, sampler, begin, n or self.steps, update)

    def go_on(
        self,
        modules: dict[str, nn.Module],
        sampler: Sampler,
        begin: Progress,
        stop: int,
        update: Update | None = None,
    ) -> Progress:
        """The state at step `stop`, from `begin`."""
        return deque(steps(self.algorithm, modules, sampler, begin, stop, update), maxlen=1)[0]

    def batch(self, modules: dict[str, nn.Module], sampler: Sampler, now: Progress) -> Batch:
        """The batch of step `now.step` with freshly computed columns."""
        columns = self.algorithm.columns(Learner(modules, now.state), self.table, now.step)
        return sampler.with_columns(columns)[now.step]


def small_config(algorithm: AlgorithmClass, settings: dict[str, Any]) -> AlgorithmConfig:
    """The default configuration made small: narrow networks, small batches, short stages."""
    small: dict[str, Any] = {"hidden_size": 16, "batch_size": 32, "lr": 3e-3}
    for field in fields_of(algorithm.Config):
        if field.name.endswith("_steps") and field.type is int and field.default > 12:
            small[field.name] = 12
    return configure(algorithm.Config, {**small, **settings})


def prefers_the_better_action(algorithm: AlgorithmClass, discrete: bool) -> None:
    """Trained on data that holds a good and a bad action, the policy takes the good one.

    An algorithm that judges values a policy that takes it more, in the first that it `reports`.
    """
    data = toy_dataset(discrete=discrete, episodes=400)
    if algorithm.judges:
        worth = [
            _worth(algorithm, data, action) for action in ((2, 0) if discrete else (0.5, -0.5))
        ]
        assert worth[0] > worth[1] + 0.5, f"the better policy is worth {worth[0]}, less {worth[1]}"
        return
    trial = Trial(algorithm, discrete=discrete, data=data)
    now = trial.run(n=max(600, trial.steps))
    policy = _policy(trial, now)
    actions = policy.act(trial.table.observations[:50].float().numpy())
    right = (actions == 2) if discrete else np.abs(actions - 0.5) < np.abs(actions + 0.5)
    assert right.mean() > 0.9, f"the better action is taken {right.mean():.0%} of the time"


def same_seed_same_numbers(algorithm: AlgorithmClass, discrete: bool) -> None:
    """Two runs of one seed are equal bit for bit; another seed differs."""
    trial = Trial(algorithm, discrete=discrete, dtype=torch.float32)
    one, two, other = trial.run(0).state, trial.run(0).state, trial.run(1).state
    assert _equal(one, two), "two runs of one seed differ"
    assert not _equal(one["params"], other["params"]), "two seeds gave equal parameters"


def resuming_changes_nothing(algorithm: AlgorithmClass, discrete: bool) -> None:
    """Stopped anywhere, saved, read and gone on with, a run ends bit for bit alike."""
    trial = Trial(algorithm, discrete=discrete, dtype=torch.float32)
    modules, sampler, begin = trial.begin()
    whole = trial.run().state
    for stop in (1, trial.steps // 3, trial.steps // 2, trial.steps - 1):
        now = trial.go_on(modules, sampler, begin, stop)
        with tempfile.TemporaryDirectory() as folder:
            trees = {"state": now.state, "anchor": now.anchor}
            tensors = checkpoint.read(checkpoint.save(Path(folder), stop, trees, {})).tensors
        fresh_modules, fresh_sampler, fresh = trial.begin()
        both = checkpoint.restore({"state": fresh.state, "anchor": fresh.state}, tensors)
        stopped = Progress(stop, both["state"], both["anchor"], {})
        resumed = trial.go_on(fresh_modules, fresh_sampler, stopped, trial.steps)
        assert _equal(whole, resumed.state), f"stopped at step {stop}, the run ends otherwise"


def an_update_changes_nothing_it_was_given(algorithm: AlgorithmClass, discrete: bool) -> None:
    """The update is pure: its inputs stay as they were and it gives the same twice."""
    trial = Trial(algorithm, discrete=discrete)
    modules, sampler, now = trial.begin()
    batch, update = trial.batch(modules, sampler, now), make_update(trial.algorithm, modules)
    for stage in _stages(trial):
        before = tree_map(_clone, (now.state, batch))
        first, second = update(now.state, batch, stage), update(now.state, batch, stage)
        assert _equal(before, (now.state, batch)), f"stage {stage} changed its inputs"
        assert _equal(first, second), f"stage {stage} gave two answers"


def only_its_own_weights_move(algorithm: AlgorithmClass, discrete: bool) -> None:
    """Buffers stay, a network moves only where it descends, a target only towards its network."""
    trial = Trial(algorithm, discrete=discrete)
    modules, sampler, now = trial.begin()
    batch, update = trial.batch(modules, sampler, now), make_update(trial.algorithm, modules)
    for stage in _stages(trial):
        state, metrics = update(now.state, batch, stage)
        assert _equal(state["buffers"], now.state["buffers"]), f"stage {stage} moved a buffer"
        for name, params in state["params"].items():
            moved = not _equal(params, now.state["params"][name])
            allowed = f"{name}/grad_norm" in metrics or name.startswith("target_")
            assert allowed or not moved, f"stage {stage} moved {name} without descending"
    late = trial.run().state
    for name in modules:
        if name == "policy" and algorithm.judges:
            continue
        assert not _equal(late["params"][name], now.state["params"][name]), f"{name} never moves"


def what_follows_a_terminal_is_ignored(algorithm: AlgorithmClass, discrete: bool) -> None:
    """The final observation of a terminated episode may be anything: nothing bootstraps from it."""
    trial = Trial(algorithm, discrete=discrete, settings={"normalize_obs": False})
    plain = trial.run().state
    ends = trial.table.last & (trial.table.terminated == 1)
    observations = trial.table.observations.clone()
    observations[trial.table.obs_row[ends] + 1] = 1e3
    trial.table = replace(trial.table, observations=observations)
    assert _equal(plain, trial.run().state), "a terminated row learned from what follows it"


def metrics_are_finite_detached_scalars(algorithm: AlgorithmClass, discrete: bool) -> None:
    """Every metric of every step is a finite 0-d tensor without a graph, and there is a loss."""
    trial = Trial(algorithm, discrete=discrete)
    modules, sampler, begin = trial.begin()
    for now in steps(trial.algorithm, modules, sampler, begin, trial.steps):
        assert any(name.endswith("/loss") for name in now.metrics), "no metric ends in /loss"
        for name, value in now.metrics.items():
            assert value.shape == (), f"{name} is no scalar"
            assert not value.requires_grad, f"{name} is not detached"
            assert bool(value.isfinite()), f"{name} is {float(value)} at step {now.step}"


def acts_within_bounds_on_raw_observations(algorithm: AlgorithmClass, discrete: bool) -> None:
    """Actions are finite and inside the action space, for observations near and far."""
    trial = Trial(algorithm, discrete=discrete)
    policy, space = _policy(trial, trial.run()), trial.data.spec.action_space
    for scale in (0.0, 1.0, 1e4):
        obs = (trial.table.observations[:20] * scale).float().numpy()
        for action in policy.predict(obs):
            assert space.contains(action), f"{action!r} is outside {space}"


def seeds_run_together_as_alone(algorithm: AlgorithmClass, discrete: bool) -> None:
    """Eight seeds stacked in one vmapped update agree with each alone to 1e-10 (float64)."""
    trial = Trial(algorithm, discrete=discrete)
    begun = [trial.begin(seed) for seed in range(8)]
    modules, update = begun[0][0], make_update(trial.algorithm, begun[0][0])
    batches = [trial.batch(modules, sampler, now) for _, sampler, now in begun]
    stacked = _stack([now.state for _, _, now in begun])
    for stage in _stages(trial):
        together, _ = vmap(lambda s, b, stage=stage: update(s, b, stage))(stacked, _stack(batches))
        for k, (_, _, now) in enumerate(begun):
            alone, _ = update(now.state, batches[k], stage)
            mine = tree_map(lambda t, k=k: t[k], together)
            for name, value in checkpoint.flatten(alone).items():
                close = torch.allclose(checkpoint.flatten(mine)[name], value, atol=1e-10, rtol=0)
                assert close, f"seed {k} of eight differs in {name} at stage {stage}"


def traced_settings_live_in_the_state(algorithm: AlgorithmClass, discrete: bool) -> None:
    """One update serves every value of a traced setting, and another value gives another run."""
    for field in (f for f in fields_of(algorithm.Config) if f.traced):
        plain = Trial(algorithm, discrete=discrete)
        value = field.default / 2 or 0.1
        other = Trial(algorithm, discrete=discrete, settings={field.name: value})
        modules, _, _ = plain.begin()
        borrowed = other.run(update=make_update(plain.algorithm, modules)).state
        alone = other.run().state
        assert _equal(borrowed, alone), f"{field.name} is read from the configuration"
        moved = not _equal(alone["params"], plain.run().state["params"])
        assert moved, f"{field.name} changes nothing"


def settings_survive_toml(algorithm: AlgorithmClass, discrete: bool) -> None:
    """Every setting is a documented scalar and comes back from TOML as it was."""
    fields = fields_of(algorithm.Config)
    assert all(field.help for field in fields), "a setting has no help text"
    config = algorithm.Config()
    again = configure(algorithm.Config, tomllib.loads(tomli_w.dumps(asdict(config))))
    assert again == config, "the settings change on their way through TOML"


PROPERTIES: tuple[Callable[[AlgorithmClass, bool], None], ...] = (
    prefers_the_better_action,
    same_seed_same_numbers,
    resuming_changes_nothing,
    an_update_changes_nothing_it_was_given,
    only_its_own_weights_move,
    what_follows_a_terminal_is_ignored,
    metrics_are_finite_detached_scalars,
    acts_within_bounds_on_raw_observations,
    seeds_run_together_as_alone,
    traced_settings_live_in_the_state,
    settings_survive_toml,
)


def conformance(algorithm: AlgorithmClass) -> None:
    """Check every property on every action space that the algorithm declares.

    Raises AssertionError naming the property, the space and what was seen.
    """
    for space in algorithm.spaces:
        for check in PROPERTIES:
            try:
                check(algorithm, space == "discrete")
            except AssertionError as error:
                name = check.__name__.replace("_", " ")
                raise AssertionError(f"{algorithm.name} ({space}): {name}: {error}") from error


class _Always(nn.Module):
    """Takes one action everywhere."""

    def __init__(self, action: float, spec: Spec) -> None:
        super().__init__()
        self.action, self.n = nn.Parameter(torch.tensor(float(action))), spec.action_dim
        self.discrete = spec.discrete

    def forward(self, obs: Tensor) -> Categorical | Deterministic:
        action = self.action.expand(len(obs), 1)
        if self.discrete:
            return Categorical(torch.log_softmax(-50 * (torch.arange(self.n) - action).abs(), -1))
        return Deterministic(action, -torch.ones_like(action[0]), torch.ones_like(action[0]))


def _worth(algorithm: AlgorithmClass, data: Dataset, action: float) -> float:
    discrete = data.spec.discrete
    policy = _Always(action, data.spec)
    trial = Trial(algorithm, discrete=discrete, data=data, policy=policy)
    nets = Learner(trial.begin()[0], trial.run(n=max(600, trial.steps)).state).nets
    return float(trial.algorithm.findings(nets, trial.table)[algorithm.reports[0]])


def _policy(trial: Trial, now: Progress) -> Policy:
    network = trial.algorithm.networks()["policy"]
    tensors: dict[str, Tensor] = now.state["params"]["policy"] | now.state["buffers"]["policy"]
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return Policy(trial.data.spec, network)


def _stages(trial: Trial) -> list[str]:
    return sorted({trial.algorithm.stage(step) for step in range(trial.steps)})


def _stack(trees: list[Any]) -> Any:
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


def _clone(leaf: Tensor) -> Tensor:
    return leaf.clone()


def _equal(one: State | Any, two: State | Any) -> bool:
    """Bit for bit; NaN equals NaN, as in a log that has no log-probabilities."""
    same: list[bool] = []
    tree_map(
        lambda a, b: same.append(a.shape == b.shape and bool(torch.equal(_bits(a), _bits(b)))),
        one,
        two,
    )
    return all(same)


def _bits(tensor: Tensor) -> Tensor:
    return torch.nan_to_num(tensor, nan=1.25e30) if tensor.is_floating_point() else tensor

"""The policy mu that made the log: its probabilities where they were not logged, and its value.

Both are fitted to episodes other than those that are asked about (cross-fitting): a model that has
seen an action calls it likelier than it was, which would shrink every ratio.
"""

from dataclasses import asdict
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import Algorithm, AlgorithmConfig
from offrl.batch import Batch, Table
from offrl.behavior import Behavior, BehaviorConfig
from offrl.configuration import configure
from offrl.data.transitions import Transitions
from offrl.errors import ConfigError
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Value, policy_head
from offrl.ope.fitting import (
    Counting,
    Numbers,
    fit_model,
    folds_of,
    observation_rows,
    rows_of,
    seed_of,
    tensor,
    without,
)
from offrl.ope.settings import JudgeConfig
from offrl.ope.trajectories import Floats


@final
class Likelihood(Algorithm[BehaviorConfig]):
    """mu by maximum likelihood, the best of its states on episodes set aside."""

    name = "ope-behavior"
    summary = "The policy that made a log, from its actions."
    Config = BehaviorConfig

    def __init__(self, config: BehaviorConfig, spec: Any, policy: nn.Module | None = None) -> None:
        super().__init__(config, spec, policy)
        self._behavior = Behavior(config)

    def networks(self) -> dict[str, nn.Module]:
        head = "categorical" if self.spec.discrete else "gaussian"
        sizes = (self.config.hidden_size, self.config.hidden_layers)
        return {
            name: policy_head(head, self.spec.obs_dim, self.spec.action_dim, *sizes)
            for name in ("behavior", "policy")
        }

    def scalars(self) -> dict[str, float]:
        return {"best_log_prob": float("-inf")}

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        return learner.descend("behavior", self._behavior.loss, batch)

    def rows(self, table: Table) -> Tensor | None:
        return self._behavior.learned_rows(table)

    def refreshes(self, step: int) -> bool:
        return step % self.config.check_steps == 0

    def turn(self, learner: Learner, table: Table, step: int) -> Learner:
        return self._behavior.keep_best(learner, table, step)


@final
class OwnValue(Algorithm[AlgorithmConfig]):
    """V of the policy that made the log: y = r + discount (1 - terminated) V'(s')."""

    name = "ope-value"
    summary = "What the policy that made a log is worth."
    Config = AlgorithmConfig
    targets = ("value",)
    rate = 0.02

    def networks(self) -> dict[str, nn.Module]:
        return {
            "value": Value(self.spec.obs_dim, self.config.hidden_size, self.config.hidden_layers)
        }

    def loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error in units of the returns' spread."""
        with torch.no_grad():
            future = nets.target_value(batch.next_obs)
            target = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
        error = (nets.value(batch.obs) - target) / nets.buffer("value", "return_std")
        loss = error.square().mean()
        return loss, {"value/loss": loss}

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        learner, metrics = learner.descend("value", self.loss, batch)
        return learner.track("value", self.rate), metrics


def behavior_log_prob(
    data: Transitions, judged: Numbers, config: JudgeConfig, counting: Counting
) -> tuple[Floats, bool]:
    """log mu(a|s) of the steps of the judged episodes, in their order, and whether it is fitted.

    Fitted to all episodes of the data but those asked about. Raises ConfigError where logged
    probabilities are demanded and some are missing, or one episode alone cannot be fitted.
    """
    rows = rows_of(data, judged)
    logged = data.behavior_log_prob[rows]
    missing = int((~np.isfinite(logged)).sum())
    if config.behavior == "logged" and missing:
        raise ConfigError(
            f"{missing} of {len(rows)} steps have no logged probability.",
            "Let it be fitted: behavior='auto' (--behavior auto).",
        )
    if config.behavior != "fitted" and not missing:
        return logged.astype(np.float64), False
    if data.n_episodes < 2:
        raise ConfigError(
            "The behavior cannot be fitted to one episode and judged on it.",
            "Give more episodes, or log the probabilities of the actions.",
        )
    found = np.full(len(data), np.nan)
    settings = {"behavior_steps": config.behavior_steps, **_sizes(config)}
    algorithm = Likelihood(configure(BehaviorConfig, settings), data.spec)
    for number, part in enumerate(folds_of(len(judged), config.folds, config.seed)):
        asked = judged[part]
        table = Table.of(data, episodes=without(asked, data.n_episodes))
        seed = seed_of(config.seed, number, 3)
        fitted = fit_model(algorithm, table, seed, config.behavior_steps, counting)
        at = rows_of(data, asked)
        for chunk in np.array_split(at, max(1, len(at) // 16_384)):
            obs, action = data.observations[data.obs_row[chunk]], data.action[chunk]
            with torch.no_grad():
                mu = fitted.behavior(tensor(obs))
                wide = type(mu)(*(part.double() for part in mu))
                found[chunk] = wide.log_prob(tensor(action)).numpy()
    return found[rows], True


def own_values(
    data: Transitions, discount: float, config: JudgeConfig, counting: Counting
) -> Floats:
    """V of the policy that made the log, of the last observation of each episode, [E]."""
    found = np.zeros(data.n_episodes)
    settings = {"discount": discount, **_sizes(config)}
    algorithm = OwnValue(configure(AlgorithmConfig, settings), data.spec)
    for number, part in enumerate(folds_of(data.n_episodes, config.folds, config.seed)):
        table = Table.of(data, episodes=without(part, data.n_episodes))
        seed = seed_of(config.seed, number, 4)
        fitted = fit_model(algorithm, table, seed, config.fqe_steps, counting)
        ends = observation_rows(data, part)[np.cumsum(data.lengths[part] + 1) - 1]
        with torch.no_grad():
            found[part] = fitted.value(tensor(data.observations[ends])).double().numpy()
    return found


def _sizes(config: JudgeConfig) -> dict[str, Any]:
    given = asdict(config)
    names = ("hidden_size", "hidden_layers", "batch_size", "lr")
    return {name: given[f"fqe_{name}"] for name in names}

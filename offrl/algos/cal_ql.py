"""Calibrated Q-learning: conservative, but never below what the log's own policy has earned.

    critics:  minimise  sum_i E_D[ (Q_i(s,a) - y)^2 ] + conservatism E_D[ G_i(s) - Q_i(s,a) ]

discrete:     G = log sum_a exp max(Q(s,a), V(s))         y, policy and network as in cql
continuous:   G = log sum_k exp(c_k - log p(a_k))         over the same actions a_k as in cql, with
              c_k = Q_i(s,a_k) of uniform actions,  max(Q_i(s,a_k), V(s)) of pi(.|s) and pi(.|s')
              y, policy and temperature as in cql

V(s) is the discounted return-to-go of the row's own episode, logged or lived. Where Q is below it,
nothing holds Q down: values begin at a size that acting confirms, so that fine-tuning does not have
to unlearn the policy first. Source: Nakamoto et al. 2023, 2303.05479, and the authors' code at
ac6eafe. Deviations: see docs/algorithms/cal-ql.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from offrl import losses
from offrl.algorithm import Peers
from offrl.batch import Batch, Table
from offrl.conservative import Conservative, ConservativeConfig, asked
from offrl.learner import Learner, Metrics, Nets


@dataclass(frozen=True, kw_only=True)
class CalQLConfig(ConservativeConfig):
    """Settings of calibrated Q-learning."""

    sparse: Annotated[
        bool,
        "Rewards only tell success: what had none, or was cut off, goes on failing for ever.",
        Peers("is_sparse_reward", "sparse_reward"),
    ] = False
    failure_reward: Annotated[
        float, "Reward of a step without success, where rewards are sparse.", Peers("reward_neg")
    ] = 0.0

    def rules(self) -> dict[str, tuple[bool, str]]:
        rules = super().rules()
        if self.sparse:
            holds = 0 <= self.discount < 1
            rules["discount"] = (holds, "from 0 to below 1 where rewards are sparse")
        return rules | {"failure_reward": (math.isfinite(self.failure_reward), "finite")}


@final
class CalQL(Conservative[CalQLConfig]):
    """CQL whose values are not pushed below the returns that the log holds."""

    name = "cal-ql"
    summary = "CQL with values no lower than the returns of the log, made to be fine-tuned."
    reports = ("critic/below_return",)
    # Until its episode is over, a row is treated as cql does.
    lived: ClassVar[Mapping[str, float]] = {"return_to_go": -math.inf}
    Config = CalQLConfig

    def columns(self, learner: Learner, table: Table, step: int) -> dict[str, Tensor]:
        failure = self.config.failure_reward if self.config.sparse else None
        return {
            "return_to_go": losses.returns_to_go(
                table.reward, table.terminated, table.last, self.config.discount, failure
            )
        }

    def value_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Discrete actions: as cql's, with every value raised to the return."""
        pi, target = nets.policy(batch.obs), self.greedy_target(nets, batch)
        values, earned = pi.value[None], batch.columns["return_to_go"][:, None]
        logged = losses.chosen(values, batch.action)
        loss, metrics = self.penalised(nets, logged, torch.maximum(values, earned), target)
        return loss, metrics | {
            "critic/below_return": (values < earned).to(loss).mean(),
            "policy/q_mean": pi.value.amax(-1).mean(),
            **losses.departure(pi, batch.action),
        }

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Continuous actions: as cql's, with values of pi's samples raised to the return."""
        target, actions, log_density = self.drawn(nets, batch)
        q, earned = asked(nets.critic, batch.obs, actions), batch.columns["return_to_go"]
        raised = losses.calibrated(q, earned, self.config.samples)
        values, logged = (raised - log_density).movedim(1, -1), nets.critic(batch.obs, batch.action)
        loss, metrics = self.penalised(nets, logged, values, target)
        below = (q[:, self.config.samples :] < earned).to(loss).mean()
        return loss, metrics | {"critic/below_return": below}

    def scalars(self) -> dict[str, float]:
        return {"cut_off": 0.0}

    def refreshes(self, step: int) -> bool:
        return step == 0

    def turn(self, learner: Learner, table: Table, step: int) -> Learner:
        """Take down what share of the episodes a time limit has cut off."""
        ends = table.terminated[table.last]
        return learner.note(cut_off=(ends == 0).to(ends).mean())

    def warnings(self, learner: Learner) -> tuple[str, ...]:
        share = float(learner.scalar("cut_off"))
        if self.config.sparse or share == 0:
            return ()
        return (
            f"A time limit cut off {share:.0%} of the episodes, and what they would have earned"
            " after it is missing from their returns-to-go: Q is held too high near the end where"
            " rewards are negative, and too low where they are positive. Where rewards only tell"
            " success, give --sparse true.",
        )

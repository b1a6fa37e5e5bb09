"""Advantage-weighted regression on logged data.

    pi*(a|s) = mu(a|s) exp(A^mu(s,a) / alpha) / Z(s)      maximises  E_pi[A^mu] - alpha KL(pi || mu)

projected on the network by weighted maximum likelihood over the logged actions:

    policy:  minimise -E_D[ min(exp(A / temperature), weight_cap) log pi(a|s) ]

with A as in offrl/advantages.py, recomputed once V (and Q) are fitted. One pass is their steps and
`policy_steps` of the policy. Where every action's A is known (a Q over discrete actions), a fitted
mu gives pi* itself, and `policy/kl_closed_form` says how far the regression is from it. Source:
Peng et al. 2019, 1910.00177, and the lecture's option 1 (states and advantages of mu). Deviations:
see docs/algorithms/awr.md.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, final

import torch
from torch import Tensor, nn

from offrl import losses, ratios
from offrl.advantages import AdvantageConfig, Advantages
from offrl.algorithm import TRACED, Peers
from offrl.batch import Batch, Table
from offrl.data.spec import Spec
from offrl.learner import Learner, Metrics, Nets
from offrl.lessons import Phase, RolloutAlgorithm
from offrl.nn import policy_head


@dataclass(frozen=True, kw_only=True)
class AWRConfig(AdvantageConfig):
    """Settings of advantage-weighted regression."""

    temperature: Annotated[
        float,
        "Advantage worth one e-fold of weight; infinity is BC.",
        Peers("beta", "alpha", "weight_temp", "awr_temperature", conversion="ours divides"),
        TRACED,
    ] = 1.0
    weight_cap: Annotated[
        float, "Largest weight of a transition.", Peers("max_weight", "exp_adv_max", "weight_clip")
    ] = 20.0
    policy_steps: Annotated[int, "Gradient steps of the policy in a pass."] = 4000

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "temperature": (self.temperature > 0, "above 0"),
            "weight_cap": (self.weight_cap > 0, "above 0"),
            "policy_steps": (self.policy_steps > 0, "at least 1"),
        }


@final
class AWR(RolloutAlgorithm[AWRConfig]):
    """Imitate the log, each action weighted by how much better than usual it was."""

    name = "awr"
    summary = "Imitate the logged actions, the better the more (advantage-weighted regression)."
    criteria = (("log_prob", "highest"),)
    acts = "recent"
    of_log = ("advantage", "q_steps")
    online = MappingProxyType({"value_steps": 200, "value_refits": 1, "policy_steps": 1000})
    Config = AWRConfig

    def __init__(self, config: AWRConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.advantages = Advantages(config, spec)
        self.checked = spec.discrete and config.advantage == "q"  # against the closed form

    def networks(self) -> dict[str, nn.Module]:
        head = "categorical" if self.spec.discrete else "gaussian"
        sizes = (self.config.hidden_size, self.config.hidden_layers)
        shape = (self.spec.obs_dim, self.spec.action_dim, *sizes)
        found = {"policy": policy_head(head, *shape), **self.advantages.networks()}
        if self.checked:
            found["behavior"] = policy_head(head, *shape)
        return found

    def behavior_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Negative log-likelihood of the logged actions, unweighted."""
        loss = -nets.behavior(batch.obs).log_prob(batch.action).mean()
        return loss, {"behavior/loss": loss}

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted negative log-likelihood of the logged actions."""
        pi, advantage = nets.policy(batch.obs), batch.columns["advantage"]
        temperature, cap = nets.scalar("temperature"), self.config.weight_cap
        loss, metrics = losses.weighted_imitation(pi, batch.action, advantage, temperature, cap)
        if self.checked and "advantages" in batch.columns:
            tilt = losses.awr_log_weight(batch.columns["advantages"], temperature, cap)
            tilted = torch.log_softmax(nets.behavior(batch.obs).log_probs + tilt, -1)
            metrics["policy/kl_closed_form"] = ratios.kl_categorical(tilted, pi.log_probs).mean()
        return loss, metrics

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        if stage == "policy":
            return learner.descend("policy", self.policy_loss, batch)
        learner, metrics = self.advantages.update(learner, batch, stage)
        if self.checked and stage == "q":
            learner, more = learner.descend("behavior", self.behavior_loss, batch)
            return learner, metrics | more
        return learner, metrics

    def least_steps(self) -> int:
        return self.advantages.steps + 1

    def shortened(self, steps: int) -> AWRConfig:
        short: dict[str, int] = self.advantages.shortened(steps // 5)
        before = sum(n for name, n in short.items() if name.endswith("_steps"))
        return replace(self.config, **short, policy_steps=max(1, steps - before))

    def stage(self, step: int) -> str:
        into = self._in_pass(step)
        return self.advantages.stage(into) if into < self.advantages.steps else "policy"

    def refreshes(self, step: int) -> bool:
        return self.advantages.refreshes(self._in_pass(step))

    def columns(self, learner: Learner, table: Table, step: int) -> dict[str, Tensor]:
        return self.advantages.columns(learner, table, first=step == 0)

    def lesson(self, minibatches: int, epochs: int) -> list[Phase]:
        steps, refits = self.config.value_steps, self.config.value_refits
        ends = [steps * k // refits for k in range(refits + 1)]
        fitting = [Phase("value", b - a) for a, b in pairwise(ends)]
        return [*fitting, Phase("policy", self.config.policy_steps, mixed=True)]

    def fresh_columns(self, learner: Learner, table: Table) -> dict[str, Tensor]:
        return self.advantages.columns(learner, table, lived=True)

    def logged_columns(self, learner: Learner, table: Table) -> dict[str, Tensor]:
        return self.advantages.columns(learner, table)

    def holdout(self, nets: Nets, batch: Batch) -> Metrics:
        return {"holdout/log_prob": nets.policy(batch.obs).log_density(batch.action).mean()}

    def _in_pass(self, step: int) -> int:
        return step % (self.advantages.steps + self.config.policy_steps)

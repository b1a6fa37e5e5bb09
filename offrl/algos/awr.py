"""Advantage-weighted regression on logged data.

    pi*(a|s) = mu(a|s) exp(A^mu(s,a) / alpha) / Z(s)      maximises  E_pi[A^mu] - alpha KL(pi || mu)

projected on the network by weighted maximum likelihood over the logged actions:

    value:   minimise  1/2 E_D[ (R^lambda - V(s))^2 ]      R^lambda recomputed from V at each refit
    policy:  minimise -E_D[ min(exp(A / temperature), weight_cap) log pi(a|s) ]

where A = R^lambda - V, recomputed once V is fitted. One pass is `value_steps` steps of the first
and `policy_steps` of the second. Source: Peng et al. 2019, 1910.00177, and the lecture's option 1
(states and advantages of mu). Deviations: see docs/algorithms/awr.md.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import TRACED, Algorithm, AlgorithmConfig, Peers
from offrl.batch import Batch, Table
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Value, policy_head


@dataclass(frozen=True, kw_only=True)
class AWRConfig(AlgorithmConfig):
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
    adv_norm: Annotated[
        Literal["none", "std"],
        "Scale advantages by their spread over the data, so temperature has no units of reward.",
    ] = "std"
    td_lambda: Annotated[
        float, "1 is Monte-Carlo returns, 0 one-step; between, TD(lambda).", Peers("lam", "lmbda")
    ] = 0.95
    value_steps: Annotated[int, "Gradient steps of V in a pass.", Peers("critic_steps")] = 1000
    value_refits: Annotated[int, "Times the value targets are recomputed in those steps."] = 4
    policy_steps: Annotated[int, "Gradient steps of the policy in a pass."] = 4000

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "temperature": (self.temperature > 0, "above 0"),
            "weight_cap": (self.weight_cap > 0, "above 0"),
            "td_lambda": (0 <= self.td_lambda <= 1, "from 0 to 1"),
            "policy_steps": (self.policy_steps > 0, "at least 1"),
            "value_steps": (self.value_steps > 0, "at least 1"),
            "value_refits": (0 < self.value_refits <= self.value_steps, "from 1 to value_steps"),
        }


@final
class AWR(Algorithm[AWRConfig]):
    """Imitate the log, each action weighted by how much better than usual it was."""

    name = "awr"
    summary = "Imitate the logged actions, the better the more (advantage-weighted regression)."
    Config = AWRConfig

    def networks(self) -> dict[str, nn.Module]:
        head = "categorical" if self.spec.discrete else "gaussian"
        sizes = (self.config.hidden_size, self.config.hidden_layers)
        return {
            "policy": policy_head(head, self.spec.obs_dim, self.spec.action_dim, *sizes),
            "value": Value(self.spec.obs_dim, *sizes),
        }

    def value_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of V, in units of the returns' spread."""
        target, value = batch.columns["value_target"], nets.value(batch.obs)
        loss = 0.5 * ((target - value) / nets.buffer("value", "return_std")).square().mean()
        return loss, {
            "value/loss": loss,
            "value/mean": value.mean(),
            "value/explained_variance": losses.explained_variance(target, value),
        }

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted negative log-likelihood of the logged actions."""
        pi, advantage = nets.policy(batch.obs), batch.columns["advantage"]
        temperature, cap = nets.scalar("temperature"), self.config.weight_cap
        weight = losses.awr_weight(advantage, temperature, cap)
        log_prob = pi.log_density(batch.action)
        loss = -(weight * log_prob).mean()
        return loss, {
            "policy/loss": loss,
            "policy/log_prob": log_prob.mean(),
            "policy/entropy": pi.entropy(),
            "policy/weight_ess": losses.effective_share(weight),
            "policy/weight_capped": losses.capped_share(advantage, temperature, cap),
            "policy/weight_max": weight.max(),
            "policy/advantage_mean": advantage.mean(),
            "policy/advantage_std": advantage.std(correction=0),
        }

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        if stage == "value":
            return learner.descend("value", self.value_loss, batch)
        return learner.descend("policy", self.policy_loss, batch)

    def least_steps(self) -> int:
        return self.config.value_steps + 1

    def shortened(self, steps: int) -> AWRConfig:
        value_steps = max(1, steps // 5)
        return replace(
            self.config,
            value_steps=value_steps,
            value_refits=min(self.config.value_refits, value_steps),
            policy_steps=max(1, steps - value_steps),
        )

    def stage(self, step: int) -> str:
        return "value" if self._in_pass(step) < self.config.value_steps else "policy"

    def refreshes(self, step: int) -> bool:
        into, value_steps = self._in_pass(step), self.config.value_steps
        k = -(-into * self.config.value_refits // value_steps)  # the k-th refit is at V * k // R
        return into <= value_steps and value_steps * k // self.config.value_refits == into

    def columns(self, learner: Learner, table: Table, step: int) -> dict[str, Tensor]:
        """TD(lambda) returns and advantages of all transitions under the V of this moment.

        The very first targets are Monte-Carlo: those of an untrained V would say nothing.
        """
        value = torch.cat([learner.nets.value(chunk) for chunk in table.observations.split(16_384)])
        value, row = value.cpu().double(), table.obs_row.cpu()
        here, then = value[row], value[row + 1]
        advantage = losses.advantage_lambda(
            table.reward.cpu().double(),
            here,
            then,
            table.terminated.cpu().double(),
            table.last.cpu(),
            self.config.discount,
            1.0 if step == 0 else self.config.td_lambda,
        )
        target = advantage + here
        if self.config.adv_norm == "std":
            advantage = losses.standardise(advantage)
        like = table.reward
        return {"value_target": target.to(like), "advantage": advantage.to(like)}

    def holdout(self, nets: Nets, batch: Batch) -> Metrics:
        return {"holdout/log_prob": nets.policy(batch.obs).log_density(batch.action).mean()}

    def _in_pass(self, step: int) -> int:
        return step % (self.config.value_steps + self.config.policy_steps)

"""Implicit Q-learning: a value better than mu's from logged actions alone, then weighted imitation.

    value:   minimise  E_D[ |expectile - 1(u < 0)| u^2 ]            u = min_i Q'_i(s,a) - V(s)
    policy:  minimise -E_D[ min(exp(inverse_temperature u), weight_cap) log pi(a|s) ]
    critics: minimise  sum_i E_D[ (Q_i(s,a) - r - discount (1 - terminated) V(s'))^2 ]

in this order, each with what the one before has become, then the targets. No action that the log
lacks is ever asked for. Source: Kostrikov et al. 2021, 2110.06169, eq. 5 to 7, and the authors'
code at 09d7002. Deviations: see docs/algorithms/iql.md.
"""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import TRACED, Algorithm, Peers
from offrl.batch import Batch
from offrl.critics import CriticConfig, actor, critics, logged_value
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Value


@dataclass(frozen=True, kw_only=True)
class IQLConfig(CriticConfig):
    """Settings of implicit Q-learning."""

    expectile: Annotated[
        float,
        "Where V lies among the logged actions' values: 0.5 is their mean, 1 their maximum.",
        Peers("iql_tau", "expectile_tau"),
        TRACED,
    ] = 0.7
    inverse_temperature: Annotated[
        float,
        "e-folds of weight for one unit of advantage, in units of reward; 0 is BC.",
        Peers(
            "beta", "weight_temp", "temperature", "awr_temperature", conversion="ours multiplies"
        ),
        TRACED,
    ] = 3.0
    weight_cap: Annotated[
        float, "Largest weight of a transition.", Peers("exp_adv_max", "max_weight", "weight_clip")
    ] = 100.0
    lr_decay_steps: Annotated[
        int,
        "Steps in which the policy's learning rate falls to 0 as a cosine; 0 keeps it as it is.",
        Peers("max_steps", "opt_decay_schedule", "actor_decay_steps"),
    ] = 0

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "expectile": (0 < self.expectile < 1, "between 0 and 1"),
            "inverse_temperature": (self.inverse_temperature >= 0, "0 or more"),
            "weight_cap": (self.weight_cap > 0, "above 0"),
            "lr_decay_steps": (self.lr_decay_steps >= 0, "0 or more"),
        }


@final
class IQL(Algorithm[IQLConfig]):
    """Learn the value of the better logged actions, and imitate those."""

    name = "iql"
    summary = "Imitate the logged actions that beat a learned value (implicit Q-learning)."
    acts = "replay"
    targets = ("critic",)
    criteria = (("log_prob", "highest"),)
    Config = IQLConfig

    def networks(self) -> dict[str, nn.Module]:
        c = self.config
        return {
            "policy": actor(c, self.spec, "gaussian"),
            "value": Value(self.spec.obs_dim, c.hidden_size, c.hidden_layers),
            "critic": critics(c, self.spec),
        }

    def advantage(self, nets: Nets, batch: Batch) -> Tensor:
        """[B], the least of the target critics less V; only V's gradient flows."""
        with torch.no_grad():
            q = logged_value(nets.target_critic, batch).amin(0)
        return q - nets.value(batch.obs)

    def value_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Expectile regression of V on the target critics' values of logged actions."""
        difference = self.advantage(nets, batch)
        loss = losses.expectile_loss(difference, nets.scalar("expectile"))
        return loss, {"value/loss": loss, "value/exceeded": (difference > 0).to(loss).mean()}

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted negative log-likelihood of the logged actions."""
        pi, advantage = nets.policy(batch.obs), self.advantage(nets, batch)
        # Infinite where the inverse is 0, and then every weight is 1: behaviour cloning.
        temperature, cap = 1 / nets.scalar("inverse_temperature"), self.config.weight_cap
        loss, metrics = losses.weighted_imitation(pi, batch.action, advantage, temperature, cap)
        return loss, metrics | losses.departure(pi, batch.action)

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of every critic against the reward and the next state's V."""
        with torch.no_grad():
            future, discount = nets.value(batch.next_obs), self.config.discount
            target = losses.td_target(batch.reward, future, batch.terminated, discount)
        return losses.critic_loss(logged_value(nets.critic, batch), target)

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        learner, value = learner.descend("value", self.value_loss, batch)
        rate = losses.cosine_decay(learner.count("policy"), self.config.lr_decay_steps)
        learner, policy = learner.descend("policy", self.policy_loss, batch, rate=rate)
        learner, critic = learner.descend("critic", self.critic_loss, batch)
        learner = learner.track("critic", learner.scalar("target_rate"))
        return learner, value | policy | critic

    def holdout(self, nets: Nets, batch: Batch) -> Metrics:
        return {"holdout/log_prob": nets.policy(batch.obs).log_density(batch.action).mean()}

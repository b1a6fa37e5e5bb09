"""Soft actor-critic, continuous and discrete actions, on a fixed log.

    policy:       minimise  E_D[ T log pi(a|s) - min_i Q_i(s,a) ]       a ~ pi, T the temperature
    temperature:  minimise -log T E_D[ log pi(a|s) + target entropy ]
    critics:      minimise  sum_i E_D[ (Q_i(s,a) - y)^2 ]
                  y = r + discount (1 - terminated) (min_i Q'_i(s',a') - T log pi(a'|s'))

in this order, policy and temperature every `policy_period` steps. RLPD (Ball et al. 2023,
2302.02948) is this with many critics, their mean for the policy, and the least of a few for y.
Discrete actions are summed over with their probabilities, not drawn. Nothing keeps pi near the log,
so on a fixed log it over-estimates; cql is the remedy. Sources: Haarnoja et al. 2018, 1812.05905,
eq. 5 to 7 and 17; Christodoulou 2019, 1910.07207, eq. 10 to 12. Deviations: see
docs/algorithms/sac.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import Algorithm, Peers
from offrl.batch import Batch
from offrl.critics import SoftConfig, actor_critic, counted, logged_value, member_draws
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Scalar


@dataclass(frozen=True, kw_only=True)
class SACConfig(SoftConfig):
    """Settings of soft actor-critic."""

    initial_temperature: Annotated[
        float,
        "Reward worth one nat of entropy, at first; then it is learned.",
        Peers("init_temperature", "initial_alpha", "ent_coef", "init_alpha"),
    ] = 1.0
    entropy_share: Annotated[
        float,
        "Entropy aimed at of a discrete action, as a share of the largest.",
        Peers("target_entropy_scale", "target_entropy_ratio"),
    ] = 0.8

    policy_period: Annotated[
        int,
        "Critic steps to one step of the policy and the temperature.",
        Peers("policy_freq", "policy_delay", "actor_update_interval"),
    ] = 1

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "policy_period": (self.policy_period > 0, "at least 1"),
            "initial_temperature": (self.initial_temperature > 0, "above 0"),
            "entropy_share": (0 < self.entropy_share < 1, "between 0 and 1"),
        }


@final
class SAC(Algorithm[SACConfig]):
    """Follow the critics, and keep the policy's entropy at what is aimed at."""

    name = "sac"
    summary = "Soft actor-critic with a learned temperature; made for acting, not for fixed logs."
    acts = "replay"
    targets = ("critic",)
    Config = SACConfig

    def networks(self) -> dict[str, nn.Module]:
        temperature = Scalar(math.log(self.config.initial_temperature))
        found = actor_critic(self.config, self.spec, "squashed")
        return {**found, "log_temperature": temperature}

    def draws(self) -> dict[str, tuple[int, ...]]:
        one = (self.spec.action_dim,)
        actions = {} if self.spec.discrete else {"here": one, "next": one}
        return {**actions, **member_draws(self.config)}

    @property
    def target_entropy(self) -> float:
        """In nats, of a whole action."""
        n = self.spec.action_dim
        if self.spec.discrete:
            return self.config.entropy_share * math.log(n)
        return self.config.dimension_entropy * n

    def expected(
        self, pi: Any, value: Callable[..., Tensor], obs: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """E[log pi(a|s)] and E[value] under pi, [B]: exact, or by one draw."""
        if self.spec.discrete:
            share = pi.log_probs.exp()
            return (share * pi.log_probs).sum(-1), (share * value(obs)).sum(-1)
        action, log_prob = pi.scored_sample(noise)
        return log_prob + pi.log_half, value(obs, action)

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """The policy's loss and the temperature's, neither with a gradient in the other."""

        def value(*inputs: Tensor) -> Tensor:
            return losses.pooled(nets.critic(*inputs), self.config.follow_mean)

        pi, log_temperature = nets.policy(batch.obs), nets.log_temperature()
        log_prob, q = self.expected(pi, value, batch.obs, batch.noise.get("here"))
        loss, metrics = losses.soft_losses(log_prob, q, log_temperature, self.target_entropy)
        return loss, metrics | losses.departure(pi, batch.action)

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of every critic against the soft value of the next state."""

        def value(*inputs: Tensor) -> Tensor:
            return nets.target_critic(*inputs, counted(self.config, batch)).amin(0)

        with torch.no_grad():
            pi, noise = nets.policy(batch.next_obs), batch.noise.get("next")
            log_prob, q = self.expected(pi, value, batch.next_obs, noise)
            bonus = -nets.log_temperature().exp() * log_prob
            target = losses.td_target(
                batch.reward, q + bonus, batch.terminated, self.config.discount
            )
        loss, metrics = losses.critic_loss(logged_value(nets.critic, batch), target)
        return loss, metrics | {"critic/bonus": bonus.mean()}

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        policy: Metrics = {}
        if stage != "critic":
            both = ("policy", "log_temperature")
            learner, policy = learner.descend(both, self.policy_loss, batch)
        learner, critic = learner.descend("critic", self.critic_loss, batch)
        return learner.track("critic", learner.scalar("target_rate")), policy | critic

    def least_steps(self) -> int:
        return self.config.policy_period

    def stage(self, step: int) -> str:
        return "policy" if (step + 1) % self.config.policy_period == 0 else "critic"

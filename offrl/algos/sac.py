"""Soft actor-critic, continuous and discrete actions, on a fixed log.

    policy:       minimise  E_D[ T log pi(a|s) - min_i Q_i(s,a) ]       a ~ pi, T the temperature
    temperature:  minimise -log T E_D[ log pi(a|s) + target entropy ]
    critics:      minimise  sum_i E_D[ (Q_i(s,a) - y)^2 ]
                  y = r + discount (1 - terminated) (min_i Q'_i(s',a') - T log pi(a'|s'))

in this order. Discrete actions are summed over with their probabilities, not drawn. Nothing keeps
pi near the log, so on a fixed log it over-estimates; cql is the remedy. Sources: Haarnoja et al.
2018, 1812.05905, eq. 5 to 7 and 17; Christodoulou 2019, 1910.07207, eq. 10 to 12. Deviations: see
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
from offrl.critics import SoftConfig, actor_critic, logged_value
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
    ] = 0.98

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
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
        if self.spec.discrete:
            return {}
        return {"here": (self.spec.action_dim,), "next": (self.spec.action_dim,)}

    @property
    def target_entropy(self) -> float:
        """In nats, of a whole action."""
        n = self.spec.action_dim
        if self.spec.discrete:
            return self.config.entropy_share * math.log(n)
        return self.config.dimension_entropy * n

    def expected(
        self, pi: Any, critic: Callable[..., Tensor], obs: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """E[log pi(a|s)] and E[min_i Q_i(s,a)] under pi, [B]: exact, or by one draw."""
        if self.spec.discrete:
            share = pi.log_probs.exp()
            return (share * pi.log_probs).sum(-1), (share * critic(obs).amin(0)).sum(-1)
        action, log_prob = pi.scored_sample(noise)
        return log_prob + pi.log_half, critic(obs, action).amin(0)

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """The policy's loss and the temperature's, neither with a gradient in the other."""
        pi, log_temperature = nets.policy(batch.obs), nets.log_temperature()
        log_prob, q = self.expected(pi, nets.critic, batch.obs, batch.noise.get("here"))
        loss, metrics = losses.soft_losses(log_prob, q, log_temperature, self.target_entropy)
        return loss, metrics | losses.departure(pi, batch.action)

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of every critic against the soft value of the next state."""
        with torch.no_grad():
            pi, noise = nets.policy(batch.next_obs), batch.noise.get("next")
            log_prob, q = self.expected(pi, nets.target_critic, batch.next_obs, noise)
            bonus = -nets.log_temperature().exp() * log_prob
            target = losses.td_target(
                batch.reward, q + bonus, batch.terminated, self.config.discount
            )
        loss, metrics = losses.critic_loss(logged_value(nets.critic, batch), target)
        return loss, metrics | {"critic/bonus": bonus.mean()}

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        both = ("policy", "log_temperature")
        learner, policy = learner.descend(both, self.policy_loss, batch)
        learner, critic = learner.descend("critic", self.critic_loss, batch)
        return learner.track("critic", learner.scalar("target_rate")), policy | critic

"""Conservative Q-learning: critics that are kept low where the log is silent.

    critics:  minimise  sum_i E_D[ (Q_i(s,a) - y)^2 ] + conservatism E_D[ G_i(s) - Q_i(s,a) ]

discrete:     G = log sum_a exp Q(s,a)          y = r + discount (1 - terminated) Q'(s', argmax Q)
              the policy is the action of the largest value, and its network is Q itself
continuous:   G = log sum_k exp(Q_i(s,a_k) - log p(a_k))    over `samples` actions a_k of each of
              the uniform distribution, pi(.|s) and pi(.|s')
              y = r + discount (1 - terminated) min_i Q'_i(s',a')     a' ~ pi(.|s'), no entropy
    policy:   minimise  E_D[ T log pi(a|s) - min_i Q_i(s,a) ]         a ~ pi, T learned as in sac

All losses are taken at the parameters before the step. Source: Kumar et al. 2020, 2006.04779,
eq. 4 and appendix F, and the authors' code. Deviations: see docs/algorithms/cql.md.
"""

import math
from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import TRACED, Algorithm, CriticConfig, Peers
from offrl.batch import Batch
from offrl.data.spec import Spec
from offrl.distributions import Squashed
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Critic, Scalar, policy_head


@dataclass(frozen=True, kw_only=True)
class CQLConfig(CriticConfig):
    """Settings of conservative Q-learning."""

    conservatism: Annotated[
        float,
        "Weight of keeping Q low off the log, against the squared error in units of reward.",
        Peers("cql_alpha", "min_q_weight", "alpha", "cql_min_q_weight", "conservative_weight"),
        TRACED,
    ] = 5.0
    samples: Annotated[
        int,
        "Continuous actions drawn from each of three distributions, to hold Q down at.",
        Peers("cql_n_actions", "n_action_samples", "num_repeat_actions", "num_random"),
    ] = 10
    policy_lr: Annotated[
        float, "Adam's learning rate of a continuous policy and its temperature.", Peers("actor_lr")
    ] = 1e-4
    dimension_entropy: Annotated[
        float,
        "Entropy aimed at of a dimension of a continuous action, in nats over [-1, 1].",
        Peers("target_entropy", conversion="ours is of one dimension"),
    ] = -1.0

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "conservatism": (self.conservatism >= 0, "0 or more"),
            "samples": (self.samples > 0, "at least 1"),
            "policy_lr": (0 < self.policy_lr < float("inf"), "above 0 and finite"),
            "dimension_entropy": (self.dimension_entropy < math.log(2), "below log 2"),
        }


@final
class CQL(Algorithm[CQLConfig]):
    """Learn values that are low for actions that the log lacks, and act by them."""

    name = "cql"
    summary = "Q-learning or soft actor-critic with values kept low off the log (conservative)."
    acts = "replay"
    Config = CQLConfig

    def __init__(self, config: CQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.targets = ("policy",) if spec.discrete else ("critic",)

    def networks(self) -> dict[str, nn.Module]:
        c, sizes = self.config, (self.spec.obs_dim, self.spec.action_dim)
        shape = (c.hidden_size, c.hidden_layers)
        if self.spec.discrete:
            return {"policy": policy_head("greedy", *sizes, *shape)}
        return {
            "policy": policy_head("squashed", *sizes, *shape),
            "critic": Critic(*sizes, *shape, c.critics, c.layer_norm),
            "log_temperature": Scalar(0.0),
        }

    def rates(self) -> dict[str, float]:
        if self.spec.discrete:
            return {}
        return dict.fromkeys(("policy", "log_temperature"), self.config.policy_lr)

    def draws(self) -> dict[str, tuple[int, ...]]:
        if self.spec.discrete:
            return {}
        one = (self.spec.action_dim,)
        many = dict.fromkeys(("uniform", "here", "next"), (self.config.samples, *one))
        return many | {"policy": one, "target": one}

    def value_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Discrete actions: the squared error to a double-DQN target, and conservatism."""
        pi = nets.policy(batch.obs)
        with torch.no_grad():
            best = nets.policy(batch.next_obs).mode()
            future = losses.chosen(nets.target_policy(batch.next_obs).value, best)
            target = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
        loss, metrics = self.conservative(
            nets, losses.chosen(pi.value, batch.action)[None], pi.value[None], target
        )
        return loss, metrics | {
            "policy/q_mean": pi.value.amax(-1).mean(),
            "policy/action_differs": losses.differing_share(pi.mode(), batch.action),
        }

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Continuous actions: the squared error to a sampled target, and conservatism."""
        with torch.no_grad():
            # What follows a terminal is no state: nothing is asked of it, not even actions.
            ended = batch.terminated[:, None] > 0
            next_obs = torch.where(ended, batch.obs, batch.next_obs)
            here, then = nets.policy(batch.obs), nets.policy(next_obs)
            next_action = then.sample(batch.noise["target"])
            future = nets.target_critic(next_obs, next_action).amin(0)
            target = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
            actions, log_density = candidates(here, then, batch.noise)
        k, n, width = actions.shape
        obs = batch.obs.expand(k, n, -1)
        q = nets.critic(obs.reshape(k * n, -1), actions.reshape(k * n, width)).unflatten(1, (k, n))
        values = (q - log_density).movedim(1, -1)
        return self.conservative(nets, nets.critic(batch.obs, batch.action), values, target)

    def conservative(
        self, nets: Nets, logged: Tensor, values: Tensor, target: Tensor
    ) -> tuple[Tensor, Metrics]:
        """Of logged actions' values [M, B], others' [M, B, K] and their target [B]."""
        error, metrics = losses.critic_loss(logged, target)
        gap = losses.conservative_gap(values, logged).mean(-1)
        loss = error + nets.scalar("conservatism") * gap.sum()
        return loss, metrics | {
            "critic/loss": loss,
            "critic/squared_error": error,
            "critic/gap": gap.mean(),
        }

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """The policy's loss and the temperature's, neither with a gradient in the other."""
        pi, log_temperature = nets.policy(batch.obs), nets.log_temperature()
        action, log_density = pi.scored_sample(batch.noise["policy"])
        q, log_prob = nets.critic(batch.obs, action).amin(0), log_density + pi.log_half
        policy = losses.soft_policy_loss(log_prob, q, log_temperature)
        aim = self.config.dimension_entropy * self.spec.action_dim
        temperature = losses.temperature_loss(log_temperature, log_prob, aim)
        half = (pi.high - pi.low) / 2
        return policy + temperature, {
            "policy/loss": policy,
            "policy/q_mean": q.mean(),
            "policy/entropy": -log_prob.mean(),
            "policy/action_distance": losses.action_distance(pi.mode(), batch.action, half),
            "temperature/loss": temperature,
            "temperature/value": log_temperature.exp(),
        }

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        rate, before = learner.scalar("target_rate"), learner
        if self.spec.discrete:
            learner, metrics = learner.descend("policy", self.value_loss, batch)
            return learner.track("policy", rate), metrics
        both = ("policy", "log_temperature")
        learner, policy = learner.descend(both, self.policy_loss, batch)
        learner, critic = learner.descend("critic", self.critic_loss, batch, at=before)
        return learner.track("critic", rate), policy | critic


def candidates(here: Squashed, then: Squashed, noise: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Actions [3 N, B, A] to hold Q down at, and their log densities [3 N, B] over [-1, 1].

    N are uniform, N of pi(.|s), and N of pi(.|s'), all of them taken as actions in s.
    """
    draws = {name: z.movedim(1, 0) for name, z in noise.items() if z.ndim == 3}
    share = torch.special.ndtr(draws["uniform"])
    uniform = here.low + (here.high - here.low) * share
    flat = torch.full_like(share[..., 0], -math.log(2) * share.shape[-1])
    mine, mine_density = here.scored_sample(draws["here"])
    next_, next_density = then.scored_sample(draws["next"])
    actions = torch.cat([uniform, mine, next_])
    return actions, torch.cat([flat, mine_density + here.log_half, next_density + here.log_half])

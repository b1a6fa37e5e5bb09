"""What cql and cal-ql share: a soft policy, actions to hold Q down at, and the penalty's weight.

Discrete actions: the policy takes the action of the largest value, and its network is Q itself.
Continuous ones: pi is that of sac with a smaller learning rate, the critics' target has no entropy,
and all losses are taken at the parameters before the step.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import TRACED, Algorithm, Peers
from offrl.batch import Batch
from offrl.critics import SoftConfig, actor_critic, counted, member_draws
from offrl.data.spec import Spec
from offrl.distributions import Squashed
from offrl.learner import Learner, Metrics, Nets
from offrl.nn import Scalar, policy_head


@dataclass(frozen=True, kw_only=True)
class ConservativeConfig(SoftConfig):
    """Settings of every algorithm that keeps Q low off the log."""

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

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "conservatism": (self.conservatism >= 0, "0 or more"),
            "samples": (self.samples > 0, "at least 1"),
            "policy_lr": (0 < self.policy_lr < float("inf"), "above 0 and finite"),
        }


K = TypeVar("K", bound=ConservativeConfig)


class Conservative(Algorithm[K]):
    """Soft actor-critic, or double DQN for discrete actions, around losses of the critics."""

    acts = "replay"

    def __init__(self, config: K, spec: Spec) -> None:
        super().__init__(config, spec)
        self.targets = ("policy",) if spec.discrete else ("critic",)

    @abstractmethod
    def value_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """The critics' loss for discrete actions; the network is "policy"."""

    @abstractmethod
    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """The critics' loss for continuous actions."""

    def networks(self) -> dict[str, nn.Module]:
        c, spec = self.config, self.spec
        if spec.discrete:
            sizes = (spec.obs_dim, spec.action_dim, c.hidden_size, c.hidden_layers)
            return {"policy": policy_head("greedy", *sizes)}
        return {**actor_critic(c, spec, "squashed"), "log_temperature": Scalar(0.0)}

    def rates(self) -> dict[str, float]:
        if self.spec.discrete:
            return {}
        return dict.fromkeys(("policy", "log_temperature"), self.config.policy_lr)

    def draws(self) -> dict[str, tuple[int, ...]]:
        if self.spec.discrete:
            return {}
        one = (self.spec.action_dim,)
        many = dict.fromkeys(("uniform", "here", "next"), (self.config.samples, *one))
        return many | {"policy": one, "target": one} | member_draws(self.config)

    def greedy_target(self, nets: Nets, batch: Batch) -> Tensor:
        """[B], discrete actions: the target of double DQN (1509.06461, eq. 4)."""
        with torch.no_grad():
            best = nets.policy(batch.next_obs).mode()
            future = losses.chosen(nets.target_policy(batch.next_obs).value, best)
            return losses.td_target(batch.reward, future, batch.terminated, self.config.discount)

    def drawn(self, nets: Nets, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Continuous actions: the target [B], from one a' ~ pi(.|s'), and `candidates`."""
        with torch.no_grad():
            # What follows a terminal is no state: nothing is asked of it, not even actions.
            ended = batch.terminated[:, None] > 0
            next_obs = torch.where(ended, batch.obs, batch.next_obs)
            here, then = nets.policy(batch.obs), nets.policy(next_obs)
            next_action = then.sample(batch.noise["target"])
            members = counted(self.config, batch)
            future = nets.target_critic(next_obs, next_action, members).amin(0)
            target = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
            return target, *candidates(here, then, batch.noise)

    def penalised(
        self, nets: Nets, logged: Tensor, values: Tensor, target: Tensor
    ) -> tuple[Tensor, Metrics]:
        """Error and penalty of logged actions' values [M, B], others' [M, B, K], a target [B]."""
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
        q = losses.pooled(nets.critic(batch.obs, action), self.config.follow_mean)
        log_prob = log_density + pi.log_half
        aim = self.config.dimension_entropy * self.spec.action_dim
        loss, metrics = losses.soft_losses(log_prob, q, log_temperature, aim)
        return loss, metrics | losses.departure(pi, batch.action)

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


def asked(critic: Callable[..., Tensor], obs: Tensor, actions: Tensor) -> Tensor:
    """[M, K, B], what critics say of K actions [K, B, A] in each state [B, obs_dim]."""
    k, n, width = actions.shape
    states = obs.expand(k, n, -1).reshape(k * n, -1)
    return critic(states, actions.reshape(k * n, width)).unflatten(1, (k, n))

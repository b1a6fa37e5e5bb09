"""Fitted Q evaluation: what a given policy pi is worth, learned from the log of another.

    minimise  sum_i E_D[ (Q_i(s,a) - y)^2 ]
    y = r + discount (1 - terminated) E_pi[ mean_i Q'_i(s',a') ]           pi never moves
    value = mean over the first observations of episodes of E_pi[ mean_i Q_i(s,a) ]

Discrete actions are summed over with pi's probabilities; of continuous ones `samples` are drawn.
Critics are averaged: their least would judge too low. Q' moves by `target_rate` every
`target_period` gradient steps. Source: Le, Voloshin & Yue 2019, 1903.08738, algorithm 3.
Deviations: see docs/algorithms/fqe.md.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, final

import torch
from torch import Tensor, nn

from offrl import losses
from offrl.algorithm import TRACED, Algorithm, Peers
from offrl.batch import Batch, Table
from offrl.critics import CriticConfig, critics, logged_value
from offrl.distributions import Deterministic
from offrl.errors import ConfigError
from offrl.learner import Learner, Metrics, Nets

ROOM = 0.1  # of the range of possible returns, by which a target may miss it


@dataclass(frozen=True, kw_only=True)
class FQEConfig(CriticConfig):
    """Settings of fitted Q evaluation."""

    policy: Annotated[str, "The run whose policy is judged: RUN, or RUN/seed_3."] = ""
    acts: Annotated[
        Literal["mode", "sample"],
        "How it acts: its likeliest action, as `offrl eval` plays it, or its own distribution.",
    ] = "mode"
    samples: Annotated[
        int, "Continuous actions that a target averages over.", Peers("n_action_samples")
    ] = 1
    target_period: Annotated[
        int,
        "Gradient steps from one move of the target to the next.",
        Peers("target_update_interval", "target_update_freq"),
    ] = 1
    clip_targets: Annotated[
        bool, "Keep targets within what the rewards of the data can add up to."
    ] = True
    lr: Annotated[float, "Adam's learning rate.", Peers("learning_rate"), TRACED] = 1e-4

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "samples": (self.samples > 0, "at least 1"),
            "target_period": (self.target_period > 0, "at least 1"),
        }


@final
class FQE(Algorithm[FQEConfig]):
    """Learn Q of a policy that never moves."""

    name = "fqe"
    summary = "Judge the policy of a run from logged data alone (fitted Q evaluation)."
    targets = ("critic",)
    reports = ("fqe/value", "fqe/spread")
    judges = True
    Config = FQEConfig

    def networks(self) -> dict[str, nn.Module]:
        if self.policy is None:
            raise ConfigError("fqe judges a policy, and none was given.", "Give policy=MODULE.")
        return {"critic": critics(self.config, self.spec), "policy": copy.deepcopy(self.policy)}

    def draws(self) -> dict[str, tuple[int, ...]]:
        if self.spec.discrete or self.config.acts == "mode":
            return {}
        return {"next": (self.config.samples, self.spec.action_dim)}

    def scalars(self) -> dict[str, float]:
        return {"lowest": float("-inf"), "highest": float("inf")}

    def refreshes(self, step: int) -> bool:
        return step == 0

    def turn(self, learner: Learner, table: Table, step: int) -> Learner:
        """Take down what returns are possible; an episode may also end after one reward."""
        if not self.config.clip_targets or self.config.discount == 1:
            return learner
        low, high = table.reward.min(), table.reward.max()
        horizon = 1 / (1 - self.config.discount)
        return learner.note(
            lowest=torch.minimum(low, low * horizon), highest=torch.maximum(high, high * horizon)
        )

    def expected(
        self, pi: Any, critic: Callable[..., Tensor], obs: Tensor, noise: Tensor | None
    ) -> Tensor:
        """[M, B], E[Q(s,a)] under pi: exact, or by the draws [B, samples, A]."""
        if self.spec.discrete:
            values = critic(obs)
            if self.config.acts == "mode":
                return losses.chosen(values, pi.mode())
            return (pi.log_probs.exp() * values).sum(-1)
        if noise is None or isinstance(pi, Deterministic):
            return critic(obs, pi.mode())
        action = pi.sample(noise.movedim(1, 0))
        k, n, width = action.shape
        obs = obs.expand(k, n, -1).reshape(k * n, -1)
        return critic(obs, action.reshape(k * n, width)).unflatten(1, (k, n)).mean(1)

    def critic_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of every critic against the mean of the target critics under pi."""
        with torch.no_grad():
            pi, noise = nets.policy(batch.next_obs), batch.noise.get("next")
            future = self.expected(pi, nets.target_critic, batch.next_obs, noise).mean(0)
            plain = losses.td_target(batch.reward, future, batch.terminated, self.config.discount)
            lowest, highest = nets.scalar("lowest"), nets.scalar("highest")
            target = torch.clamp(plain, lowest, highest)
            # A value at an end of what is possible is missed to both sides: that is no divergence.
            room = ROOM * (highest - lowest)
            beyond = (plain < lowest - room) | (plain > highest + room)
            mine = nets.policy(batch.obs).mode()
        if self.spec.discrete:
            far = {"policy/action_differs": losses.differing_share(mine, batch.action)}
        else:
            half = (nets.buffer("critic", "action_high") - nets.buffer("critic", "action_low")) / 2
            far = {"policy/action_distance": losses.action_distance(mine, batch.action, half)}
        loss, metrics = losses.critic_loss(logged_value(nets.critic, batch), target)
        return loss, metrics | far | {"critic/clipped": beyond.to(loss).mean()}

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        learner, metrics = learner.descend("critic", self.critic_loss, batch)
        if stage == "target":
            learner = learner.track("critic", learner.scalar("target_rate"))
        return learner, metrics

    def stage(self, step: int) -> str:
        return "target" if (step + 1) % self.config.target_period == 0 else "update"

    def findings(self, nets: Nets, table: Table) -> Metrics:
        """The policy's value at the first observation of every episode, averaged, by the mean of
        the critics, and the standard deviation among them."""
        obs = table.observations[table.obs_row[table.starts[:-1]]]
        noise = None
        if draws := self.draws():  # the same at every step, so that values compare
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(len(obs), *draws["next"], generator=generator).to(obs)
        with torch.no_grad():
            value = self.expected(nets.policy(obs), nets.critic, obs, noise).mean(1)
        return {"fqe/value": value.mean(), "fqe/spread": value.std(correction=0)}

"""Importance-weighted policy gradient on logged data, from the plain ratio to PPO's clip.

    ratio = pi(a|s) / mu(a|s);   maximise over logged (s, a), with A of mu fixed:

    ratio        E[ratio A]                                 unbounded; it needs a stop
    kl-forward   E[ratio A] - kl_coefficient KL(mu || pi)
    kl-reverse   E[ratio A] - kl_coefficient KL(pi || mu)
    naive-clip   E[clip(ratio, 1 - clip_low, 1 + clip_high) A]
    clip         E[min(ratio A, clip(ratio, ...) A)], and not below dual_clip A where A < 0

The lecture's option 1: states and advantages of mu. Stages: a fitted mu, at which pi starts
(offrl/behavior.py); A (offrl/advantages.py); then pi to the end of the run, or until it is frozen
(offrl/freezing.py). Sources: Schulman et al. 2017, 1707.06347 (clip, adaptive KL); Yu et al. 2025,
2503.14476 (asymmetric clip); Ye et al. 2020, 1912.09729 (dual clip). See docs/algorithms/iwpg.md.
"""

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal, final

import torch
from torch import Tensor, nn

from offrl import freezing, losses, ratios
from offrl.advantages import AdvantageConfig, Advantages
from offrl.algorithm import TRACED, Peers
from offrl.batch import Batch, Table
from offrl.behavior import Behavior, BehaviorConfig
from offrl.data.spec import Spec
from offrl.distributions import Categorical
from offrl.freezing import FreezingConfig
from offrl.learner import Learner, Metrics, Nets
from offrl.lessons import Phase, RolloutAlgorithm
from offrl.nn import policy_head


@dataclass(frozen=True, kw_only=True)
class IWPGConfig(AdvantageConfig, BehaviorConfig, FreezingConfig):
    """Settings of the importance-weighted policy gradient."""

    objective: Annotated[
        Literal["ratio", "kl-forward", "kl-reverse", "naive-clip", "clip"],
        "What is maximised; kl-forward is KL(mu || pi), kl-reverse KL(pi || mu).",
    ] = "clip"
    clip_low: Annotated[
        float,
        "A ratio below 1 - clip_low is clipped.",
        Peers("eps_clip", "clip_range", "clip_param", "epsilon_low", "clip_ratio_low"),
        TRACED,
    ] = 0.2
    clip_high: Annotated[
        float,
        "A ratio above 1 + clip_high is clipped.",
        Peers("epsilon_high", "clip_ratio_high"),
        TRACED,
    ] = 0.2
    dual_clip: Annotated[
        float, "Ratio that counts at most against a bad action; 0: any.", Peers("clip_ratio_c")
    ] = 3.0
    kl_coefficient: Annotated[
        float, "Weight of the divergence in kl-forward, kl-reverse.", Peers("kl_coef", "kl_coeff")
    ] = 1.0
    kl_target: Annotated[
        float, "Divergence to which that weight adapts; 0 keeps it.", Peers("d_targ", "kl_targ")
    ] = 0.0
    entropy_weight: Annotated[
        float,
        "Weight of the policy's entropy in the objective.",
        Peers("ent_coef", "entropy_coef", "entropy_coeff", "entropy_cost"),
        TRACED,
    ] = 0.0
    max_norm: Annotated[
        float, "Longest gradient of the policy.", Peers("max_grad_norm", "grad_clip")
    ] = 0.5

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "clip_low": (self.clip_low >= 0, "0 or more"),
            "clip_high": (self.clip_high >= 0, "0 or more"),
            "dual_clip": (self.dual_clip == 0 or self.dual_clip > 1, "0, or above 1"),
            "kl_coefficient": (self.kl_coefficient >= 0, "0 or more"),
            "kl_target": (self.kl_target >= 0, "0 or more"),
            "entropy_weight": (self.entropy_weight >= 0, "0 or more"),
            "max_norm": (self.max_norm > 0, "above 0"),
        }


@final
class IWPG(RolloutAlgorithm[IWPGConfig]):
    """Make actions that were better than usual more likely, no further than the log can tell."""

    name = "iwpg"
    summary = "Policy gradient on logged actions, weighted by pi/mu: plain, with KL, or PPO's clip."
    acts = "rollout"
    of_log = (
        "behavior", "behavior_steps", "check_steps", "check_share", "stop_ess", "stop_patience",
        "advantage", "value_steps", "value_refits", "q_steps",
    )  # fmt: skip
    online = MappingProxyType({"batch_size": 64})
    Config = IWPGConfig

    def __init__(self, config: IWPGConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.behavior, self.advantages = Behavior(config), Advantages(config, spec)
        self.begins = config.behavior_steps + self.advantages.steps  # the policy's first step

    def networks(self) -> dict[str, nn.Module]:
        head = "categorical" if self.spec.discrete else "gaussian"
        sizes = (self.config.hidden_size, self.config.hidden_layers)
        shape = (self.spec.obs_dim, self.spec.action_dim, *sizes)
        policy = {"policy": policy_head(head, *shape)}
        return policy | self.advantages.networks() | {"behavior": policy_head(head, *shape)}

    def scalars(self) -> dict[str, float]:
        coefficient = {"coefficient": self.config.kl_coefficient}
        return {"best_log_prob": 0.0, **coefficient, **freezing.scalars()}

    def objective(self, nets: Nets, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """What is maximised, 0-d, from log ratios and advantages [B]."""
        c, ratio = self.config, log_ratio.exp()
        low, high = nets.scalar("clip_low"), nets.scalar("clip_high")
        if c.objective == "naive-clip":
            return ratios.naive_clip(ratio, advantage, low, high).mean()
        if c.objective == "clip":
            rows = ratios.min_clip(ratio, advantage, low, high)
            rows = ratios.dual_clip(rows, advantage, c.dual_clip) if c.dual_clip else rows
            return rows.mean()
        surrogate = (ratio * advantage).mean()
        if c.objective == "ratio":
            return surrogate
        forward = c.objective == "kl-forward"
        penalty = ratios.kl_forward(log_ratio) if forward else ratios.kl_reverse(log_ratio)
        return surrogate - nets.scalar("coefficient") * penalty.mean()

    def policy_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Minus the objective on logged rows, where the fitted mu stands in for what is NaN."""
        pi, logged = nets.policy(batch.obs), batch.columns["log_mu"]
        with torch.no_grad():
            mu = nets.behavior(batch.obs)
            log_mu = torch.where(logged.isnan(), mu.log_prob(batch.action), logged)
        loss, metrics = self._loss(nets, batch, pi, log_mu)
        return loss, metrics | {
            "policy/kl_fitted_forward": _divergence(mu, pi),
            "policy/kl_fitted_reverse": _divergence(pi, mu),
            "policy/mu_estimated": logged.isnan().to(loss.dtype).mean(),
        }

    def rollout_loss(self, nets: Nets, batch: Batch) -> tuple[Tensor, Metrics]:
        """Minus the objective, where mu(a|s) of every row is known."""
        return self._loss(nets, batch, nets.policy(batch.obs), batch.columns["log_mu"])

    def _loss(self, nets: Nets, batch: Batch, pi: Any, log_mu: Tensor) -> tuple[Tensor, Metrics]:
        """Minus the objective, and what tells how far the policy is from mu."""
        advantage, entropy = batch.columns["advantage"], pi.entropy()
        # Both sides score the executed action: a density inside the bounds, the tail's mass at one.
        log_ratio = ratios.log_ratio(pi.log_prob(batch.action), log_mu)
        loss = -self.objective(nets, log_ratio, advantage)
        loss = loss - nets.scalar("entropy_weight") * entropy
        ratio, low, high = log_ratio.exp(), nets.scalar("clip_low"), nets.scalar("clip_high")
        shares = ratios.clipped_shares(ratio, advantage, low, high)
        return loss, {
            "policy/loss": loss,
            "policy/surrogate": (ratio * advantage).mean(),
            "policy/ratio_mean": ratio.mean(),
            "policy/ratio_error": ratio.std(correction=0) / len(ratio) ** 0.5,
            "policy/ratio_max": ratio.max(),
            "policy/ess": losses.effective_share(ratio),
            **{f"policy/clipped_{name}": share for name, share in shares.items()},
            "policy/kl_forward": ratios.kl_forward(log_ratio).mean(),
            "policy/kl_forward_k1": ratios.kl_k1(log_ratio).mean(),
            "policy/kl_reverse": ratios.kl_reverse(log_ratio).mean(),
            "policy/entropy": entropy,
        }

    def update(self, learner: Learner, batch: Batch, stage: str) -> tuple[Learner, Metrics]:
        if stage == "behavior":
            return learner.descend("behavior", self.behavior.loss, batch)
        if stage not in ("policy", "rollout"):
            return self.advantages.update(learner, batch, stage)
        loss = self.policy_loss if stage == "policy" else self.rollout_loss
        rate = (learner.scalar("stopped") == 0).to(batch.reward.dtype)
        learner, metrics = learner.descend(
            "policy", loss, batch, max_norm=self.config.max_norm, rate=rate
        )
        running = {f"policy/{name}": learner.scalar(name) for name in ("coefficient", "stopped")}
        if stage == "rollout":
            return learner, metrics | running
        told = ("kl_forward", "ess", "ratio_mean", "surrogate")
        checks = {f"check/{name}": learner.scalar(f"check_{name}") for name in told}
        return learner, metrics | checks | running

    def least_steps(self) -> int:
        return self.begins + 1

    def shortened(self, steps: int) -> IWPGConfig:
        short: dict[str, Any] = self.advantages.shortened(steps // 5)
        behavior_steps = max(1, steps * 2 // 5)
        check_steps = max(1, min(self.config.check_steps, behavior_steps // 10))
        return replace(self.config, **short, behavior_steps=behavior_steps, check_steps=check_steps)

    def stage(self, step: int) -> str:
        into = step - self.config.behavior_steps
        if into < 0:
            return "behavior"
        return self.advantages.stage(into) if step < self.begins else "policy"

    def refreshes(self, step: int) -> bool:
        into = step - self.config.behavior_steps
        if into < 0:
            return step % self.config.check_steps == 0
        if step < self.begins:
            return self.advantages.refreshes(into)
        return (step - self.begins) % self.config.check_steps == 0

    def rows(self, table: Table) -> Tensor | None:
        return self.behavior.learned_rows(table)

    def columns(self, learner: Learner, table: Table, step: int) -> dict[str, Tensor]:
        first = step <= self.config.behavior_steps
        found = self.advantages.columns(learner, table, first=first)
        return {**found, "log_mu": self.behavior.log_mu(table)}

    def turn(self, learner: Learner, table: Table, step: int) -> Learner:
        """Keep the best mu so far in the policy's place, and then check how far the policy went."""
        if step <= self.config.behavior_steps:
            return self.behavior.keep_best(learner, table, step)
        if step < self.begins:
            return learner
        columns = self.columns(learner, table, step)
        with torch.no_grad():
            batch = table.gather(self.behavior.checked_rows(table), columns, {})
            _, found = self.policy_loss(learner.nets, batch)
        learner = freezing.judge(learner, self.config, found, step, first=step == self.begins)
        if self.config.kl_target:
            name = self._divergence_of()
            return freezing.adapted_coefficient(learner, self.config.kl_target, name)
        return learner

    def _divergence_of(self) -> str:
        """The divergence that `kl_target` is about."""
        return "kl_reverse" if self.config.objective == "kl-reverse" else "kl_forward"

    def lesson(self, minibatches: int, epochs: int) -> list[Phase]:
        policy = Phase("rollout", minibatches, mixed=True)
        return [*[policy] * epochs, Phase("value", minibatches * epochs)]

    def fresh_columns(self, learner: Learner, table: Table) -> dict[str, Tensor]:
        found = self.advantages.columns(learner, table, lived=True)
        return {**found, "log_mu": table.behavior_log_prob}

    def logged_columns(self, learner: Learner, table: Table) -> dict[str, Tensor]:
        logged = self.behavior.log_mu(table)
        fitted = self.behavior.fitted(learner, table) if bool(logged.isnan().any()) else logged
        log_mu = torch.where(logged.isnan(), fitted, logged)
        return {**self.advantages.columns(learner, table), "log_mu": log_mu}

    def reflect(self, learner: Learner, rollout: Batch, stage: str) -> Learner:
        """Stop the policy for the rest of a lesson once it has gone `stop_kl` from mu."""
        with torch.no_grad():
            _, found = self.rollout_loss(learner.nets, rollout)
        if stage == "rollout":
            far = found["policy/kl_forward"] >= (self.config.stop_kl or math.inf)
            return learner.note(stopped=far.to(rollout.reward.dtype))
        if self.config.kl_target:
            divergence = found[f"policy/{self._divergence_of()}"]
            weight = learner.scalar("coefficient")
            weight = ratios.adapted(weight, divergence, self.config.kl_target)
            return learner.note(coefficient=weight)
        return learner

    def facts(self, table: Table) -> dict[str, str]:
        return self.behavior.facts(table)

    def remarks(self, learner: Learner) -> tuple[str, ...]:
        return freezing.remarks(learner, self.config)

    def warnings(self, learner: Learner) -> tuple[str, ...]:
        return freezing.warnings(learner)

    def holdout(self, nets: Nets, batch: Batch) -> Metrics:
        return {"holdout/log_prob": nets.policy(batch.obs).log_prob(batch.action).mean()}


def _divergence(p: Any, q: Any) -> Tensor:
    """KL(p || q) of two heads, exact; of Gaussians before they are clipped to the bounds."""
    if isinstance(p, Categorical):
        return ratios.kl_categorical(p.log_probs, q.log_probs).mean()
    return ratios.kl_gaussian(p.mean, p.std, q.mean, q.std).mean()

"""When a policy that is trained on ratios must stop: it has left the log, or gains nothing more.

Judged on episodes set aside, between gradient steps, and kept in the state's scalars: once
`stopped` is not 0 the policy is frozen. Divergence and effective sample size count against what
they were at the start, where a head that cannot be mu is already some way from it.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from offrl import ratios
from offrl.algorithm import AlgorithmConfig, Peers
from offrl.learner import Learner, Metrics

HIGHEST_MEAN, LOWEST_MEAN = 1.1, 0.7  # of the first ratios, with five standard errors to spare

REASONS = {
    1: "KL(mu || pi) had grown by {:.3g} since the start, more than stop_kl = {:g}",
    2: "the effective sample size was down to {:.2g} of that at the start, below stop_ess = {:g}",
    3: "the objective on episodes set aside had not grown for {:.0f} checks, stop_patience = {:g}",
}


@dataclass(frozen=True, kw_only=True)
class FreezingConfig(AlgorithmConfig):
    """Settings that decide when the policy is frozen."""

    stop_kl: Annotated[
        float, "KL(mu || pi) gained at which the policy is frozen; 0 is never.", Peers("target_kl")
    ] = 0.05
    stop_ess: Annotated[
        float, "Share left of the effective sample size at which it is frozen; 0 is never."
    ] = 0.5
    stop_patience: Annotated[
        int, "Checks without a better objective at which it is frozen; 0 is never."
    ] = 10

    def rules(self) -> dict[str, tuple[bool, str]]:
        return super().rules() | {
            "stop_kl": (self.stop_kl >= 0, "0 or more"),
            "stop_ess": (0 <= self.stop_ess < 1, "from 0 to below 1"),
            "stop_patience": (self.stop_patience >= 0, "0 or more"),
        }


# name of the scalar -> the metric that it is taken from, on the episodes set aside
CHECKS = {
    "kl_forward": "policy/kl_forward",
    "kl_reverse": "policy/kl_reverse",
    "ess": "policy/ess",
    "ratio_mean": "policy/ratio_mean",
    "ratio_error": "policy/ratio_error",
    "surrogate": "policy/surrogate",
    "loss": "policy/loss",
}


def scalars() -> dict[str, float]:
    """The running numbers that a judgement needs and leaves."""
    return {
        **{f"check_{name}": 0.0 for name in CHECKS},  # at the last check
        **{f"start_{name}": 0.0 for name in CHECKS},  # at the first
        "best_loss": 0.0,
        "waited": 0.0,  # checks since the best
        "stopped": 0.0,  # a key of REASONS, once it is
        "stopped_at": 0.0,  # the gradient step
    }


def judge(
    learner: Learner, config: FreezingConfig, found: Metrics, step: int, *, first: bool
) -> Learner:
    """Note what a check before `step` has `found`, and whether that freezes the policy."""
    now = {name: found[metric] for name, metric in CHECKS.items()}
    learner = learner.note(**{f"check_{name}": value for name, value in now.items()})
    loss = now["loss"]
    if first:
        # Cloned, since one tensor under two names is another graph once they part.
        start = {f"start_{name}": value.clone() for name, value in now.items()}
        return learner.note(**start, best_loss=loss.clone(), waited=torch.zeros_like(loss))
    if bool(learner.scalar("stopped")):
        return learner
    best, waited = learner.scalar("best_loss"), learner.scalar("waited")
    learner = learner.note(
        best_loss=torch.minimum(loss, best),
        waited=torch.where(loss < best, torch.zeros_like(waited), waited + 1),
    )
    for reason, (value, limit, above) in _limits(learner, config).items():
        if limit and bool(value >= limit if above else value < limit):
            numbers = (torch.full_like(loss, float(n)) for n in (reason, step))
            stopped, stopped_at = numbers
            return learner.note(stopped=stopped, stopped_at=stopped_at)
    return learner


def gained(learner: Learner, name: str) -> Tensor:
    """How much a divergence has grown since the first check."""
    return learner.scalar(f"check_{name}") - learner.scalar(f"start_{name}")


def _limits(learner: Learner, config: FreezingConfig) -> dict[int, tuple[Tensor, float, bool]]:
    left = learner.scalar("check_ess") / learner.scalar("start_ess")
    return {
        1: (gained(learner, "kl_forward"), config.stop_kl, True),
        2: (left, config.stop_ess, False),
        3: (learner.scalar("waited"), float(config.stop_patience), True),
    }


def adapted_coefficient(learner: Learner, target: float, name: str) -> Learner:
    """Double or halve the scalar `coefficient` after the divergence that a check has found."""
    now = ratios.adapted(learner.scalar("coefficient"), gained(learner, name), target)
    return learner.note(coefficient=now)


def remarks(learner: Learner, config: FreezingConfig) -> tuple[str, ...]:
    """At which step the policy was frozen, and why."""
    reason = int(learner.scalar("stopped"))
    if not reason:
        return ()
    value, limit, _ = _limits(learner, config)[reason]
    why = REASONS[reason].format(float(value), limit)
    return (f"The policy is frozen since step {int(learner.scalar('stopped_at'))}: {why}.",)


def warnings(learner: Learner) -> tuple[str, ...]:
    """Whether the first mean ratio is not 1, as that of any policy to the one that acted is.

    The policy is the fitted behaviour then, so that few of its actions lie where the one that acted
    has none; the bounds allow for those, and five standard errors for chance.
    """
    mean, error, ess = (
        float(learner.scalar(f"start_{name}")) for name in ("ratio_mean", "ratio_error", "ess")
    )
    if mean - 5 * error <= HIGHEST_MEAN and mean + 5 * error >= LOWEST_MEAN:
        return ()
    return (
        f"The mean ratio is {mean:.3g}, where it should be 1, at an effective sample size of"
        f" {ess:.2g} of the data: either the logged probabilities do not belong to these actions,"
        " or those who acted kept to so few actions (or so often to the bounds) that the policy"
        " mostly acts where they did not. Use --behavior fitted.",
    )

"""The maths of importance ratios: objectives, divergences and what tells that they went wrong.

ratio = pi(a|s) / mu(a|s), of actions drawn from mu; its mean is 1 whatever pi is
"""

import torch
from torch import Tensor

LARGEST_LOG = 20.0  # of a ratio, either way: its square is still a float32


def log_ratio(log_prob: Tensor, behavior_log_prob: Tensor) -> Tensor:
    """log pi(a|s) - log mu(a|s), kept within +-20; no gradient flows where it would leave."""
    return (log_prob - behavior_log_prob).clamp(-LARGEST_LOG, LARGEST_LOG)


def naive_clip(
    ratio: Tensor, advantage: Tensor, low: Tensor | float, high: Tensor | float
) -> Tensor:
    """clip(ratio, 1 - low, 1 + high) A, per row: no gradient out of range, whatever the sign of A.

    The lecture's first clipped objective, before the minimum is taken.
    """
    return _clipped(ratio, low, high) * advantage


def min_clip(ratio: Tensor, advantage: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """min(ratio A, clip(ratio, 1 - low, 1 + high) A), per row (PPO, 1707.06347, eq. 7).

    A good action that became unlikely and a bad one that became likely keep their gradient.
    """
    return torch.minimum(ratio * advantage, naive_clip(ratio, advantage, low, high))


def dual_clip(objective: Tensor, advantage: Tensor, limit: float) -> Tensor:
    """max(objective, limit A) where A < 0 (Ye et al. 2020, 1912.09729, eq. 5): bounded below.

    Without it a bad action that pi made likely has a gradient that grows with its ratio.
    """
    return torch.where(advantage < 0, torch.maximum(objective, limit * advantage), objective)


def clipped_shares(
    ratio: Tensor, advantage: Tensor, low: Tensor | float, high: Tensor | float
) -> dict[str, Tensor]:
    """Shares of rows out of range, of those with A > 0 and of those with A < 0.

    PPO's minimum gives no gradient to the good above and the bad below, and to the others it does.
    """
    below, above = ratio < 1 - low, ratio > 1 + high
    good, bad = advantage > 0, advantage < 0
    return {
        "good_above": _share(above, good),
        "good_below": _share(below, good),
        "bad_above": _share(above, bad),
        "bad_below": _share(below, bad),
    }


def kl_k1(log_ratio: Tensor) -> Tensor:
    """-log ratio, per row: its mean over mu is KL(mu || pi), unbiased; may be negative."""
    return -log_ratio


def kl_forward(log_ratio: Tensor) -> Tensor:
    """ratio - 1 - log ratio, per row, never negative: its mean over mu is KL(mu || pi).

    Called k3 (Schulman, "Approximating KL divergence"). The actions do not depend on pi here, so
    its gradient is unbiased too; it is 0 where pi = mu, row by row, which that of k1 is not.
    """
    return torch.expm1(log_ratio) - log_ratio


def kl_reverse(log_ratio: Tensor) -> Tensor:
    """ratio log ratio - ratio + 1, per row, never negative: its mean over mu is KL(pi || mu).

    The last two terms have the mean 0 and take the noise away at pi = mu, as in k3.
    """
    return log_ratio.exp() * log_ratio - torch.expm1(log_ratio)


def kl_categorical(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), [B], of log-probabilities [B, n]."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def kl_gaussian(mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor) -> Tensor:
    """KL(p || q), [B], of independent normals [B, A]; clipping both can only make it smaller."""
    shift = ((mean_p - mean_q) / std_q).square()
    spread = (std_p / std_q).square()
    return 0.5 * (spread + shift - 1 - spread.log()).sum(-1)


def adapted(coefficient: Tensor, divergence: Tensor, target: float) -> Tensor:
    """Twice the coefficient above 1.5 targets, half of it below target / 1.5 (PPO, section 4)."""
    grown = torch.where(divergence > 1.5 * target, coefficient * 2, coefficient)
    return torch.where(divergence < target / 1.5, coefficient / 2, grown)


def _clipped(ratio: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    low, high = (torch.as_tensor(x, dtype=ratio.dtype, device=ratio.device) for x in (low, high))
    return torch.clamp(ratio, 1 - low, 1 + high)


def _share(event: Tensor, among: Tensor) -> Tensor:
    return (event & among).sum() / among.sum().clamp(min=1)

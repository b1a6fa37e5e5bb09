"""The maths of every algorithm: pure functions of tensors, each with its source."""

import math
from typing import Any

import torch
from torch import Tensor


def discounted_sums(x: Tensor, carry: Tensor) -> Tensor:
    """y[t] = x[t] + carry[t] * y[t + 1], for all t at once; carry is 0 where an episode ends.

    Doubling (Hillis & Steele 1986): each pass joins neighbouring segments, so an episode of T
    steps needs log2(T) passes over whole columns and no loop over steps.
    """
    total, carry = x.clone(), carry.clone()
    span = 1
    while span < len(x) and bool(carry.any()):
        total[:-span] += carry[:-span] * total[span:].clone()
        carry[:-span] *= carry[span:].clone()
        carry[-span:] = 0
        span *= 2
    return total


def returns_to_go(
    reward: Tensor,
    terminated: Tensor,
    last: Tensor,
    discount: float,
    failure: float | None = None,
) -> Tensor:
    """Discounted sum of rewards from each step to the end of its episode, all arguments [N].

    Where rewards only tell success, `failure` is that of a step without it: an episode that was cut
    off goes on failing, and one that never succeeded is worth failure / (1 - discount) at all of
    its steps, however it ended (Cal-QL, 2303.05479, and the authors' code).
    """
    carry = discount * (~last).to(reward.dtype)
    if failure is None:
        return discounted_sums(reward, carry)
    for_ever = failure / (1 - discount)
    cut = (last & (terminated == 0)).to(reward.dtype)
    found = discounted_sums(reward + cut * discount * for_ever, carry)
    episode = last.cumsum(0) - last.long()  # the number of each row's
    successes = torch.zeros_like(episode).index_add(0, episode, (reward != failure).long())
    return torch.where(successes[episode] > 0, found, for_ever)


def advantage_lambda(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    last: Tensor,
    discount: float,
    td_lambda: float,
) -> Tensor:
    """Generalised advantage, all arguments [N] (Schulman et al. 2016, 1506.02438, eq. 16).

        delta_t = r_t + discount * (1 - terminated_t) * V(s_{t+1}) - V(s_t)
        A_t     = delta_t + discount * td_lambda * A_{t+1}     cut where an episode ends

    A truncated episode bootstraps from V of its final observation; a terminated one does not.
    td_lambda = 1 is the Monte-Carlo return less V. A + V is the TD(lambda) return.
    """
    delta = reward + discount * (1 - terminated) * next_value - value
    return discounted_sums(delta, discount * td_lambda * (~last).to(delta.dtype))


def standard(x: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """What to subtract from x and what to divide it by: "std" both, "scale" the latter, "none".

    The spread is std + 1e-5 over all of x, as in the authors' code of AWR.
    """
    nothing, one = torch.zeros_like(x.mean()), torch.ones_like(x.mean())
    centre = x.mean() if norm == "std" else nothing
    return centre, one if norm == "none" else x.std(correction=0) + 1e-5


def standardise(x: Tensor) -> Tensor:
    """(x - mean) / (std + 1e-5) over all of x."""
    centre, scale = standard(x, "std")
    return (x - centre) / scale


def awr_weight(advantage: Tensor, temperature: Tensor | float, weight_cap: float) -> Tensor:
    """min(exp(A / temperature), weight_cap) (Peng et al. 2019, 1910.00177, section 3.2)."""
    return awr_log_weight(advantage, temperature, weight_cap).exp()


def awr_log_weight(advantage: Tensor, temperature: Tensor | float, weight_cap: float) -> Tensor:
    """The logarithm of `awr_weight`, which does not vanish where the weight does."""
    return (advantage / temperature).clamp(max=math.log(weight_cap))


def capped_share(advantage: Tensor, temperature: Tensor | float, weight_cap: float) -> Tensor:
    """Share of rows whose weight is the cap, decided by the exponent: exp(log(cap)) rounds."""
    return (advantage / temperature >= math.log(weight_cap)).to(advantage.dtype).mean()


def effective_share(weight: Tensor) -> Tensor:
    """Effective sample size / n: (sum w)^2 / (n sum w^2), 1 for equal weights (Kish 1965).

    Weights are taken relative to the largest, so small ones do not vanish when squared; where all
    of them are 0 the share is 0.
    """
    relative = weight / weight.max().clamp(min=torch.finfo(weight.dtype).tiny)
    return relative.sum().square() / (len(weight) * relative.square().sum().clamp(min=1e-30))


def explained_variance(target: Tensor, prediction: Tensor) -> Tensor:
    """1 - Var(target - prediction) / Var(target); 1 is perfect, 0 no better than the mean."""
    variance = target.var(correction=0)
    return 1 - (target - prediction).var(correction=0) / variance.clamp(min=1e-12)


def td_target(
    reward: Tensor, next_value: Tensor, terminated: Tensor, discount: Tensor | float
) -> Tensor:
    """r + discount * (1 - terminated) * next_value, [B]; a truncated row bootstraps."""
    return reward + discount * (1 - terminated) * next_value


def squared_error(q: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of (q - target)^2, summed over members: q [M, B], target [B]."""
    return (q - target).square().mean(-1).sum()


def pooled(q: Tensor, mean: bool) -> Tensor:
    """One value of critics' [M, ...]: their mean, or the least of them."""
    return q.mean(0) if mean else q.amin(0)


def critic_loss(q: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """`squared_error` of logged actions' values q [M, B] against `target` [B], and its metrics."""
    loss = squared_error(q, target)
    return loss, {"critic/loss": loss, **value_metrics(q, target)}


def expectile_loss(difference: Tensor, expectile: Tensor | float) -> Tensor:
    """mean |expectile - 1(u < 0)| u^2 with u = target - prediction (IQL, 2110.06169, eq. 5)."""
    below = (difference < 0).to(difference.dtype)
    return ((expectile - below).abs() * difference.square()).mean()


def smoothed(
    action: Tensor,
    noise: Tensor,
    std: Tensor,
    limit: Tensor,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Target policy smoothing: clip(action + clip(std * noise, -limit, limit), low, high).

    `std` and `limit` are in units of the action's half range (TD3, 1802.09477, eq. 14).
    """
    half = (high - low) / 2
    shift = (std * noise).clamp(-limit, limit) * half
    return torch.clamp(action + shift, low, high)


def relative_value(q: Tensor, weight: Tensor | float) -> Tensor:
    """weight * mean(q) / mean |q|, the size a constant (TD3+BC, 2106.06860, eq. 5)."""
    return weight * q.mean() / q.detach().abs().mean().clamp(min=1e-8)


def chosen(values: Tensor, action: Tensor) -> Tensor:
    """values[..., b, action[b]]: from [..., B, n] and [B] int64 to [..., B]."""
    index = action.expand(values.shape[:-1]).unsqueeze(-1)
    return values.gather(-1, index).squeeze(-1)


def action_distance(action: Tensor, logged: Tensor, half: Tensor) -> Tensor:
    """Root mean square distance of actions [B, A] from logged ones, in half ranges."""
    return ((action - logged) / half).square().mean().sqrt()


def differing_share(action: Tensor, logged: Tensor) -> Tensor:
    """Share of discrete actions [B] that are not the logged ones."""
    return (action != logged).to(torch.get_default_dtype()).mean()


def departure(pi: Any, logged: Tensor) -> dict[str, Tensor]:
    """How far the likeliest actions of a policy's distribution `pi` are from the logged ones."""
    if logged.is_floating_point():
        half = (pi.high - pi.low) / 2
        return {"policy/action_distance": action_distance(pi.mode(), logged, half)}
    return {"policy/action_differs": differing_share(pi.mode(), logged)}


def value_metrics(q: Tensor, target: Tensor) -> dict[str, Tensor]:
    """What the over-estimation watch reads of logged actions' values q [M, B], and the error."""
    return {
        "critic/q_mean": q.mean(),
        "critic/q_abs_mean": q.abs().mean(),
        "critic/q_abs_max": q.abs().max(),
        "critic/td_error": (q - target).abs().mean(),
    }


def weighted_imitation(
    pi: Any, action: Tensor, advantage: Tensor, temperature: Tensor | float, weight_cap: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-mean(awr_weight(A) log pi(a|s)) of logged actions, and what its weights are like."""
    weight = awr_weight(advantage, temperature, weight_cap)
    log_prob = pi.log_density(action)
    loss = -(weight * log_prob).mean()
    return loss, {
        "policy/loss": loss,
        "policy/log_prob": log_prob.mean(),
        "policy/entropy": pi.entropy(),
        "policy/weight_ess": effective_share(weight),
        "policy/weight_capped": capped_share(advantage, temperature, weight_cap),
        "policy/weight_max": weight.max(),
        "policy/advantage_mean": advantage.mean(),
        "policy/advantage_std": advantage.std(correction=0),
    }


def cosine_decay(count: Tensor, steps: int) -> Tensor | float:
    """The factor of a learning rate that falls from 1 to 0 in `steps`, and stays 0; steps 0 is 1.

    (1 + cos(pi count / steps)) / 2 (Loshchilov & Hutter 2017, 1608.03983, eq. 5, without restarts).
    """
    return 0.5 * (1 + torch.cos(math.pi * (count / steps).clamp(max=1))) if steps else 1.0


def soft_policy_loss(log_prob: Tensor, q: Tensor, log_temperature: Tensor) -> Tensor:
    """mean(temperature log pi - q), all [B]; no gradient reaches the temperature (SAC, eq. 7)."""
    return (log_temperature.exp().detach() * log_prob - q).mean()


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """-log(temperature) mean(log pi + target entropy): it rises where entropy lacks.

    On the log, as the authors' code does; no gradient reaches the policy (SAC, 1812.05905, eq. 17).
    """
    return -log_temperature * (log_prob.detach() + target_entropy).mean()


def soft_losses(
    log_prob: Tensor, q: Tensor, log_temperature: Tensor, target_entropy: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The policy's loss and the temperature's, neither with a gradient in the other."""
    policy = soft_policy_loss(log_prob, q, log_temperature)
    temperature = temperature_loss(log_temperature, log_prob, target_entropy)
    return policy + temperature, {
        "policy/loss": policy,
        "policy/q_mean": q.mean(),
        "policy/entropy": -log_prob.mean(),
        "temperature/loss": temperature,
        "temperature/value": log_temperature.exp(),
    }


def conservative_gap(values: Tensor, logged: Tensor) -> Tensor:
    """logsumexp over the last axis of values [..., K], less logged [...] (CQL, 2006.04779, eq. 4).

    Values of samples come less their log density, so that the sum is an integral over actions.
    """
    return values.logsumexp(-1) - logged


def calibrated(q: Tensor, earned: Tensor, free: int) -> Tensor:
    """Values [M, K, B] of sampled actions, all but the first `free` raised to `earned` [B].

    The free ones are of no policy (Cal-QL, Nakamoto et al. 2023, 2303.05479, eq. 5). Where a value
    is raised no gradient flows.
    """
    return torch.cat([q[:, :free], torch.maximum(q[:, free:], earned)], 1)

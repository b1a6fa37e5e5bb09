"""The over-estimation watch: what a critic says, held against what any policy could earn.

No policy earns more than the rewards of the log allow, each step discounted:

    highest = max(0, max r / (1 - discount) over steps that go on, max r over steps that terminate)

and the lowest alike. A mean value beyond these comes from no data: the critic has climbed its own
errors at actions that the log does not hold, and the policy with it. A mean above all that the log
ever earned may be true where the data is poor, and seldom is of a policy that acts unlike the log.

Where an algorithm adds a bonus to every reward, such as entropy, its metric critic/bonus says how
much, and widens the range.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from offrl.data.transitions import Transitions
from offrl.losses import discounted_sums

MEANS = ("policy/q_mean", "critic/q_mean")
LARGEST = "critic/q_abs_max"
BONUS = "critic/bonus"  # what an algorithm adds to every reward, such as entropy
DISTANCES = ("policy/action_distance", "policy/action_differs")
ROOM = 0.1  # of the span of what the log earned, by which a mean may be wrong
FAR = 2.0  # times the largest possible size, which a single value may reach
AWAY = 0.5  # half ranges, or share of rows, from which on a policy is not near the log


class Span(NamedTuple):
    """A closed interval of discounted returns."""

    low: float
    high: float


class Extremes(NamedTuple):
    """The smallest and largest rewards so far, and 0: of steps that go on, and of last ones."""

    on_low: float = 0.0
    on_high: float = 0.0
    last_low: float = 0.0
    last_high: float = 0.0

    def seen(self, reward: np.ndarray, end: np.ndarray) -> "Extremes":
        """These and the rewards [N] of steps, of which `end` [N] terminated."""
        on, last = reward[~end], reward[end]
        return Extremes(
            float(on.min(initial=self.on_low)),
            float(on.max(initial=self.on_high)),
            float(last.min(initial=self.last_low)),
            float(last.max(initial=self.last_high)),
        )

    def possible(self, discount: float) -> Span:
        """What any policy can earn with such rewards."""
        # Going on for a while and then ending earns a weighted mean of both, so no more than one.
        horizon = math.inf if discount == 1 else 1 / (1 - discount)
        low, high = (bound * horizon if bound else 0.0 for bound in (self.on_low, self.on_high))
        return Span(min(low, self.last_low), max(high, self.last_high))


class Words(NamedTuple):
    """What a warning calls the rewards and the actions that are known, and what it advises."""

    rewards: str = "of this log"
    actions: str = "logged"
    advice: str = "take an algorithm that stays near the log (td3-bc, iql, cql)."


LIVED = Words(
    "seen so far",
    "remembered",
    "start again with a smaller --lr, fewer --updates-per-step or --layer-norm true, or go on from"
    " an earlier checkpoint.",
)


@dataclass(frozen=True)
class Earnings:
    """What can be earned at a discount: by any policy, and by those of the log."""

    possible: Span
    logged: Span  # smallest and largest discounted return from any step on
    discount: float

    @classmethod
    def of(cls, data: Transitions, discount: float) -> "Earnings":
        """The earnings of a log."""
        reward = data.reward
        possible = Extremes().seen(reward, data.terminated).possible(discount)
        carry = np.full(len(data), discount)
        carry[data.starts[1:] - 1] = 0.0
        returns = discounted_sums(torch.as_tensor(reward), torch.as_tensor(carry))
        return cls(possible, Span(float(returns.min()), float(returns.max())), discount)


@dataclass
class _Seen:
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    bonus: float = 0.0  # the largest so far: values follow it with a delay
    first: int | None = None  # the first step beyond what is possible
    beyond: str = ""  # how it is beyond now; empty where it is not


class Watch:
    """Sees the metrics of every seed of a run, and says in words where they cannot be true."""

    def __init__(self, earnings: Callable[[], Earnings], words: Words | None = None) -> None:
        self._make, self._earnings, self._words = earnings, None, words or Words()
        self._seeds: dict[int, _Seen] = {}

    @property
    def earnings(self) -> Earnings:
        """What can be earned; worked out once there is a critic to hold against it."""
        if self._earnings is None:
            self._earnings = self._make()
        return self._earnings

    def see(
        self, seed: int, step: int, metrics: Mapping[str, float], known: Earnings | None = None
    ) -> str | None:
        """A warning, the first time that a seed's values are beyond what is possible.

        `known` are the earnings from here on, where they grow as more is lived.
        """
        self._earnings = known or self._earnings
        if not any(name in metrics for name in (*MEANS, LARGEST)):
            return None
        seen = self._seeds.setdefault(seed, _Seen())
        seen.step, seen.metrics = step, {**seen.metrics, **metrics}
        seen.bonus = max(seen.bonus, metrics.get(BONUS, 0.0))
        seen.beyond = self._beyond(metrics, seen.bonus)
        if not seen.beyond or seen.first is not None:
            return None
        seen.first = step
        return self._warning(seed, seen)

    def warnings(self) -> list[str]:
        """What must be known of the seeds that went beyond what is possible."""
        return [self._warning(k, s) for k, s in sorted(self._seeds.items()) if s.first is not None]

    def page(self) -> dict[str, Any]:
        """The last values of every seed beside what can be earned, for result.json."""
        if not self._seeds:
            return {}
        names = (*MEANS, "critic/q_abs_mean", LARGEST, *DISTANCES)
        seeds = {
            str(k): {"step": s.step, **{n: s.metrics[n] for n in names if n in s.metrics}}
            for k, s in sorted(self._seeds.items())
        }
        spans = {"possible": self.earnings.possible, "logged": self.earnings.logged}
        bounds = {k: [v if math.isfinite(v) else None for v in span] for k, span in spans.items()}
        return {"values": {"discount": self.earnings.discount, **bounds, "seeds": seeds}}

    def _beyond(self, metrics: Mapping[str, float], bonus: float) -> str:
        (low, high), (worst, best) = self.earnings.possible, self.earnings.logged
        if low == high:  # there are no rewards
            return ""
        discount = self.earnings.discount
        more = bonus / (1 - discount) if discount < 1 else 0.0
        high, room = high + more, ROOM * (best - worst)
        for name in MEANS:
            value = metrics.get(name, high)
            if not value <= high + room:
                whose = (
                    "the policy's" if name.startswith("policy") else f"the {self._words.actions}"
                )
                return (
                    f"over-estimates: the mean value of {whose} actions is {value:.4g}, and no "
                    f"policy can earn more than {high:.4g} with the rewards {self._words.rewards}"
                )
        value = metrics.get("policy/q_mean", best)
        away = max(metrics.get(name, 0.0) for name in DISTANCES)
        if away > AWAY and value > best + more + room:
            return (
                f"seems to over-estimate: the mean value of the policy's actions is {value:.4g}, "
                f"and the log never earned more than {best:.4g}"
            )
        largest, size = metrics.get(LARGEST, 0.0), max(-low, high)
        if not largest <= FAR * size:
            return (
                f"has run away: values reach {largest:.4g} in size, and no policy can earn more "
                f"than {size:.4g} with the rewards {self._words.rewards}"
            )
        return ""

    def _warning(self, seed: int, seen: _Seen) -> str:
        if not seen.beyond:
            return (
                f"Seed {seed} over-estimated at step {seen.first}, and is within what is possible "
                f"at step {seen.step}: look at critic/q_mean in its metrics.csv."
            )
        metrics, far = seen.metrics, ""
        if (distance := metrics.get(DISTANCES[0])) is not None:
            far = f" Its actions are {distance:.2g} half ranges from the logged ones."
        elif (share := metrics.get(DISTANCES[1])) is not None:
            far = f" Its actions are not the logged ones in {share:.0%} of the rows."
        since = "" if seen.first == seen.step else f" (first at step {seen.first})"
        return (
            f"Seed {seed} at step {seen.step}{since} {seen.beyond}, at discount "
            f"{self.earnings.discount:g}.{far} Do not trust its policy: {self._words.advice}"
        )

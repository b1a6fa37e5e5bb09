"""What an evaluation comes to: estimates with intervals, what the weights say, a decision."""

from dataclasses import dataclass, field
from typing import Any, Literal

from offrl.ope.intervals import Bounds
from offrl.ope.weights import KEYS as WEIGHT_KEYS
from offrl.ope.weights import Weights

Verdict = Literal["ship", "hold", "cannot-tell"]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, or why there is none."""

    value: float | None
    bounds: Bounds | None = None  # the interval that counts
    by: str = ""  # how it was made
    intervals: dict[str, Bounds] = field(default_factory=dict[str, Bounds])  # every kind there is
    refused: str | None = None
    notes: tuple[str, ...] = ()
    seeds: tuple[float, ...] | None = None  # of fitted Q evaluation, a value each

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        low, high = self.bounds or (None, None)
        found: dict[str, Any] = {
            "value": self.value,
            "lo": low,
            "hi": high,
            "interval": self.by or None,
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "refused": self.refused,
            "notes": list(self.notes),
        }
        return found if self.seeds is None else {**found, "seeds": list(self.seeds)}


@dataclass(frozen=True)
class Decision:
    """Whether to let the candidate act, why, on what assumptions, and what would settle it."""

    verdict: Verdict
    reason: str
    estimator: str | None  # whose uplift decided
    uplift: float | None
    bounds: Bounds | None
    level: float  # of that interval: stricter where several candidates were compared
    min_uplift: float
    assumptions: tuple[str, ...]
    would_settle: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        low, high = self.bounds or (None, None)
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "estimator": self.estimator,
            "uplift": self.uplift,
            "lo": low,
            "hi": high,
            "level": self.level,
            "min_uplift": self.min_uplift,
            "assumptions": list(self.assumptions),
            "would_settle": self.would_settle,
        }


@dataclass(frozen=True)
class Findings:
    """How good a candidate is on logged episodes, all values discounted alike."""

    discount: float
    level: float
    episodes: int
    steps: int
    truncated: int  # episodes that were cut off, and bootstrapped
    behavior: Estimate  # the value of the policy that made the log, on the same episodes
    estimates: dict[str, Estimate]
    uplifts: dict[str, Estimate]  # over the behavior, paired
    weights: Weights | None  # None where the candidate has no ratios
    disagreements: tuple[str, ...]
    notes: tuple[str, ...]
    decision: Decision | None = None

    @property
    def ess(self) -> float | None:
        """Effective number of episodes."""
        return None if self.weights is None else self.weights.ess

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON, the keys that scripts rely on first."""
        low, high = self.behavior.bounds or (None, None)
        weights = dict.fromkeys(WEIGHT_KEYS) if self.weights is None else self.weights.to_dict()
        return {
            "ess": self.ess,
            "estimates": {name: one.to_dict() for name, one in self.estimates.items()},
            "discount": self.discount,
            "behavior_value": self.behavior.value,
            "behavior_ci": None if low is None else [low, high],
            "level": self.level,
            "episodes": self.episodes,
            "steps": self.steps,
            "truncated_episodes": self.truncated,
            "uplift": {name: one.to_dict() for name, one in self.uplifts.items()},
            **{key: value for key, value in weights.items() if key != "ess"},
            "disagreements": list(self.disagreements),
            "notes": list(self.notes),
            "decision": None if self.decision is None else self.decision.to_dict(),
        }

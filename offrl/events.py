"""What a training run reports, as it happens, and what is to be said of seeds that ended early."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from offrl.errors import FloorError, NumericsError


@dataclass(frozen=True)
class Started:
    """A seed begins, or goes on, at `step`; `facts` are the algorithm's, for result.json."""

    seed: int
    step: int
    notes: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """Metrics of one gradient step, every `log_every` steps."""

    seed: int
    step: int
    metrics: dict[str, float]
    steps_per_second: float  # of the environment where the policy acts, else gradient steps


@dataclass(frozen=True)
class Evaluated:
    """The policy was tried in its environment."""

    seed: int
    step: int
    evaluation: dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on the disk."""

    seed: int
    step: int
    path: Path


@dataclass(frozen=True)
class Warned:
    """What the metrics of this step say cannot be true; training goes on."""

    seed: int
    step: int
    message: str


@dataclass(frozen=True)
class Diverged:
    """A loss stopped being finite; the last good state is saved and the seed is over."""

    seed: int
    step: int
    message: str


@dataclass(frozen=True)
class RolledBack:
    """A policy that acts fell below its floor; the best one that was evaluated is saved again."""

    seed: int
    step: int  # of the checkpoint that holds it now
    message: str
    to_step: int  # where it was evaluated, in gradient steps and steps of the environment
    to_env_step: int
    to_return: float


@dataclass(frozen=True)
class Finished:
    """A seed has taken all its steps, in `seconds` of all sittings; its algorithm tells more."""

    seed: int
    step: int
    seconds: float
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


Event = Started | Trained | Evaluated | Saved | Warned | Diverged | RolledBack | Finished
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Started, Trained, Evaluated, Saved, Warned, Diverged, RolledBack, Finished)
}


def to_dict(event: Event) -> dict[str, Any]:
    """The event as JSON can carry it."""
    values = asdict(event)
    if isinstance(event, Saved):
        values["path"] = str(event.path)
    return {"event": type(event).__name__, **values}


def from_dict(values: dict[str, Any]) -> Event:
    """The event that `to_dict` described."""
    rest = dict(values)
    kind = _KINDS[rest.pop("event")]
    if kind is Saved:
        rest["path"] = Path(rest["path"])
    for name in ("notes", "remarks", "warnings"):
        if name in rest:
            rest[name] = tuple(rest[name])
    return kind(**rest)


@dataclass
class Endings:
    """Seeds that ended before they had taken all their steps."""

    diverged: list[str] = field(default_factory=list[str])
    rolled_back: list[str] = field(default_factory=list[str])

    def see(self, event: Event, point: str = "") -> None:
        """Count one event of a run, the run being one `point` of a grid where named."""
        who = f"Seed {event.seed}{f' of {point}' if point else ''}"
        if isinstance(event, Diverged):
            self.diverged.append(f"{who} has diverged: {event.message}")
        if isinstance(event, RolledBack):
            self.rolled_back.append(f"{who} was stopped: {event.message}")

    def check(self, folder: Path) -> None:
        """Raise NumericsError or FloorError where seeds ended early; `folder` holds their runs."""
        said = " ".join(self.diverged + self.rolled_back)
        if self.diverged:
            raise NumericsError(
                said, f"Give a smaller --lr; the last good checkpoints are in {folder}."
            )
        if self.rolled_back:
            raise FloorError(
                said,
                f"Its best policy is the last checkpoint in {folder}: go on from there, more"
                " cautiously, with offrl finetune.",
            )

"""Off-policy evaluation of arrays: for policies and logs of any origin."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from offrl.configuration import configure
from offrl.errors import ConfigError
from offrl.ope.conclusion import Evidence, conclude
from offrl.ope.findings import Findings
from offrl.ope.settings import StatisticsConfig
from offrl.ope.trajectories import Flags, Floats, padded


def estimate(
    reward: Any,
    log_prob: Any,
    behavior_log_prob: Any,
    terminated: Any = None,
    truncated: Any = None,
    *,
    discount: float = 1.0,
    q: Any = None,
    v: Any = None,
    final_v: Any = None,
    behavior_final_v: Any = None,
    estimators: Sequence[str] | None = None,
    reward_range: tuple[float, float] | None = None,
    min_uplift: float | None = None,
    **settings: Any,
) -> Findings:
    """Judge a policy on N logged steps: `log_prob` is its own of the logged actions, [N].

    An episode ends where `terminated` or `truncated` [N] is true; without both every step is an
    episode. `q` [N] is Q(s, a) of the candidate at the logged actions and `v` [N] its mean over the
    candidate's actions; `final_v` [E] is v of each last observation and `behavior_final_v` [E] the
    value of the behaviour there, both needed where an episode was cut off (numbers of terminated
    ones are not looked at). `reward_range` is what rewards can be, known before the data, for
    bounds. With `min_uplift` the findings hold a decision. `settings` are the fields of
    `offrl.ope.settings.StatisticsConfig`. Raises ConfigError for arrays that do not fit.
    """
    config = configure(StatisticsConfig, settings)
    if not 0 <= discount <= 1:
        raise ConfigError(f"The discount must be from 0 to 1, not {discount}.")
    rewards = _column("reward", reward, None)
    n = len(rewards)
    if n == 0:
        raise ConfigError("There are no steps.", "Give at least one.")
    pi, mu = _column("log_prob", log_prob, n), _column("behavior_log_prob", behavior_log_prob, n)
    _check_probabilities(pi, mu)
    starts, ended = _episodes(terminated, truncated, n)
    episodes = len(ended)
    finite = {"reward": rewards}
    q, v = (None if x is None else _column(name, x, n) for name, x in (("q", q), ("v", v)))
    if (q is None) != (v is None):
        raise ConfigError("q and v are two sides of one model.", "Give both, or neither.")
    if q is not None and v is not None:
        finite |= {"q": q, "v": v}
    ends = _futures("final_v", final_v, ended)
    behaved = _futures("behavior_final_v", behavior_final_v, ended)
    for name, column in finite.items():
        if not np.isfinite(column).all():
            row = int(np.flatnonzero(~np.isfinite(column))[0])
            raise ConfigError(f"{name} is {column[row]} in row {row}.", "Give finite numbers.")
    data = padded(
        discount=discount,
        starts=starts,
        reward=rewards,
        log_ratio=pi - mu,
        terminated=ended,
        q=q,
        v=v,
        final_v=ends,
    )
    log = padded(
        discount=discount,
        starts=starts,
        reward=rewards,
        log_ratio=np.zeros(n),
        terminated=ended,
        final_v=behaved if behaved is not None else _same(ends, ended),
    )
    notes: tuple[str, ...] = ()
    if behaved is None and episodes > int(ended.sum()):
        notes = (
            "Futures of cut-off episodes have the candidate's value under the behavior too: give"
            " behavior_final_v.",
        )
    evidence = Evidence(
        data,
        log.returns,
        ended,
        no_model=None if q is not None else "Q and V of the candidate were not given.",
        notes=notes,
    )
    return conclude(evidence, config, estimators, reward_range=reward_range, min_uplift=min_uplift)


def _same(ends: Floats | None, ended: Flags) -> Floats | None:
    return None if ended.all() else ends


def _column(name: str, given: Any, n: int | None) -> Floats:
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} is not an array of numbers.", "Give one number a step."
        ) from error
    if found.ndim != 1 or (n is not None and len(found) != n):
        expected = "one number a step" if n is None else f"{n} numbers, one a step"
        raise ConfigError(f"{name} has the shape {found.shape}.", f"Give {expected}.")
    return found


def _check_probabilities(pi: Floats, mu: Floats) -> None:
    for name, column, wrong in (
        ("behavior_log_prob", mu, ~np.isfinite(mu)),
        ("log_prob", pi, np.isnan(pi) | (pi == np.inf)),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ConfigError(
                f"{name} is {column[row]} in row {row}.",
                "Give natural logs of probabilities; that of an action that was taken is finite.",
            )


def _episodes(terminated: Any, truncated: Any, n: int) -> tuple[np.ndarray, Flags]:
    """Offsets of the episodes [E+1], and which of them terminated [E]."""
    if terminated is None and truncated is None:
        return np.arange(n + 1), np.ones(n, bool)
    flags = [
        np.zeros(n, bool) if given is None else _column(name, given, n) != 0
        for name, given in (("terminated", terminated), ("truncated", truncated))
    ]
    last = flags[0] | flags[1]
    last[-1] = True  # a log that stops in the middle of an episode has cut it off
    ends = np.flatnonzero(last)
    return np.concatenate([[0], ends + 1]), flags[0][ends]


def _futures(name: str, given: Any, ended: Flags) -> Floats | None:
    """Values of last observations [E], those of terminated episodes 0."""
    if given is None:
        return None
    found = np.asarray(given, np.float64)
    if found.shape != ended.shape:
        raise ConfigError(
            f"{name} has the shape {found.shape}, and there are {len(ended)} episodes.",
            "Give a number for each.",
        )
    found = np.where(ended, 0.0, found)
    if not np.isfinite(found).all():
        episode = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ConfigError(
            f"{name} is {found[episode]} in episode {episode}.", "Give finite numbers."
        )
    return found

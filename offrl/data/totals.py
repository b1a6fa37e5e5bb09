"""What one pass over the episodes leaves behind: digests, returns, ends, log-probabilities."""

from dataclasses import dataclass, field

import numpy as np

from offrl.data.episodes import Episode, digest


@dataclass
class Totals:
    """One entry per episode, in order."""

    digests: list[str] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    logged: list[int] = field(default_factory=list)  # steps with a behaviour log-probability
    steps: list[int] = field(default_factory=list)

    def add(self, episode: Episode) -> None:
        """Note an episode, after those before it."""
        self.digests.append(digest(episode))
        self.returns.append(episode.episode_return)
        self.terminated.append(bool(len(episode) and episode.terminations[-1]))
        self.logged.append(int(np.count_nonzero(~np.isnan(episode.behavior_log_prob))))
        self.steps.append(len(episode))

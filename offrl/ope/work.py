"""What is fitted to judge candidates, once for all of them and for each."""

from collections.abc import Callable, Sequence

import numpy as np

from offrl.data.dataset import Dataset
from offrl.data.transitions import Transitions
from offrl.errors import ConfigError
from offrl.ope.behaviors import behavior_log_prob, own_values
from offrl.ope.candidates import Candidate
from offrl.ope.conclusion import Evidence
from offrl.ope.critics import Critics, fit_critics
from offrl.ope.fitting import Numbers, rows_of, tensor
from offrl.ope.rules import chosen
from offrl.ope.settings import JudgeConfig
from offrl.ope.trajectories import Floats, padded

COLUMN_ALONE = (
    "Of a column, only the probabilities of logged actions are known: no Q can be fitted for it."
)


class Work:
    """The judged episodes, and what is fitted to them once for all candidates."""

    def __init__(
        self,
        dataset: Dataset,
        part: Transitions,
        episodes: Numbers,
        config: JudgeConfig,
        discount: float,
        estimators: Sequence[str] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.dataset, self.part, self.episodes = dataset, part, episodes
        self.config, self.discount, self.progress = config, discount, progress
        self.ended = part.terminated[part.starts[1:] - 1]
        self.one_step = bool((part.lengths == 1).all() and self.ended.all())
        rules = chosen(estimators, one_step=self.one_step, limit=1.0, fitted=True).values()
        self.models = any(rule.models for rule in rules)
        self.weighs = any(rule.weighs for rule in rules)
        self.taken = self.total = 0
        self.log_mu: Floats = np.zeros(len(part))
        self.behaved: Floats = np.zeros(len(part.lengths))
        self.estimated = False

    @property
    def needs_critics(self) -> bool:
        """Whether anything asks for Q: an estimator, or an episode that was cut off."""
        return self.models or not bool(self.ended.all())

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Fit what all candidates share: the probabilities of the log's own policy, its values."""
        data, config = self.dataset.transitions, self.config
        rows = rows_of(data, self.episodes)
        fits = config.behavior == "fitted" or not np.isfinite(data.behavior_log_prob[rows]).all()
        folds = min(config.folds, len(self.episodes))
        cut = not bool(self.ended.all())
        if cut and len(self.episodes) < 2:
            raise ConfigError(
                "There is one episode, it was cut off, and nothing says what it would have earned.",
                "Give more episodes.",
            )
        networks = sum(one.network is not None for one in candidates)
        self.total = folds * (
            config.behavior_steps * (fits and self.weighs)
            + config.fqe_steps * cut
            + config.fqe_steps * config.fqe_seeds * self.needs_critics * networks
        )
        if self.weighs:
            self.log_mu, self.estimated = behavior_log_prob(data, self.episodes, config, self.count)
        final = own_values(self.part, self.discount, config, self.count) if cut else None
        part = self.part
        self.behaved = padded(
            discount=self.discount,
            starts=part.starts,
            reward=part.reward.astype(np.float64),
            log_ratio=np.zeros(len(part)),
            terminated=self.ended,
            final_v=final,
        ).returns

    def count(self, steps: int) -> None:
        """Add gradient steps that were taken."""
        self.taken += steps
        if self.progress is not None:
            self.progress(self.taken, self.total)

    def evidence(self, candidate: Candidate, in_sample: bool) -> Evidence:
        """What is known of a candidate."""
        part = self.part
        log_pi, why = self._log_pi(candidate)
        critics = self._critics(candidate)
        failed = critics.failed if critics is not None else COLUMN_ALONE
        if critics is None and candidate.network is not None:
            failed = "No Q was asked for."
        usable = critics if critics is not None and critics.failed is None else None
        cut = not bool(self.ended.all())
        if cut and usable is None:  # nothing says what the cut-off episodes would have earned
            why = failed = f"Episodes were cut off, and their futures have no value. {failed}"
        data = padded(
            discount=self.discount,
            starts=part.starts,
            reward=part.reward.astype(np.float64),
            log_ratio=log_pi - self.log_mu,
            terminated=self.ended,
            q=None if usable is None else usable.q,
            v=None if usable is None else usable.v,
            final_v=np.zeros(len(self.ended)) if usable is None else usable.final_v,
        )
        return Evidence(
            data,
            self.behaved,
            self.ended,
            no_weights=why,
            no_model=failed if usable is None else None,
            fitted=True,
            seeds=None if usable is None else usable.seeds,
            estimated_behavior=self.estimated,
            in_sample=in_sample,
            model_notes=() if critics is None else critics.notes,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        if not self.estimated:
            return ()
        return (
            "The probabilities of the behavior are estimated, each from episodes other than its"
            " own: importance estimates are as right as that fit.",
        )

    def _log_pi(self, candidate: Candidate) -> tuple[Floats, str | None]:
        part, nothing = self.part, np.zeros(len(self.part))
        if not self.weighs:
            return nothing + self.log_mu, "No importance estimate was asked for."
        if candidate.given_log_prob is not None:
            return candidate.given_log_prob[rows_of(self.dataset.transitions, self.episodes)], None
        found = candidate.log_prob(tensor(part.obs), tensor(part.action))
        return (self.log_mu, found) if isinstance(found, str) else (found, None)

    def _critics(self, candidate: Candidate) -> Critics | None:
        if candidate.network is None or not self.needs_critics:
            return None
        return fit_critics(
            self.part, candidate.network, candidate.acts, self.discount, self.config, self.count
        )

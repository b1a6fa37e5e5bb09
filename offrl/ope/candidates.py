"""Who is judged: a run of offrl, a policy, a function of yours, or a column of probabilities.

RUN, RUN/seed_3         the run's newest policy, as `offrl eval` plays it, or its distribution
FILE.py:FUNCTION        obs -> probabilities [B, n], or choices [B]; or actions [B, A], or the
                        pair (mean, std) of a Gaussian that is clipped to the bounds
TABLE.csv:COLUMN        the candidate's probability of each logged action, a row for each step
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offrl.checkpoint import SELECTED, TrainedRun, load_run
from offrl.collect.usercode import load_function, source_of
from offrl.data.columns import is_missing
from offrl.data.dataset import Dataset
from offrl.data.formats.table_columns import numeric, one_column
from offrl.data.formats.table_files import read_table
from offrl.data.spec import Spec
from offrl.distributions import Categorical, Deterministic, Greedy
from offrl.errors import ConfigError, CorruptDataError, NotFoundError
from offrl.ope.functions import FunctionPolicy
from offrl.ope.trajectories import Floats
from offrl.policy import Policy
from offrl.run import Run

TABLES = (".csv", ".parquet")
NO_MODE = (
    "The candidate acts by its mode, which has no density: judge its own distribution with"
    " acts='sample' (--acts sample), or go by fitted Q evaluation."
)
NO_DENSITY = (
    "The candidate is deterministic, and a continuous action of it has no density: go by fitted Q"
    " evaluation, or judge a stochastic policy."
)
ROWS = 16_384  # observations at once


@dataclass(frozen=True)
class Candidate:
    """A policy to judge, with what is known of where it comes from."""

    name: str
    network: nn.Module | None = None  # flat observations -> distribution; None: a column alone
    acts: str = "sample"
    given_log_prob: Floats | None = None  # [N], of every logged step of the dataset
    run: Run | None = None
    dir: Path | None = None  # of the seed
    facts: tuple[tuple[str, Any], ...] = ()  # for the findings
    notes: tuple[str, ...] = ()

    def log_prob(self, obs: Tensor, action: Tensor) -> Floats | str:
        """Log-probabilities of logged actions, [B], or why there are none."""
        if self.network is None:
            raise ConfigError(f"{self.name} is a column: it has no policy to ask.")
        found = []
        for rows in torch.arange(len(obs)).split(ROWS):
            with torch.no_grad():
                pi = self.network(obs[rows])
            scored = _score(pi, action[rows], self.acts)
            if isinstance(scored, str):
                return scored
            found.append(scored)
        return np.concatenate(found)


def _score(pi: Any, action: Tensor, acts: str) -> Floats | str:
    if isinstance(pi, Deterministic):
        return NO_DENSITY
    if acts == "mode":
        if not isinstance(pi, Categorical | Greedy):
            return NO_MODE
        with np.errstate(divide="ignore"):
            return np.log((pi.mode() == action).double().numpy())
    # In float64 a score is exact to the rounding of the action, at and near a bound too.
    wide: Any = type(pi)(*(part.double() for part in pi)) if isinstance(pi, tuple) else pi
    return wide.log_prob(action).double().numpy()


def candidate_of(
    subject: Any, data: Dataset, acts: str = "mode", checkpoint: str | int = "last"
) -> Candidate:
    """The candidate that `subject` names or is.

    Raises ConfigError or NotFoundError where it is none, or acts in other spaces than the data's.
    """
    if isinstance(subject, str | Path):
        path, _, word = str(subject).rpartition(":")
        if path.endswith(".py"):
            function, kept = load_function(str(subject)), source_of(str(subject))
            return _function(str(subject), function, data, (("source_sha256", kept["sha256"]),))
        if Path(path).suffix in TABLES:
            return _column(Path(path), word, data)
        subject = load_run(subject)
    if isinstance(subject, TrainedRun):
        return _run(subject, data, acts, checkpoint)
    if isinstance(subject, Policy):
        _check_spaces("The policy", subject.spec, data)
        return Candidate("policy", subject.network.cpu(), acts)
    if callable(subject):
        name = str(getattr(subject, "__qualname__", type(subject).__qualname__))
        return _function(name, subject, data, ())
    raise ConfigError(
        f"A {type(subject).__name__} is no policy to judge.",
        "Give a run, its folder, a policy, a function, FILE.py:FUNCTION or TABLE.csv:COLUMN.",
    )


def _run(found: TrainedRun, data: Dataset, acts: str, checkpoint: str | int) -> Candidate:
    seed = found.seeds[0]
    step, picked = found.checkpoint(seed, checkpoint).step, found.picked(seed, checkpoint)
    policy = found.policy(seed, checkpoint)
    _check_spaces(f"The policy of {found.dir}", policy.spec, data)
    notes: tuple[str, ...] = ()
    if len(found.seeds) > 1:
        notes = (
            f"Seed {seed} of the {len(found.seeds)} of {found.dir} is judged, since one policy"
            f" acts; name {found.dir}/seed_{found.seeds[1]} for another.",
        )
    if str(checkpoint) == SELECTED:
        notes += (
            f"The checkpoint of {found.dir} was {picked}: where these are the episodes that judge"
            " it, it looks better than it is.",
        )
    where = {"seed": seed, "checkpoint_step": step, "picked": picked}
    facts = (("algo", found.run.settings.algo), *where.items())
    folder = found.dir / f"seed_{seed}"
    one_of_many = len(found.seeds) == 1 < len(found.run.settings.seeds)
    name = str(folder if one_of_many else found.dir)
    return Candidate(name, policy.network, acts, None, found.run, folder, facts, notes)


def _check_spaces(whose: str, theirs: Spec, data: Dataset) -> None:
    ours = data.spec
    shape = (ours.obs_dim, ours.discrete, ours.action_dim)
    if shape != (theirs.obs_dim, theirs.discrete, theirs.action_dim):
        raise ConfigError(
            f"{whose} acts in other spaces than {data.id} was logged in.",
            "Judge it on data of what it was trained for.",
        )
    if ours.columns and theirs.columns and ours.columns.to_json() != theirs.columns.to_json():
        raise ConfigError(
            f"{whose} knows other columns, or other values of them, than {data.id} has.",
            "Import both tables with the same roles and values.",
        )


def _function(
    name: str, function: Callable[..., Any], data: Dataset, facts: tuple[tuple[str, Any], ...]
) -> Candidate:
    return Candidate(name, FunctionPolicy(function, data.spec, name), "sample", facts=facts)


def _column(path: Path, name: str, data: Dataset) -> Candidate:
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.", "A column is named TABLE.csv:COLUMN.")
    table = read_table(path)
    column, n = one_column(table, path.name, name), data.n_steps
    # The state after an episode's last action has a row of its own in exported tables.
    known = np.array([not is_missing(cell) for cell in column.tolist()])
    values = numeric(name, column, known)[known]
    if len(values) != n:
        raise ConfigError(
            f"{path}: the column '{name}' has {len(values)} values, and {data.id} has {n} steps.",
            "Give the probability of each logged action, in the order of the steps.",
        )
    if "reward" in table:
        logged = numeric("reward", table["reward"], known)[known]
        if not np.allclose(logged, data.transitions.reward, rtol=1e-4, atol=1e-6):
            row = int(np.argmax(np.abs(logged - data.transitions.reward)))
            raise CorruptDataError(
                f"{path}: the reward of step {row} is {logged[row]:g}, and {data.id} has"
                f" {data.transitions.reward[row]:g}: the rows are in another order.",
                "Sort them as `offrl data export` writes them.",
            )
    most = 1 + 1e-6 if data.spec.discrete else np.inf
    if not ((values >= 0) & (values <= most)).all():
        row = int(np.flatnonzero(~((values >= 0) & (values <= most)))[0])
        raise CorruptDataError(
            f"{path}: the column '{name}' is {values[row]:g} in step {row}.",
            "Give probabilities, from 0 to 1, or densities of continuous actions.",
        )
    with np.errstate(divide="ignore"):
        return Candidate(f"{path}:{name}", None, "sample", np.log(values))

"""A plan: everything about a run decided, against the data, before anything is written."""

import hashlib
import shutil
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from offrl.algorithm import Algorithm, AlgorithmConfig, configure
from offrl.algos import ALGORITHMS, get, source_of
from offrl.checkpoint import load_policy
from offrl.data.catalogue import resolve as find
from offrl.data.dataset import Dataset, drop_nonfinite, load
from offrl.environments import env_for, make_env
from offrl.errors import ConfigError, OffrlError, suggest
from offrl.run import (
    SETTINGS,
    Run,
    Settings,
    current_versions,
    read_run,
    read_toml,
    refuse_unread,
    settings_of,
)

DEFAULT_HOLDOUT = 0.2  # share of episodes, where no environment can judge the policy
COMPILE_FROM = 100_000  # steps of all seeds together that pay for half a minute of compiling


@dataclass(frozen=True)
class Plan:
    """A resolved run with the data that it was resolved against."""

    run: Run
    dataset: Dataset
    algorithm: type[Algorithm[Any]]
    config: AlgorithmConfig
    dir: Path
    notes: tuple[str, ...]
    resumed: bool
    reopens: bool  # another process can open the same data from what run.toml says
    policy: nn.Module | None = None  # the one that the algorithm judges

    def instance(self) -> Algorithm[Any]:
        """The algorithm as it is configured, with the policy that it judges."""
        given = (self.policy,) if self.algorithm.judges else ()
        return self.algorithm(self.config, self.dataset.spec, *given)


def resolve(
    algo: str | None = None,
    data: str | Path | Dataset | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    config_file: str | Path | None = None,
    hyperparameters: dict[str, Any] | None = None,
    together: int = 1,
    **given: Any,
) -> Plan:
    """Decide everything about a run; write nothing.

    Precedence: default < the dataset's recipe table < `config_file` < what is given here. `given`
    holds fields of `run.Settings`; None means not given. With `resume`, the settings of the run in
    `out` stand, and only the same may be given again. `together` runs will share one update.
    Raises ConfigError for what makes no sense, NotFoundError for what does not exist.
    """
    folder, old = target(out, resume)
    given = {k: v for k, v in given.items() if v is not None}
    if algo is not None:
        given["algo"] = algo
    if isinstance(data, Dataset):
        given["dataset"] = _reference(data)
        if data.clips_actions:
            given["clip_actions"] = True
    elif data is not None:
        given["dataset"] = str(data)
    path = Path(config_file) if config_file else folder / "run.toml" if folder and old else None
    file = read_toml(path) if path else {}
    settings = settings_of({**{k: v for k, v in file.items() if k in SETTINGS}, **given})
    if algo is None and source_of(settings.algo):
        raise ConfigError(
            f"This run's algorithm is code of yours, {settings.algo}.",
            f"Name it again to run it: --algo {settings.algo}",
        )
    algorithm = get(settings.algo)
    if path:
        refuse_unread(path, file, algorithm.name, ALGORITHMS)
    if algorithm.name in SETTINGS | {"format", "resolved"}:
        raise ConfigError(
            f"An algorithm cannot be called '{algorithm.name}': run.toml has that word already.",
            "Give it another name.",
        )
    reopens = not isinstance(data, Dataset) or data.is_whole
    if not isinstance(data, Dataset):
        data = load(
            settings.dataset,
            allow_nonfinite="drop-episode" if settings.allow_nonfinite else None,
            clip_actions=settings.clip_actions,
        )
        settings = replace(settings, dataset=_reference(data))
    else:
        data = data.clipped() if settings.clip_actions else data
        data = drop_nonfinite(data) if settings.allow_nonfinite else data
    check_fits(algorithm, data)
    _ = data.transitions  # values that cannot be learned from are told before anything is written
    recipe = _recipe_tables(data)
    table = {
        **recipe.get(algorithm.name, {}),
        **file.get(algorithm.name, {}),
        **(hyperparameters or {}),
    }
    config = configure(algorithm.Config, table, also=SETTINGS)
    config, changed = _fitted(algorithm, config, data, settings.steps)
    policy = None
    if algorithm.judges:
        config, policy = _judged(algorithm.name, config, data)
    least = algorithm(config, data.spec).least_steps()
    if settings.steps < least:
        raise ConfigError(
            f"{settings.steps} steps are too few: {algorithm.name} first moves its policy at step "
            f"{least}.",
            "Give more --steps, or shorten its stages (see --help).",
        )
    settings, notes = _resolved(settings, data, together)
    _check_select(algorithm, settings)
    notes += changed
    notes += [
        f"The recipe of {data.id} has settings for '{name}', which is no algorithm."
        for name in recipe
        if name not in ALGORITHMS and name != algorithm.name
    ]
    source = source_of(settings.algo)
    run = Run(
        settings=settings,
        config=asdict(config),
        algorithm=algorithm.name,
        fingerprint=data.fingerprint,
        held_out=_held_out(data.n_episodes, settings.holdout or 0.0),
        spec=data.spec.to_json(),
        env=data.env_id,
        versions=current_versions(),
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest() if source else None,
        policy_sha256=None if policy is None else _digest(policy),
    )
    if old is not None:
        run, told = old.resumed(run, folder)
        notes += told
    where = folder or default_folder(algorithm.name, data.id)
    resumed = old is not None
    return Plan(run, data, algorithm, config, where, tuple(notes), resumed, reopens, policy)


def beside(first: Plan, **given: Any) -> Plan:
    """Another run of the algorithm on the data of `first`, which are opened once for both."""
    plan = resolve(first.run.settings.algo, first.dataset, **given)
    return replace(plan, dataset=first.dataset, reopens=first.reopens)


def _fitted(
    algorithm: type[Algorithm[Any]], config: AlgorithmConfig, data: Dataset, steps: int
) -> tuple[AlgorithmConfig, list[str]]:
    """The settings shortened where a run is too short for them, and a note of what changed."""
    instance = algorithm(config, data.spec)
    if steps >= instance.least_steps():
        return config, []
    short = instance.shortened(steps)
    before, after = asdict(config), asdict(short)
    changes = ", ".join(f"{k} {before[k]} -> {v}" for k, v in after.items() if before[k] != v)
    return short, [f"{steps} steps are short for {algorithm.name}: {changes}."] if changes else []


def _judged(
    algorithm: str, config: AlgorithmConfig, data: Dataset
) -> tuple[AlgorithmConfig, nn.Module]:
    """The policy that the setting `policy` names, which is then opened from any folder."""
    ref: str = getattr(config, "policy", "")
    if not ref:
        raise ConfigError(
            f"{algorithm} judges a policy, and none is named.", "Give --policy RUN or RUN/seed_3."
        )
    policy = load_policy(ref)
    mine, theirs = data.spec, policy.spec
    shape = (mine.obs_dim, mine.discrete, mine.action_dim)
    if shape != (theirs.obs_dim, theirs.discrete, theirs.action_dim):
        raise ConfigError(
            f"The policy of {ref} acts in other spaces than {data.id} was logged in.",
            "Judge it on data of the environment that it was trained for.",
        )
    settings: Any = {"policy": str(Path(ref.removeprefix("run:")).absolute())}
    return replace(config, **settings), policy.network


def _digest(network: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        sha.update(name.encode() + tensor.numpy().tobytes())
    return sha.hexdigest()


def check_fits(algorithm: type[Algorithm[Any]], dataset: Dataset) -> None:
    """Raise ConfigError, naming what fits, where the algorithm cannot learn on these actions."""
    space = "discrete" if dataset.spec.discrete else "box"
    if space not in algorithm.spaces:
        fitting = [name for name in ALGORITHMS if space in get(name).spaces]
        kind = "discrete" if space == "discrete" else "continuous"
        raise ConfigError(
            f"{algorithm.name} does not learn on {kind} actions, which {dataset.id} has.",
            f"These do: {', '.join(fitting)}.",
        )


def _check_select(algorithm: type[Algorithm[Any]], settings: Settings) -> None:
    """Raise ConfigError where there is nothing to select a checkpoint by."""
    if settings.select is None:
        return
    names = [name for name, _ in algorithm.criteria]
    if not names:
        having = ", ".join(name for name in ALGORITHMS if get(name).criteria)
        raise ConfigError(
            f"{algorithm.name} has no criterion on held-out episodes to select by.",
            f"Leave --select away; these have one: {having}.",
        )
    if settings.select not in names:
        raise ConfigError(
            f"{algorithm.name} has no criterion '{settings.select}'."
            f"{suggest(settings.select, names)}",
            f"Use --select {' or '.join(names)}.",
        )
    if not settings.holdout:
        raise ConfigError("No episode is held out to select by.", "Give --holdout 0.2.")


def target(out: str | Path | None, resume: bool) -> tuple[Path | None, Run | None]:
    if out is None:
        if resume:
            raise ConfigError("Nothing says which run to resume.", "Give --out RUN --resume.")
        return None, None
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file.", "Give a folder as --out.")
    there = (folder / "run.toml").is_file()
    if resume and there:
        return folder, read_run(folder / "run.toml")
    if folder.exists() and not all(_begun(path.name) for path in folder.iterdir()):
        raise ConfigError(
            f"The folder {folder} is occupied.",
            "Give --resume to go on with the run in it, or another --out."
            if there
            else "Give another --out.",
        )
    return folder, None


def _begun(name: str) -> bool:
    """Whether a file is what a run leaves that is killed before run.toml is there."""
    return name in (".lock", "algorithm.py") or name.startswith(".run.toml.tmp")


def _reference(dataset: Dataset) -> str:
    """What opens a dataset again from any folder: its id where that finds it, else its path."""
    if dataset.path is None:
        return dataset.id
    try:
        by_id = find(dataset.id).samefile(dataset.path)
    except OffrlError:
        by_id = False
    return dataset.id if by_id else str(dataset.path.absolute())


def _resolved(settings: Settings, dataset: Dataset, together: int) -> tuple[Settings, list[str]]:
    holdout, tried = settings.holdout, settings.eval_env or settings.eval_every
    env_missing = _no_environment(settings, dataset) if tried or holdout is None else None
    if env_missing is not None and tried:
        raise env_missing
    if holdout is None:
        enough = round(DEFAULT_HOLDOUT * dataset.n_episodes) > 0
        holdout = DEFAULT_HOLDOUT if env_missing is not None and enough else 0.0
    device = device_of(settings.device)
    steps = settings.steps * len(settings.seeds) * together
    compiled, notes = compiles(settings.compile, steps, device)
    return replace(
        settings,
        holdout=holdout,
        device=device,
        compile="on" if compiled else "off",
        log_every=settings.log_every or max(1, settings.steps // 200),
        save_every=settings.save_every or max(1, settings.steps // 10),
        eval_every=settings.eval_every or (settings.steps if settings.eval_env else None),
    ), notes


def _no_environment(settings: Settings, dataset: Dataset) -> OffrlError | None:
    """Why the policy cannot be tried, or None where it can."""
    try:
        if settings.eval_env:
            make_env(settings.eval_env).close()
        else:
            env_for(dataset).close()
    except OffrlError as error:
        return error
    return None


def compiles(wish: str, steps: int, device: str) -> tuple[bool, list[str]]:
    if wish == "off" or (wish == "auto" and steps < COMPILE_FROM):
        return False, []
    if fault := _compile_fault(device):
        if wish == "on":
            raise ConfigError(
                f"The update cannot be compiled: {fault}.",
                "Install g++ or clang, or use --compile off.",
            )
        return False, [f"Running eager, which is slower: {fault}."]
    return True, ["Compiling the update: the first steps take up to a minute."]


@cache
def _compile_fault(device: str) -> str | None:
    """Why torch cannot compile on this machine, found by trying; None where it can."""
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        return "there is no C++ compiler"
    try:
        torch.compile(lambda x: x + 1, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:  # torch gives no narrower promise of what its back ends raise
        # A line that ends in a colon only says which part of torch the next one is about.
        lines = [line for line in str(error).splitlines() if not line.rstrip().endswith(":")]
        why = lines[0].strip().rstrip(".") if lines else type(error).__name__
        return f"torch's compiler does not work here ({why})"
    return None


def device_of(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"There is no device '{name}': {str(error).splitlines()[0]}",
            "Use --device auto or cpu.",
        ) from error
    return name


def _held_out(n_episodes: int, holdout: float) -> tuple[int, ...]:
    """The same episodes for every seed and algorithm, so that their scores compare."""
    n = max(1, round(holdout * n_episodes)) if holdout > 0 else 0
    if n >= n_episodes:
        raise ConfigError(
            f"Holding out {holdout:g} of {n_episodes} episodes leaves none to learn from.",
            "Use a smaller --holdout, or 0.",
        )
    chosen = np.random.default_rng(0).permutation(n_episodes)[:n]
    return tuple(int(i) for i in np.sort(chosen))


def _recipe_tables(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Settings of algorithms that the dataset's recipe brings, by the algorithm's name."""
    tables: Any = dataset.metadata
    for key in ("offrl", "recipe", "algorithms"):
        tables = tables.get(key) if isinstance(tables, dict) else None
    found = tables if isinstance(tables, dict) else {}
    return {name: table for name, table in found.items() if isinstance(table, dict)}


def default_folder(algorithm: str, dataset: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    parent = Path("runs") / algorithm / dataset.strip("/").replace(":", "_")
    if inside := next((p for p in parent.parents if (p / "run.toml").exists()), None):
        raise ConfigError(
            f"The usual folder for this run, {parent}, would be inside the run {inside}.",
            "Give another folder: --out DIR.",
        )
    folder, k = parent / stamp, 2
    while folder.exists():
        folder, k = parent / f"{stamp}-{k}", k + 1
    return folder

"""From a shop's log to a judged policy, and the truth that only the shop's simulator knows.

The log is written as CSV and goes the way of any other: import, check, train, judge. Only then is
the policy tried on customers that are known, and the verdict held against what it was worth there.
"""

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offrl.demo.shop import OFFERS, Choosing, Seen, Shop, Truth, log_of, own_rule
from offrl.errors import ConfigError, CorruptDataError, NotFoundError, OffrlError

if TYPE_CHECKING:
    from offrl.data.dataset import Dataset
    from offrl.events import Event
    from offrl.ope.judging import Judgement
    from offrl.policy import Policy

DATASET = "demo/shop-v0"
PREFIX = "demo-"  # of the files and folders that a demonstration leaves
CUSTOMERS = 4_000  # in the log
ROLES: Mapping[str, Any] = {
    "episode": "customer",
    "time": "day",
    "obs": "day,age,device,basket,coupons",
    "action": "offer",
    "reward": "profit",
    "propensity": "chance",
    "ends": "ends",
    "fill": "age=median",
}
ALGORITHM = "awr"
# One pass: V and Q of the shop's own rule, then the policy. A table of five columns needs no more.
STEPS = 1_500
TRAINING: Mapping[str, Any] = {
    "advantage": "q",
    "value_steps": 200,
    "q_steps": 700,
    "policy_steps": 600,
    "temperature": 0.3,
    "lr": 0.001,
    "hidden_size": 64,
    "holdout": 0.4,  # as many customers judge as can be spared
}
JUDGING: Mapping[str, Any] = {"min_uplift": 1, "fqe_steps": 400, "fqe_seeds": 3}
KNOWN = 50_000  # customers whom the truth is measured on
KNOWN_SEED = 1_000_003  # no seed of a log


@dataclass(frozen=True)
class LogDemo:
    """What the demonstration found: the verdict from the log alone, and the truth."""

    log: str  # the CSV that was left
    rows: int
    dataset: dict[str, Any]
    problems: tuple[dict[str, Any], ...]
    run: str
    judgement: dict[str, Any]
    truth: Truth
    commands: tuple[str, ...]
    seconds: float

    @property
    def decision(self) -> dict[str, Any]:
        """The verdict with its uplift, interval, reason and assumptions."""
        return self.judgement["runs"][0]["decision"]

    @property
    def agrees(self) -> bool | None:
        """Whether the truth bears the verdict out; None where nothing was decided."""
        verdict, enough = self.decision["verdict"], self.truth.uplift >= self.decision["min_uplift"]
        return None if verdict == "cannot-tell" else enough == (verdict == "ship")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {
            "log": self.log,
            "rows": self.rows,
            "dataset": self.dataset,
            "problems": list(self.problems),
            "run": self.run,
            "verdict": self.decision["verdict"],
            "ope": self.judgement,
            "truth": asdict(self.truth),
            "agrees": self.agrees,
            "commands": list(self.commands),
            "seconds": self.seconds,
        }


def demonstrate_logs(
    runs: Path = Path("runs"),
    *,
    shop: Shop | None = None,
    seed: int = 0,
    on_stage: Callable[[str], None] = lambda stage: None,
    on_event: "Callable[[Event], None]" = lambda event: None,
    judging: Callable[[int, int], None] | None = None,
) -> LogDemo:
    """Log, import, check, train, judge, and look up the truth.

    The log lands in `runs`/demo-<time>-shop.csv, the run in the folder of that name; `seed` is the
    log's. `on_stage` hears what begins, `on_event` each event of the training, `judging` the
    gradient steps taken and to take.
    Raises ConfigError where a dataset of somebody's own has the name of the demonstration's,
    CorruptDataError where the data does not pass its check.
    """
    started, shop = time.perf_counter(), shop or Shop()
    replaces = _left_before()
    out = runs / f"{PREFIX}{time.strftime('%Y%m%d-%H%M%S')}-shop"
    log = out.with_suffix(".csv")
    on_stage(f"writing the log of {CUSTOMERS} customers to {log}")
    page = log_of(shop.visits(own_rule, CUSTOMERS, seed), seed)
    _write(log, page)
    on_stage(f"importing it as {DATASET}")
    data, problems = _imported(log, replaces)
    on_stage(f"training {ALGORITHM} for {STEPS} steps")
    policy = _trained(data, out, on_event)
    on_stage("judging it from the log alone")
    judgement = _judged(out, data, judging)
    on_stage(f"trying it on {KNOWN} customers of the simulator, and the shop's rule on the same")
    truth = shop.truth(choices_of(policy), judgement.discount, KNOWN, KNOWN_SEED)
    return LogDemo(
        log=str(log),
        rows=page.count("\n") - 1,
        dataset=data.summary(),
        problems=problems,
        run=str(out),
        judgement=judgement.to_dict(),
        truth=truth,
        commands=tuple(_commands(log, out)),
        seconds=time.perf_counter() - started,
    )


def choices_of(policy: "Policy") -> Choosing:
    """Return what a trained policy offers, as the chances (0 or 1) of each offer."""
    names = np.array(OFFERS)

    def choose(seen: Seen) -> np.ndarray:
        return (np.asarray(policy.predict(seen))[:, None] == names).astype(np.float64)

    return choose


def _left_before() -> bool:
    """Whether an earlier demonstration left its dataset."""
    from offrl.data.dataset import load

    try:
        source = load(DATASET).metadata.get("offrl", {}).get("import", {})
    except NotFoundError:
        return False
    except OffrlError:
        return True  # what was left is damaged
    if not str(source.get("file", "")).startswith(PREFIX):
        raise ConfigError(
            f"{DATASET} is a dataset of your own, and the demonstration's has that name.",
            f"offrl data delete {DATASET}, once it has another name or is not needed",
        )
    return True


def _write(log: Path, page: str) -> None:
    from offrl.data.durable import keep_file

    remedy = "Go to a folder that you may write to, or make room."
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OffrlError(
            f"{log} could not be written: {error.strerror or error}.", remedy
        ) from error
    keep_file(log, page.encode(), remedy)


def _imported(log: Path, replaces: bool) -> "tuple[Dataset, tuple[dict[str, Any], ...]]":
    from offrl.data.checks import check
    from offrl.data.formats import import_file

    data = import_file(log, DATASET, overwrite=replaces, **ROLES)
    report = check(data)
    if not report.ok:
        first = next(p for p in report.problems if p.severity == "error")
        raise CorruptDataError(
            f"{data.id} does not pass its check: {first.message}", f"offrl data check {data.id}"
        )
    return data, tuple(report.to_dict()["problems"])


def _trained(data: "Dataset", out: Path, on_event: "Callable[[Event], None]") -> "Policy":
    from offrl.training import fit

    run = fit(ALGORITHM, data, steps=STEPS, out=out, compile="off", on_event=on_event, **TRAINING)
    return run.policy()


def _judged(out: Path, data: "Dataset", judging: Callable[[int, int], None] | None) -> "Judgement":
    from offrl.ope.judging import judge

    return judge(out, data, progress=judging, **JUDGING)


def _commands(log: Path, out: Path) -> list[str]:
    again = shlex.quote(f"{out}-again")
    return [
        f"offrl data import {shlex.quote(str(log))} {_flags(ROLES)} --out {DATASET} --overwrite",
        f"offrl data check {DATASET}",
        f"offrl train --algo {ALGORITHM} --dataset {DATASET} --steps {STEPS} {_flags(TRAINING)} "
        f"--compile off --out {again}",
        f"offrl ope {again} --dataset {DATASET} {_flags(JUDGING)}",
    ]


def _flags(values: Mapping[str, Any]) -> str:
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in values.items()
    )

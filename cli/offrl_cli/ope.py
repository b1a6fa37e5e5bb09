"""`offrl ope`: how good policies are before they act, from logged episodes, and whether to ship."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from offrl.errors import ConfigError
from offrl_cli.commands import Command, command
from offrl_cli.flags import flag, options, peers_of
from offrl_cli.output import Answer, Block, Pairs, Rows, interval, number, quoted
from offrl_cli.progress import Counter
from offrl_cli.stopping import going_on
from offrl_cli.values import bounds, real

RUNS = (
    "What is judged: a run's folder (RUN or RUN/seed_3), FILE.py:FUNCTION, or TABLE.csv:COLUMN with"
    " the candidate's probabilities of the logged actions."
)
DATASET = "Minari id, or a path, of the logged episodes."
ESTIMATORS = "Some of them, with commas between [default: all that the data has]."
DISCOUNT = "Of every value, the behavior's too [default: that of the runs]."
UPLIFT = "Decide: ship where the uplift over the behavior is at least X for sure; else exit with 3."
RANGE = "What a reward can be, LOW,HIGH, known before the data: gives bounds that hold for any n."
CHECKPOINT = "last; selected, by train --select or offrl select; or the step that was saved."
GIVEN = "offrl.ope"  # where the context holds the settings
PREFIX = "ope_"
DECIDED = 3  # a decision was asked for and is not yes

RENAMED = {
    "--run": "offrl ope RUN --dataset REF, without an option",
    "--policy": "offrl ope FILE.py:FUNCTION --dataset REF, without an option",
    "--data": "--dataset",
    "--gamma": "--discount",
    "--methods": "--estimators",
    "--estimator": "--estimators",
    "--alpha": "--level 0.95, the level of the intervals itself",
    "--confidence": "--level",
    "--n-bootstrap": "--replicates",
    "--threshold": "--min-uplift",
    "--stochastic": "--acts sample",
    "--deterministic": "--acts mode",
}


class OpeCommand(Command):
    """`ope`, whose settings are those of `offrl.ope.settings.JudgeConfig`."""

    _peers: Mapping[str, str] = {}
    _names: Mapping[str, str] = {}

    def renamed(self) -> Mapping[str, str]:
        return {**self._peers, **RENAMED}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from offrl.configuration import fields_of
        from offrl.ope.settings import JudgeConfig

        found = fields_of(JudgeConfig)
        taken = {opt for p in self.params for opt in p.opts}
        found = [field for field in found if flag(field) not in taken]
        self._peers = peers_of(found)
        if found:
            self._names = {f"{PREFIX}{field.name}": field.name for field in found}
            self.params = [*self.params, *options("Settings", found, PREFIX)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Hand the settings that were given over to the command in its context."""
        given = {name: ctx.params.pop(key) for key, name in self._names.items()}
        ctx.meta[GIVEN] = {name: value for name, value in given.items() if value is not None}
        return super().invoke(ctx)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "ope", cls=OpeCommand)
    def ope(
        context: typer.Context,
        runs: Annotated[list[str], typer.Argument(metavar="RUN", help=RUNS)],
        dataset: Annotated[str | None, typer.Option(metavar="REF", help=DATASET)] = None,
        estimators: Annotated[str | None, typer.Option(metavar="A,B", help=ESTIMATORS)] = None,
        min_uplift: Annotated[
            float | None, typer.Option(metavar="X", parser=real, help=UPLIFT)
        ] = None,
        discount: Annotated[
            float | None, typer.Option(metavar="X", parser=real, help=DISCOUNT)
        ] = None,
        reward_range: Annotated[
            Any, typer.Option(metavar="LOW,HIGH", parser=bounds, help=RANGE)
        ] = None,
        checkpoint: Annotated[
            str, typer.Option(metavar="last|selected|STEP", help=CHECKPOINT)
        ] = "last",
    ) -> Answer:
        """Judge policies on logged episodes that they did not learn from."""
        if dataset is None:
            raise ConfigError("No dataset is named.", f"offrl ope {quoted(runs[0])} --dataset REF")
        if checkpoint not in ("last", "selected") and not checkpoint.isdecimal():
            raise ConfigError(
                f"--checkpoint: '{checkpoint}' is neither 'last', 'selected' nor a step.",
                "--checkpoint last, selected, or a number under RUN/seed_0/checkpoints",
            )
        from offrl.ope import judge

        again = f"offrl ope {' '.join(quoted(run) for run in runs)} --dataset {quoted(dataset)}"
        with going_on(again), Counter("fitting", "steps") as counter:
            found = judge(
                runs,
                dataset,
                estimators=None if estimators is None else _names(estimators),
                discount=discount,
                reward_range=reward_range,
                min_uplift=min_uplift,
                checkpoint=checkpoint,
                progress=counter,
                **context.meta[GIVEN],
            ).to_dict()
        verdict = found["verdict"]
        return Answer(
            found,
            _blocks(found),
            next=_next(runs, dataset, found),
            exit_code=0 if verdict in (None, "ship") else DECIDED,
            notes=_notes(found),
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _blocks(found: Mapping[str, Any]) -> Sequence[Block]:
    first = found["runs"][0]
    sample = "in_sample: these it learned from" if found["in_sample"] else "not learned from"
    shared: dict[str, object] = {
        "dataset": found["dataset"],
        "episodes": f"{first['episodes']} ({sample}), {first['truncated_episodes']} cut off",
        "discount": f"{found['discount']:g}",
        "behavior": f"{number(found['behavior_value'])} {interval(found['behavior_ci'])}",
        "probabilities": f"{found['behavior']} (behavior)",
    }
    blocks: list[Block] = [Pairs(shared)]
    for run in found["runs"]:
        blocks += _run_blocks(run)
    if found["verdict"] and len(found["runs"]) > 1:
        blocks.append(Pairs({"verdict": f"{found['verdict']} ({found['best']})"}))
    return blocks


def _run_blocks(run: Mapping[str, Any]) -> list[Block]:
    pairs: dict[str, object] = {"candidate": f"{run['run']} ({run['acts']})"}
    if run["ess"] is not None:
        share = run["largest_weight_share"]
        pairs["effective episodes"] = (
            f"{number(float(run['ess']))} of {run['episodes']};"
            f" the largest weight is {share:.0%} of their sum"
        )
    given = {name: one for name, one in run["estimates"].items() if one["refused"] is None}
    rows = [
        (name, one["value"], _bounds(one), one["interval"] or "-", run["uplift"][name]["value"])
        for name, one in given.items()
    ]
    blocks: list[Block] = [Pairs(pairs)]
    if rows:
        level = f"{run['level'] * 100:g}% interval"
        blocks.append(Rows(("estimator", "value", level, "by", "uplift"), rows))
    refused: dict[str, list[str]] = {}
    for name, one in run["estimates"].items():
        if one["refused"] is not None:
            refused.setdefault(one["refused"], []).append(name)
    blocks += [f"refused: {', '.join(names)}. {why}" for why, names in refused.items()]
    blocks += [f"disagreement: {text}." for text in run["disagreements"]]
    if (decision := run["decision"]) is not None:
        blocks.append(
            Pairs(
                {
                    "verdict": f"{decision['verdict']} (asked for: {decision['min_uplift']:g})",
                    "reason": decision["reason"],
                    "if": " ".join(decision["assumptions"]),
                    "would settle": decision["would_settle"],
                }
            )
        )
    return blocks


def _bounds(one: Mapping[str, Any]) -> str:
    return interval(None if one["lo"] is None else (one["lo"], one["hi"]))


def _notes(found: Mapping[str, Any]) -> list[str]:
    many = len(found["runs"]) > 1
    told = [f"note: {text}" for text in found["remarks"]]
    for run in found["runs"]:
        whose = f" {run['run']}:" if many else ""
        told += [f"note:{whose} {text}" for text in run["notes"]]
    return list(dict.fromkeys(told))


def _next(runs: Sequence[str], dataset: str, found: Mapping[str, Any]) -> str:
    if found["verdict"] is None:
        words = " ".join(quoted(run) for run in runs)
        return f"offrl ope {words} --dataset {quoted(dataset)} --min-uplift 0"
    folder = Path(found["best"])
    if folder.is_dir():
        return f"offrl eval {quoted(folder)} --env ENV"
    return f"offrl data show {quoted(dataset)}"

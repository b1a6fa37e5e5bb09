"""`offrl data import` and `offrl data export`: datasets from and to the formats of others."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from offrl_cli.commands import command
from offrl_cli.data import REF, DataCommand, app, summary_blocks
from offrl_cli.output import Answer, Pairs, quoted
from offrl_cli.stopping import going_on
from offrl_cli.values import bounds, one_of, positive

FORMATS = ("d4rl", "npz", "rllib", "csv", "parquet")
WRITTEN = ("d4rl", "parquet", "csv")
TO = "The file to write."
AS = "The format, where the name of the file does not say it."
OVERWRITE_FILE = "Replace a file of the same name."
FILE = "The file to import: D4RL HDF5, npz, RLlib JSON, CSV or Parquet."
FORMAT = "The format, where the contents do not say it."
OUT = "The id of the dataset to make, such as me/shop-v0."
ENV = "The environment that the log comes from, such as Pendulum-v1: its spaces are taken."
BOUNDS = "The least and the greatest action, such as -2,2."
LIMIT = "Episodes of exactly this many steps were cut by a time limit, whatever their flag says."
BOUNDARIES = "d4rl drops the steps that D4RL's own reader drops: time-outs and the last row."
SPLIT = "Where flags and observations disagree: end episodes at flags, or at jumps."
MASKS = "OGBench: split ends an episode where the mask is 0; ignore keeps trajectories whole."
UNIT = "RLlib: the log has actions in [-1, 1]; convert them to the environment's bounds."
OBS = "Table: the columns that decisions were made on, names and patterns, such as 'age,lab_*'."
ACTION = "Table: the column of the action; several for an action of several numbers."
REWARD = "Table: the column of the reward."
EPISODE = "Table: the column that says which rows belong together."
TIME = "Table: the column that orders the rows of an episode; without it, the order of the file."
BANDIT = "Table: every row is a decision of its own, after which nothing follows."
ENDS = "Table: how episodes end, for all of them or by a column; there is no default."
PROPENSITY = "Table: the column of the probability (or density) with which the action was chosen."
LOG_PROB = "Table: the column of its natural log, instead."
MASK = "Table: which actions were possible: a column such as 0110, or one column for each action."
CATEGORIES = "Table: number columns that are choices, not amounts; text always is."
FILL = "Table: what stands for a missing value: mean, median, mode, or COL=VALUE,COL=median."
VALUES = "Table: every choice there is, such as 0-33 or 'drug A,none', where some never occur."
TABLE = "Tables"
OVERWRITE = "Replace a dataset of the same id."


@command(app, "import", cls=DataCommand)
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help=FILE)],
    out: Annotated[str, typer.Option(metavar="ID", help=OUT)],
    format: Annotated[
        str | None, typer.Option(metavar="|".join(FORMATS), parser=one_of(*FORMATS), help=FORMAT)
    ] = None,
    env: Annotated[str | None, typer.Option(metavar="ENV", help=ENV)] = None,
    action_bounds: Annotated[
        Any, typer.Option(metavar="LOW,HIGH", parser=bounds, help=BOUNDS)
    ] = None,
    time_limit: Annotated[
        int | None, typer.Option(metavar="STEPS", parser=positive, help=LIMIT)
    ] = None,
    boundaries: Annotated[
        str | None,
        typer.Option(metavar="keep|d4rl", parser=one_of("keep", "d4rl"), help=BOUNDARIES),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="flags|jumps", parser=one_of("flags", "jumps"), help=SPLIT),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(metavar="split|ignore", parser=one_of("split", "ignore"), help=MASKS),
    ] = None,
    unit_actions: Annotated[bool, typer.Option("--unit-actions", help=UNIT)] = False,
    obs: Annotated[
        str | None, typer.Option(metavar="COLS", help=OBS, rich_help_panel=TABLE)
    ] = None,
    action: Annotated[
        str | None, typer.Option(metavar="COLS", help=ACTION, rich_help_panel=TABLE)
    ] = None,
    reward: Annotated[
        str | None, typer.Option(metavar="COL", help=REWARD, rich_help_panel=TABLE)
    ] = None,
    episode: Annotated[
        str | None, typer.Option(metavar="COL", help=EPISODE, rich_help_panel=TABLE)
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="COL", help=TIME, rich_help_panel=TABLE)
    ] = None,
    ends: Annotated[
        str | None,
        typer.Option(metavar="terminated|truncated|COL", help=ENDS, rich_help_panel=TABLE),
    ] = None,
    bandit: Annotated[bool, typer.Option("--bandit", help=BANDIT, rich_help_panel=TABLE)] = False,
    propensity: Annotated[
        str | None, typer.Option(metavar="COL", help=PROPENSITY, rich_help_panel=TABLE)
    ] = None,
    log_prob: Annotated[
        str | None, typer.Option(metavar="COL", help=LOG_PROB, rich_help_panel=TABLE)
    ] = None,
    action_mask: Annotated[
        str | None, typer.Option(metavar="COLS", help=MASK, rich_help_panel=TABLE)
    ] = None,
    action_values: Annotated[
        str | None, typer.Option(metavar="VALUES", help=VALUES, rich_help_panel=TABLE)
    ] = None,
    categories: Annotated[
        str | None, typer.Option(metavar="COLS", help=CATEGORIES, rich_help_panel=TABLE)
    ] = None,
    fill: Annotated[
        str | None, typer.Option(metavar="RULE", help=FILL, rich_help_panel=TABLE)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> Answer:
    """Import a log in a foreign format as a dataset; say what was assumed."""
    from offrl import import_file

    options: dict[str, Any] = {
        "action_bounds": action_bounds,
        "boundaries": boundaries,
        "split": split,
        "masks": masks,
        "unit_actions": unit_actions or None,
        "obs": obs,
        "action": action,
        "reward": reward,
        "episode": episode,
        "time": time,
        "ends": ends,
        "bandit": bandit or None,
        "propensity": propensity,
        "log_prob": log_prob,
        "action_mask": action_mask,
        "action_values": action_values,
        "categories": categories,
        "fill": fill,
    }
    shared: dict[str, Any] = {
        "format": format,
        "env": env,
        "time_limit": time_limit,
        "overwrite": overwrite,
    }
    with going_on(_typed(file, out, {**shared, **options})):
        data = import_file(file, out, **shared, **_spaces(env), **options)
    summary, source = data.summary(), data.metadata["offrl"]["import"]
    return Answer(
        {**summary, "import": source},
        [*summary_blocks(summary), *(f"note: {note}" for note in source["notes"])],
        next=f"offrl data check {quoted(data.id)}",
    )


@command(app, "export", cls=DataCommand)
def export(
    ref: Annotated[str, typer.Argument(metavar="REF", help=REF)],
    out: Annotated[str, typer.Option(metavar="FILE", help=TO)],
    format: Annotated[
        str | None, typer.Option(metavar="|".join(WRITTEN), parser=one_of(*WRITTEN), help=AS)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE_FILE)] = False,
) -> Answer:
    """Export a dataset as D4RL HDF5, Parquet or CSV."""
    from offrl import export_file, load

    data = load(ref)
    with going_on(f"offrl data export {quoted(ref)} --out {quoted(out)}"):
        made = export_file(data, out, format=format, overwrite=overwrite)
    summary = data.summary()
    file = {"file": str(made.path), "format": made.format, "rows": made.rows, "bytes": made.bytes}
    words = " ".join(quoted(word) for word in made.import_options)
    return Answer(
        {**summary, **file, "notes": list(made.notes)},
        [Pairs({"dataset": data.id, **file}), *(f"note: {note}" for note in made.notes)],
        next=f"offrl data import {quoted(made.path)} {words} --out me/copy-v0".replace("  ", " "),
    )


def _typed(file: str, out: str, options: Mapping[str, Any]) -> str:
    """The command line that these options came from."""
    words = ["offrl", "data", "import", file, "--out", out]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, tuple):
            words.append(f"{flag}={value[0]:g},{value[1]:g}")  # it may begin with a minus
        elif value is True:
            words.append(flag)
        elif value not in (None, False):
            words += [flag, str(value)]
    return " ".join(quoted(word) for word in words)


def _spaces(env: str | None) -> dict[str, Any]:
    if env is None:
        return {}
    from offrl.environments import make_env

    made = make_env(env)
    try:
        return {"observation_space": made.observation_space, "action_space": made.action_space}
    finally:
        made.close()

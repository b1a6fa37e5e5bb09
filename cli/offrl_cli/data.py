"""`offrl data`: list, show, check and download datasets; `foreign` imports and exports."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from offrl_cli.commands import Command, Group, command, new_app
from offrl_cli.output import Answer, Block, Pairs, Rows, number, quoted, spread
from offrl_cli.progress import Counter
from offrl_cli.stopping import going_on
from offrl_cli.values import one_of

REF = "A dataset: its id, or the path of its folder or file."
WHERE = "local: what is on this machine and the recipes offrl ships; remote: Minari's own list."
PREFIX = "Only ids that begin with this, such as mujoco/hopper."
ID = "The id of a remote dataset, such as mujoco/hopper/medium-v0."
OVERWRITE = "Download again and replace what is here."

app = new_app(help="List, show, check, import, export and make datasets.", cls=Group)


RENAMED = {
    "--dataset": "the dataset without an option: offrl data show REF",
    "--force": "--overwrite",
    "--force-download": "--overwrite",
    "--remote": "offrl data list remote",
    "--local": "offrl data list local",
}


class DataCommand(Command):
    """A command on one dataset, which knows what people type instead."""

    def renamed(self) -> Mapping[str, str]:
        return RENAMED


def summary_blocks(summary: Mapping[str, Any]) -> Sequence[Block]:
    """Return the figures of a dataset as lines for a person."""
    ends = f"{summary['terminated_episodes']} terminated, {summary['truncated_episodes']} truncated"
    pairs = {
        "dataset": summary["dataset"],
        "path": summary["path"] or "in memory",
        "episodes": f"{summary['episodes']} ({ends})",
        "steps": summary["steps"],
        "return": f"{number(summary['return_mean'])}{spread(summary['return_std'])}",
        "log_prob": summary["log_prob"],
        "fingerprint": summary["fingerprint"],
    }
    return [Pairs(pairs)]


@command(app, "list", cls=DataCommand)
def list_(
    where: Annotated[
        str, typer.Argument(metavar="local|remote", parser=one_of("local", "remote"), help=WHERE)
    ] = "local",
    prefix: Annotated[str | None, typer.Option(metavar="PREFIX", help=PREFIX)] = None,
) -> Answer:
    """List the datasets that are here, or those that can be downloaded."""
    return _remote(prefix) if where == "remote" else _local(prefix)


def _local(prefix: str | None) -> Answer:
    from offrl.data.catalogue import datasets_root, list_local, shipped_recipes

    here = [row for row in list_local() if row["id"].startswith(prefix or "")]
    recipes = sorted(name for name in shipped_recipes() if name.startswith(prefix or ""))
    ids = {row["id"] for row in here}
    missing = [name for name in recipes if name not in ids]
    blocks: list[Block] = [f"root: {datasets_root()}"]
    sound = [row for row in here if row["problem"] is None]
    if sound:
        columns = ("dataset", "episodes", "steps", "MB", "env")
        rows = [
            (row["id"], row["episodes"], row["steps"], row["bytes"] / 1e6, row["env"])
            for row in sound
        ]
        blocks.append(Rows(columns, rows))
    elif not here:
        blocks.append("no datasets here yet")
    blocks += [f"damaged: {row['id']}: {row['problem']}" for row in here if row["problem"]]
    if missing:
        blocks += ["", "recipes that are not collected yet:", *(f"  {name}" for name in missing)]
    following = "offrl data list remote"
    if sound:
        following = f"offrl data show {quoted(sound[0]['id'])}"
    elif missing:
        following = f"offrl collect {quoted(missing[0])}"
    data = {"root": str(datasets_root()), "datasets": here, "recipes": recipes}
    return Answer(data, blocks, next=following)


def _remote(prefix: str | None) -> Answer:
    from offrl.data.hub import list_remote

    with going_on("offrl data list remote"):
        rows = list_remote(prefix)
    keys = ("dataset", "episodes", "steps", "megabytes", "env", "local")
    headings = ("dataset", "episodes", "steps", "MB", "env", "here")
    table = Rows(headings, [[row[key] for key in keys] for row in rows])
    blocks: list[Block] = [table] if rows else ["nothing is listed there"]
    name = quoted(rows[0]["dataset"]) if rows else "ID"
    return Answer({"datasets": rows}, blocks, next=f"offrl data download {name}")


@command(app, "show", cls=DataCommand)
def show(ref: Annotated[str, typer.Argument(metavar="REF", help=REF)]) -> Answer:
    """Show what a dataset holds: figures, spaces, columns, and where it comes from."""
    from offrl import load
    from offrl.data.lineage import sentence

    data = load(ref)
    summary, described = data.summary(), data.describe()
    rows = [
        (part["path"], part["kind"], part["shape"], part["dtype"], columns_of(part["columns"]))
        for part in described["parts"]
    ]
    origin = {"env": described["env"] or "not named", "action": described["action"]}
    for key, value in described["metadata"].items():
        if value:
            origin[key] = ", ".join(map(str, value)) if isinstance(value, list) else value
    behaviors = described["behaviors"]
    if isinstance(behaviors, list):
        origin["behaviors"] = "; ".join(f"{i} {_behavior(one)}" for i, one in enumerate(behaviors))
    made = sentence(described["lineage"])
    if made is not None:
        origin["made by"] = made
    blocks: list[Block] = [
        *summary_blocks(summary),
        Pairs(origin),
        "",
        Rows(("observation", "kind", "shape", "dtype", "columns of obs"), rows),
        *_table(described["table"]),
    ]
    return Answer(
        {**summary, **{key: value for key, value in described.items() if key not in summary}},
        blocks,
        next=f"offrl data check {quoted(ref)}",
    )


def _table(columns: Sequence[Mapping[str, Any]] | None) -> list[Block]:
    """Return what the columns of the table were that a dataset came from."""
    if columns is None:
        return []
    rows = [
        (
            one["name"],
            one["role"],
            one["kind"],
            _shortened(one["values"] or ()),
            "" if one["fill"] is None else str(one["fill"]),
        )
        for one in columns
    ]
    return ["", Rows(("column", "role", "kind", "values", "stands for a missing one"), rows)]


def _shortened(values: Sequence[object], most: int = 48) -> str:
    """Return the first values, as many as fit, and how many there are."""
    text = ", ".join(map(str, values))
    return text if len(text) <= most else f"{text[:most].rstrip(', ')} ... ({len(values)})"


def _behavior(described: object) -> str:
    """Return a behavior of a recipe as `--policy` and `data filter --behavior` take it."""
    if not isinstance(described, Mapping):
        return str(described)
    if "policy" not in described:
        return f"number {described.get('behavior')} of {described.get('dataset')}"
    options = [f"{key}={described[key]:g}" for key in ("noise", "epsilon") if described.get(key)]
    options += ["stochastic"] if described.get("stochastic") else []
    return ",".join([str(described["policy"]), *options])


def columns_of(columns: Sequence[int] | None) -> str:
    """Return "0-2" for the columns [0, 3); text has none."""
    if columns is None:
        return "left out"
    first, stop = columns
    return str(first) if stop == first + 1 else f"{first}-{stop - 1}"


@command(app, "check", cls=DataCommand)
def check(ref: Annotated[str, typer.Argument(metavar="REF", help=REF)]) -> Answer:
    """Check a dataset: alignment, ends, bounds, values that are not finite, duplicates, damage."""
    from offrl import check as check_dataset

    report = check_dataset(ref)
    blocks: list[Block] = [f"{report.dataset}: {report.episodes} episodes, {report.steps} steps"]
    for problem in report.problems:
        blocks.append(f"{problem.severity} {problem.code} ({problem.count}): {problem.message}")
        if problem.places:
            blocks.append(f"  at {', '.join(problem.places)}")
        blocks.append(f"  {problem.advice}")
    blocks.append("sound" if report.ok else "not sound: see the errors above")
    following = "offrl algos --dataset" if report.ok else "offrl data show"
    return Answer(
        report.to_dict(),
        blocks,
        next=f"{following} {quoted(ref)}",
        exit_code=0 if report.ok else 1,
    )


@command(app, "download", cls=DataCommand)
def download(
    ref: Annotated[str, typer.Argument(metavar="ID", help=ID)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> Answer:
    """Download a dataset, going on with what an earlier try left, and check what came."""
    from offrl.data.hub import download as fetch

    again = f"offrl data download {quoted(ref)}{' --overwrite' if overwrite else ''}"
    with going_on(again), Counter(f"downloading {ref}", "bytes") as counter:
        data = fetch(ref, overwrite=overwrite, progress=counter)
    summary = data.summary()
    return Answer(summary, summary_blocks(summary), next=f"offrl data check {quoted(data.id)}")

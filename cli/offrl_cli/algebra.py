"""`offrl data filter | split | mix | delete`: datasets made of others, and datasets removed."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offrl.errors import ConfigError
from offrl_cli.commands import Command, command
from offrl_cli.data import REF, summary_blocks
from offrl_cli.output import Answer, Block, Pairs, clean, note, number, quoted
from offrl_cli.stopping import going_on
from offrl_cli.values import natural, one_of, positive, real

if TYPE_CHECKING:
    from offrl.data.dataset import Dataset
    from offrl.data.deletion import Deletion

OUT = "Id of the dataset to write."
OUTS = "Id of the dataset to write, once for each part."
OVERWRITE = "Replace a dataset of the same id."
EPISODES = "Only these episodes: 0-9,20,30- for example."
PARTS = "The episodes of a part, 0-79 for example, instead of shares; once for each part."
TOP = "Only this share of the episodes, those with the highest returns: 0.1 is the best tenth."
BOTTOM = "Only this share of the episodes, those with the lowest returns."
MIN_RETURN = "Only episodes of at least this return."
MAX_RETURN = "Only episodes of at most this return."
MIN_LENGTH = "Only episodes of at least this many steps."
MAX_LENGTH = "Only episodes of at most this many steps."
ENDED = "Only episodes that ended like this: terminated or truncated."
BEHAVIOR = "Only episodes of this behavior: its number, or its policy as `data show` names it."
INFO = "Only episodes in which this info is true at some step: success for example."
LOGGED = "Only episodes with the behavior's log-probability at every step."
FINITE = "Only episodes without NaN and infinity."
DISTINCT = "Of episodes that are equal, only the first."
SKIP_CORRUPT = "Leave out episodes that are damaged, and go on with the others."
SHARES = "Shares of the episodes, 0.8,0.2 for example; one short, and the last part has the rest."
SEED = "Seed of what is drawn at random."
REFS = "Datasets with equal spaces: ids or paths, two or more."
MIX_SHARES = (
    "How much of each, in the order of the datasets: 0.7,0.3 or 3,1; without it, everything."
)
BY = "What the shares count: episodes or steps."
MIX_EPISODES = "Episodes of the mixture; as many as the shares allow without it."
ENV_STEPS = "Environment steps of the mixture, to within an episode of each dataset."
ID = "The id of a dataset on this machine."
YES = "Do not ask."
NOT_DONE = 3

RENAMED = {
    "--dataset": "the dataset without an option, before the options",
    "--dataset-id": "--out",
    "--output": "--out",
    "--name": "--out",
    "--force": "--overwrite",
    "--quantile": "--top or --bottom",
    "--percent": "--top 0.1",
    "--min-steps": "--min-length",
    "--max-steps": "--max-length",
    "--policy": "--behavior",
    "--steps": "--env-steps (a step is a gradient step elsewhere in offrl)",
    "--weights": "--shares",
    "--ratio": "--shares",
    "--sizes": "--shares",
    "-y": "--yes",
}

Out = Annotated[str, typer.Option(metavar="ID", help=OUT)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)]
Seed = Annotated[int, typer.Option(metavar="S", parser=natural, help=SEED)]


class AlgebraCommand(Command):
    """A command that makes or removes datasets, which knows what people type instead."""

    def renamed(self) -> Mapping[str, str]:
        return RENAMED


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @command(app, "filter", cls=AlgebraCommand)
    def filter_(
        ref: Annotated[str, typer.Argument(metavar="REF", help=REF)],
        out: Out,
        top: Annotated[float | None, typer.Option(metavar="SHARE", parser=real, help=TOP)] = None,
        bottom: Annotated[
            float | None, typer.Option(metavar="SHARE", parser=real, help=BOTTOM)
        ] = None,
        min_return: Annotated[
            float | None, typer.Option(metavar="X", parser=real, help=MIN_RETURN)
        ] = None,
        max_return: Annotated[
            float | None, typer.Option(metavar="X", parser=real, help=MAX_RETURN)
        ] = None,
        min_length: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=MIN_LENGTH)
        ] = None,
        max_length: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=MAX_LENGTH)
        ] = None,
        episodes: Annotated[str | None, typer.Option(metavar="RANGES", help=EPISODES)] = None,
        ended: Annotated[
            str | None,
            typer.Option(metavar="HOW", parser=one_of("terminated", "truncated"), help=ENDED),
        ] = None,
        behavior: Annotated[
            list[str] | None, typer.Option(metavar="NUMBER|POLICY", help=BEHAVIOR)
        ] = None,
        info: Annotated[str | None, typer.Option(metavar="KEY", help=INFO)] = None,
        logged: Annotated[bool, typer.Option("--logged", help=LOGGED)] = False,
        finite: Annotated[bool, typer.Option("--finite", help=FINITE)] = False,
        distinct: Annotated[bool, typer.Option("--distinct", help=DISTINCT)] = False,
        skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help=SKIP_CORRUPT)] = False,
        overwrite: Overwrite = False,
    ) -> Answer:
        """Write the episodes that meet every condition as a dataset of their own.

        --top and --bottom count what the other conditions leave.
        """
        from offrl import load
        from offrl.data.algebra import filter_episodes
        from offrl.data.recovery import recover

        _require_free([out], overwrite=overwrite)
        conditions: dict[str, Any] = {
            "episodes": episodes, "min_return": min_return, "max_return": max_return,
            "min_length": min_length, "max_length": max_length, "ended": ended,
            "behavior": behavior or None, "info": info, "logged": logged, "finite": finite,
            "distinct": distinct, "top": top, "bottom": bottom,
        }  # fmt: skip
        chosen = recover(ref) if skip_corrupt else load(ref)
        if not skip_corrupt or any(value not in (None, False) for value in conditions.values()):
            chosen = filter_episodes(chosen, **conditions)
        return _one(_saved(chosen, out, overwrite=overwrite))

    @command(app, "split", cls=AlgebraCommand)
    def split(
        ref: Annotated[str, typer.Argument(metavar="REF", help=REF)],
        out: Annotated[list[str], typer.Option(metavar="ID", help=OUTS)],
        shares: Annotated[str | None, typer.Option(metavar="A,B,...", help=SHARES)] = None,
        episodes: Annotated[list[str] | None, typer.Option(metavar="RANGES", help=PARTS)] = None,
        seed: Seed = 0,
        overwrite: Overwrite = False,
    ) -> Answer:
        """Write parts that share no episode as datasets: one to train, one to judge."""
        from offrl import load
        from offrl.data.algebra import split_episodes

        _require_free(out, overwrite=overwrite)
        if (shares is None) == (not episodes):
            raise ConfigError(
                "A split is by shares or by episodes.", "--shares 0.8,0.2 or --episodes 0-79 twice"
            )
        parts_of = _shares(shares)
        if parts_of is not None and len(parts_of) == len(out) - 1:
            parts_of = (*parts_of, 1.0 - sum(parts_of))
        named = len(parts_of) if parts_of is not None else len(episodes or ())
        if named != len(out):
            raise ConfigError(
                f"There are {named} parts and {len(out)} ids.", "Give --out once for each part."
            )
        parts = split_episodes(load(ref), shares=parts_of, episodes=episodes or None, seed=seed)
        made = [_saved(part, id, overwrite=overwrite) for part, id in zip(parts, out, strict=True)]
        blocks: list[Block] = []
        for one in made:
            blocks += [*_blocks(one), ""]
        return Answer(
            {"parts": [_shown(one) for one in made]},
            blocks[:-1],
            next=f"offrl train --algo awr --dataset {quoted(out[0])}",
        )

    @command(app, "mix", cls=AlgebraCommand)
    def mix(
        refs: Annotated[list[str], typer.Argument(metavar="REF REF ...", help=REFS)],
        out: Out,
        shares: Annotated[str | None, typer.Option(metavar="A,B,...", help=MIX_SHARES)] = None,
        by: Annotated[
            str, typer.Option(metavar="WHAT", parser=one_of("episodes", "steps"), help=BY)
        ] = "episodes",
        episodes: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=MIX_EPISODES)
        ] = None,
        env_steps: Annotated[
            int | None, typer.Option(metavar="N", parser=positive, help=ENV_STEPS)
        ] = None,
        seed: Seed = 0,
        overwrite: Overwrite = False,
    ) -> Answer:
        """Write whole episodes of several datasets as one: all of them, or in given shares."""
        from offrl import load
        from offrl.data.mixing import mix as mix_datasets

        _require_free([out], overwrite=overwrite)
        mixed = mix_datasets(
            [load(ref) for ref in refs], shares=_shares(shares),
            by=by,  # pyright: ignore[reportArgumentType]  # one_of gives nothing else
            episodes=episodes, env_steps=env_steps, seed=seed, id=out,
        )  # fmt: skip
        return _one(_saved(mixed, out, overwrite=overwrite))

    @command(app, "delete", cls=AlgebraCommand)
    def delete(
        id: Annotated[str, typer.Argument(metavar="ID", help=ID)],
        yes: Annotated[bool, typer.Option("--yes", help=YES)] = False,
    ) -> Answer:
        """Delete a dataset: its own files and nothing else."""
        from offrl.data.deletion import deletion

        planned = deletion(id)
        agreed = yes or _asked(planned)
        if agreed:
            planned.carry_out()
        others = [str(path) for path in planned.others]
        data = {
            "dataset": planned.id, "path": str(planned.path), "deleted": agreed,
            "files": len(planned.files), "bytes": planned.size, "kept": others,
        }  # fmt: skip
        done = f"deleted {planned.id}" if agreed else f"{planned.id} is still there"
        blocks: list[Block] = [f"{done}: {len(planned.files)} files, {planned.size / 1e6:.1f} MB"]
        blocks += [f"not of the dataset, and left: {path}" for path in others]
        following = "offrl data list" if agreed else f"offrl data delete {quoted(planned.id)} --yes"
        return Answer(data, blocks, next=following, exit_code=0 if agreed else NOT_DONE)


def _asked(planned: "Deletion") -> bool:
    """Ask the person at the terminal; where there is none, the answer is no."""
    size = f"{planned.size / 1e6:.1f} MB"
    if not sys.stdin.isatty():
        note(f"{planned.path} ({size}) is deleted only after a yes; --yes says it beforehand.")
        return False
    print(f"Delete {clean(planned.path)} ({size})? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _shares(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--shares: '{text}' holds no shares.", "--shares 0.8,0.2") from None


def _require_free(outs: Sequence[str], *, overwrite: bool) -> None:
    """Refuse before anything is read or written, so that no part of several is written."""
    from offrl.data.catalogue import dataset_path

    if len(set(outs)) != len(outs):
        raise ConfigError("--out names the same id twice.", "Give each part an id of its own.")
    for id in outs:
        path = dataset_path(id)
        if path.exists() and not overwrite:
            raise ConfigError(
                f"The dataset {id} exists already, in {path}.",
                "Choose another id, or replace it with --overwrite.",
            )


def _saved(data: "Dataset", id: str, *, overwrite: bool) -> "Dataset":
    with going_on("the same command again: nothing of it is under its id yet"):
        return data.save(id, overwrite=overwrite)


def _one(data: "Dataset") -> Answer:
    return Answer(_shown(data), _blocks(data), next=f"offrl data check {quoted(data.id)}")


def _shown(data: "Dataset") -> dict[str, Any]:
    """What `data show` says of a dataset."""
    return {**data.describe(), **data.summary()}


def _blocks(data: "Dataset") -> list[Block]:
    sources = (data.describe()["lineage"] or {}).get("sources", [])
    origin = {
        f"from {source['dataset']}": f"{number(source['taken']['episodes'])} of"
        f" {number(source['episodes'])} episodes, {number(source['taken']['steps'])} of"
        f" {number(source['steps'])} steps"
        for source in sources
    }
    return [*summary_blocks(data.summary()), Pairs(origin)]

"""`write_report` and `write_card`: what came of runs, or what a dataset holds, as an HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from offrl.data.dataset import Dataset, load
from offrl.data.durable import keep_file
from offrl.errors import ConfigError
from offrl.evaluation.runfolders import Named
from offrl.plain import clean
from offrl.report import sections
from offrl.report.arms import Arm, Gathered, gather
from offrl.report.cards import card_of
from offrl.report.curves import curves_by_arm
from offrl.report.figures import check_figures, write_figures
from offrl.report.final import Final, finals_of
from offrl.report.judged import judged_runs
from offrl.report.page import render
from offrl.report.parts import Section


@dataclass(frozen=True)
class Report:
    """What was found of runs, and what was written."""

    runs: tuple[Path, ...]
    arms: tuple[Arm, ...]
    finals: tuple[Final, ...]
    notes: tuple[str, ...]  # what was left aside or warned of, a sentence each
    path: Path | None = None
    bytes: int = 0
    sections: tuple[str, ...] = ()
    figures: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON, the keys that scripts rely on first."""
        return {
            "report": None if self.path is None else str(self.path),
            "bytes": self.bytes,
            "sections": list(self.sections),
            "runs": [str(run) for run in self.runs],
            "results": [one.to_dict() for one in self.finals],
            "figures": [str(figure) for figure in self.figures],
            "notes": list(self.notes),
        }


def write_report(
    runs: Named,
    out: str | Path = "report.html",
    *,
    figures: str | Path | None = None,
    overwrite: bool = False,
) -> Report:
    """Write what came of runs as one HTML file, whole or not at all; the same as `offrl report`.

    `runs` names folders or globs, as `offrl.results` takes them; `figures` is a folder for the
    charts as PDF and SVG. Raises ConfigError for a file that exists, NotFoundError where there is
    no run, OffrlError where the disk refuses.
    """
    return make(runs, out, figures=figures, overwrite=overwrite)


def make(
    runs: Named,
    out: str | Path | None,
    *,
    figures: str | Path | None = None,
    overwrite: bool = False,
) -> Report:
    """Return what came of runs, and write the page and the figures that are asked for."""
    path = None if out is None else free_file(out, overwrite=overwrite)
    folder = None if figures is None else Path(figures).expanduser()
    if folder is not None:
        check_figures(folder)
    found = gather(runs)
    finals = tuple(one for arm in found.arms for one in finals_of(arm))
    drawn = path is not None or folder is not None
    judged, faults = judged_runs(found) if drawn else ([], [])
    told = [clean(text) for text in (*found.notes, *faults)]
    report = Report(tuple(run.dir for run in found.runs), found.arms, finals, tuple(told))
    if not drawn:
        return report
    curves = curves_by_arm(found.arms)
    if folder is not None:
        files = write_figures(folder, found.tasks, curves, judged, overwrite=overwrite)
        report = replace(report, figures=files)
    if path is None:
        return report
    parts = [
        sections.results(finals),
        sections.learning(found, curves),
        sections.worked_online(found, curves),
        sections.evaluated_from_logs(judged),
        sections.over_estimation(found, curves),
        sections.datasets(found),
        sections.repeating(found),
    ]
    notes = tuple([*told, *sections.warnings_of(found)])
    text = _rendered(_title(found), _lead(found), parts, notes)
    _write(path, text)
    shown = tuple(part.id for part in parts if not part.empty)
    return replace(report, path=path, bytes=len(text.encode()), sections=shown, notes=notes)


@dataclass(frozen=True)
class CardPage:
    """A dataset's card that was written."""

    path: Path
    bytes: int
    summary: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {"report": str(self.path), "bytes": self.bytes, **self.summary}


def write_card(
    data: Dataset | str | Path, out: str | Path = "card.html", *, overwrite: bool = False
) -> CardPage:
    """Write the card of a dataset as one HTML file; the same as `offrl report --dataset`.

    Raises ConfigError for a file that exists, what `load` raises, and OffrlError where the disk
    refuses.
    """
    path = free_file(out, overwrite=overwrite)
    opened = data if isinstance(data, Dataset) else load(data)
    card = card_of(opened)
    lead = f"A dataset of {opened.n_episodes:,} episodes and {opened.n_steps:,} steps."
    text = _rendered(card.id, lead, [Section("data", "What it holds", cards=[card])], ())
    _write(path, text)
    return CardPage(path, len(text.encode()), opened.summary())


def free_file(out: str | Path, *, overwrite: bool) -> Path:
    """Return the path of a file that may be written. Raises ConfigError where it may not."""
    path = Path(out).expanduser()
    if path.is_dir():
        raise ConfigError(f"{path} is a folder.", "Name a file, such as --out report.html.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists already.", "Choose another name, or give --overwrite.")
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {path.parent}.", "Make it first.")
    return path


def _rendered(title: str, lead: str, parts: Sequence[Section], notes: Sequence[str]) -> str:
    version = metadata.version("offrl")
    made = datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
    foot = f"Made by offrl {version} on {made}. This file holds all that it shows and asks nobody."
    return render(title=title, lead=lead, foot=foot, version=version, sections=parts, notes=notes)


def _write(path: Path, text: str) -> None:
    keep_file(path, text.encode(), "Make room, or choose another folder.")


def _title(found: Gathered) -> str:
    algorithms = dict.fromkeys(clean(arm.first.run.algorithm) for arm in found.arms)
    tasks = list(dict.fromkeys(arm.task for arm in found.arms))
    which = _listed(list(algorithms)) if len(algorithms) <= 5 else f"{len(algorithms)} algorithms"
    if len(tasks) > 1:
        return f"{which} on {len(tasks)} tasks"
    return f"{which} {tasks[0].title}" if tasks[0].acts else f"{which} on {clean(tasks[0].dataset)}"


def _lead(found: Gathered) -> str:
    seeds, arms, runs = sum(len(a.seeds) for a in found.arms), len(found.arms), len(found.runs)
    told = [_many(arms, "setting"), _many(seeds, "trained seed"), _many(runs, "run folder")]
    return f"{_listed(told)}."


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

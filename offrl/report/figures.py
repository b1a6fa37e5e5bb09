"""The charts of a report as PDF and SVG, for papers."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

from offrl.data.durable import write_file
from offrl.errors import ConfigError, OffrlError
from offrl.evaluation.results import TRIED
from offrl.report.arms import Arm, Task
from offrl.report.curves import Curves
from offrl.report.judged import Judged

KINDS = ("pdf", "svg")
COLOURS = ("#2b66ad", "#c2500f", "#2c7f52", "#8449ac", "#9a7208", "#b93a72", "#2d808c", "#666c75")
DASHES = ("-", "--", ":", "-.")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e4e2",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#9aa0a6",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "offrl",  # the same figure is the same file
}


def check_figures(folder: Path) -> None:
    """Raise ConfigError where figures cannot be drawn or cannot go into `folder`."""
    if util.find_spec("matplotlib") is None:
        raise ConfigError(
            "Figures need matplotlib, which is not here.", "pip install 'offrl[figures]'"
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is no folder.", "Name a folder for --figures.")
    if not folder.exists() and not folder.parent.is_dir():
        raise ConfigError(f"There is no folder {folder.parent}.", "Make it first.")


def write_figures(
    folder: Path,
    tasks: Mapping[Task, Sequence[Arm]],
    curves: Curves,
    judged: Sequence[Judged],
    *,
    overwrite: bool,
) -> tuple[Path, ...]:
    """Write every figure as PDF and SVG, each whole or not at all, and return their paths.

    Raises ConfigError, before anything is written, where one is there and may not be replaced.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        drawn = {**dict(_curve_figures(tasks, curves)), **dict(_value_figures(judged))}
        files = {folder / f"{name}.{kind}": one for name, one in drawn.items() for kind in KINDS}
        taken = [path for path in files if path.exists()]
        if taken and not overwrite:
            raise ConfigError(
                f"{taken[0]} exists already.", "Choose another folder, or give --overwrite."
            )
        try:
            folder.mkdir(exist_ok=True)
            for path, figure in files.items():
                content = io.BytesIO()
                kind = path.suffix[1:]
                undated = {"CreationDate": None} if kind == "pdf" else {"Date": None}
                figure.savefig(content, format=kind, metadata=undated)
                write_file(path, content.getvalue())
        except OSError as error:
            raise OffrlError(
                f"The figures could not be written to {folder}: {error.strerror or error}.",
                "Make room, or choose another folder.",
            ) from error
    return tuple(files)


def _curve_figures(
    tasks: Mapping[Task, Sequence[Arm]], curves: Curves
) -> Iterator[tuple[str, Any]]:
    for number, (task, arms) in enumerate(tasks.items()):
        found = [(arm, curves[arm.key][TRIED]) for arm in arms if TRIED in curves[arm.key]]
        if not found:
            continue
        figure, axes = _empty(task.title)
        for arm, curve in found:
            colour, dash = _stroke(arm.number)
            axes.plot(curve.steps, curve.mean, dash, color=colour, linewidth=1.6)
            low, high = curve.band()
            axes.fill_between(curve.steps, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.set_xlabel("environment steps" if task.acts else "gradient steps")
        axes.set_ylabel("return")
        _legend(axes, axes.lines, [f"{arm.label} (n={len(c.seeds)})" for arm, c in found])
        yield f"{'acting' if task.acts else 'learning'}-{number}-{_slug(task.title)}", figure


def _value_figures(judged: Sequence[Judged]) -> Iterator[tuple[str, Any]]:
    groups: dict[tuple[Task, float], list[Judged]] = {}
    for one in judged:
        groups.setdefault((one.arm.task, one.discount), []).append(one)
    for number, ((task, discount), mine) in enumerate(groups.items()):
        names = list(
            dict.fromkeys(e.name for o in mine for e in o.estimates if e.value is not None)
        )
        figure, axes = _empty(task.title, height=0.9 + 0.75 * len(mine))
        for row, one in enumerate(mine):
            given = {e.name: e for e in one.estimates if e.value is not None}
            for place, name in enumerate(names):
                if (estimate := given.get(name)) is None or estimate.value is None:
                    continue
                y, value = row + (place + 1) / (len(names) + 1) - 0.5, estimate.value
                low, high = estimate.bounds or (value, value)
                error = [[max(value - low, 0.0)], [max(high - value, 0.0)]]
                colour, _ = _stroke(place)
                axes.errorbar([value], [y], xerr=error, fmt="o", ms=4, color=colour, capsize=2)
            if one.truth is not None:
                axes.plot([one.truth, one.truth], [row - 0.45, row + 0.45], color="#1c2024")
        axes.axvline(mine[0].behavior, color="#5c646d", linewidth=1, linestyle=":")
        axes.set_yticks(range(len(mine)), [one.title for one in mine], parse_math=False)
        axes.set_ylim(len(mine) - 0.5, -0.5)
        axes.set_xlabel(f"value at discount {discount:g}; solid: truth; dotted: behavior")
        axes.grid(visible=False, axis="y")
        shown = [axes.plot([], [], "o", ms=4, color=_stroke(k)[0])[0] for k in range(len(names))]
        _legend(axes, shown, names)
        yield f"ope-{number}-{_slug(task.title)}", figure


def _empty(title: str, height: float = 3.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    return figure, axes


def _legend(axes: Any, lines: Sequence[Any], labels: Sequence[str]) -> None:
    # A label that begins with an underscore would be left out.
    legend = axes.legend(lines, [f"\u2009{label}" for label in labels], fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ is a $


def _stroke(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def _slug(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()[:60] or "figure"

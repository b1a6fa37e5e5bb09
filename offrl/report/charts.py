"""Charts as data: curves over steps, and estimates with their intervals beside the truth."""

from collections.abc import Mapping, Sequence
from typing import Any

from offrl.evaluation.results import TRIED
from offrl.plain import clean, number, typeset
from offrl.plain import interval as written
from offrl.report.arms import Arm, Task
from offrl.report.curves import Curve, Curves, rounded
from offrl.report.judged import Judged
from offrl.report.parts import Chart, Key

HEIGHT = 380
_NEAR = 1.5  # times the span of the curves, within which a line of comparison is drawn


def curves_chart(
    id: str,
    task: Task,
    arms: Sequence[Arm],
    curves: Curves,
    *,
    step: str,
    only: Sequence[str] = (),
    lines: Sequence[tuple[str, float]] = (),
) -> Chart | None:
    """Return curves of the arms of a task, by metric; None where nothing was logged."""
    names = dict.fromkeys(name for arm in arms for name in curves[arm.key])
    metrics = [name for name in only if name in names] if only else list(names)
    if not metrics:
        return None
    if not only:
        metrics.sort(key=lambda name: _rank(name, [curves[arm.key] for arm in arms]))
    drawn = [arm for arm in arms if any(name in curves[arm.key] for name in metrics)]
    told = [
        {
            "label": arm.label,
            "number": arm.number,
            "curves": {
                name: curve.to_dict(each=name == TRIED)
                for name, curve in curves[arm.key].items()
                if name in metrics
            },
        }
        for arm in drawn
    ]
    shown = [curves[arm.key].get(metrics[0]) for arm in drawn]
    spec = {
        "kind": "curves",
        "metric": metrics[0],
        "x": step,
        "height": HEIGHT,
        "arms": told,
        "lines": [{"label": label, "y": y} for label, y in _near(lines, shown)],
    }
    ends = [
        f"{arm.label} ends at {number(float(curve.mean[-1]))} (n={int(curve.n[-1])})"
        for arm, curve in zip(drawn, shown, strict=True)
        if curve is not None
    ]
    several = any(len(curve.seeds) > 1 for curve in shown if curve is not None)
    return Chart(
        id=id,
        title=task.title,
        spoken=typeset(f"Curves of {metrics[0]} over {step}, {task.title}: {'; '.join(ends)}"),
        keys=[Key(arm.label, arm.number) for arm in drawn],
        spec=spec,
        note=_partial(drawn, shown),
        each=several and metrics[0] == TRIED,
        metrics=metrics,
    )


def _rank(name: str, curves: Sequence[Mapping[str, Curve]]) -> tuple[bool, bool, int, bool, str]:
    """The order of metrics: returns, held-out ones, then what most arms have, losses first."""
    having = sum(name in one for one in curves)
    return name != TRIED, not name.startswith("holdout/"), -having, "loss" not in name, name


def _partial(arms: Sequence[Arm], curves: Sequence[Curve | None]) -> str:
    """Which means are of fewer seeds towards the end."""
    told = [
        f"{arm.label}: {int(curve.n[-1])} of {len(curve.seeds)} seeds reach step {curve.steps[-1]}."
        for arm, curve in zip(arms, curves, strict=True)
        if curve is not None and curve.n[-1] < len(curve.seeds)
    ]
    return " ".join(told)


def _near(
    lines: Sequence[tuple[str, float]], curves: Sequence[Curve | None]
) -> list[tuple[str, float]]:
    """The lines that leave the curves room to be seen."""
    means = [value for curve in curves if curve is not None for value in curve.mean]
    if not means:
        return []
    low, high = min(means), max(means)
    room = _NEAR * max(high - low, 1e-9)
    return [(label, y) for label, y in lines if low - room <= y <= high + room]


def forest_chart(id: str, task: Task, discount: float, judged: Sequence[Judged]) -> Chart:
    """Return the estimates of each policy as points with intervals, beside the truth."""
    names = dict.fromkeys(e.name for one in judged for e in one.estimates if e.value is not None)
    rows: list[dict[str, Any]] = []
    for one in judged:
        estimates: dict[str, Any] = {}
        for e in one.estimates:
            if e.value is None:
                continue
            low, high = rounded(e.bounds) if e.bounds is not None else (None, None)
            told = typeset(f"{e.name} {number(e.value)} {written(e.bounds)}")
            value = rounded([e.value])[0]
            estimates[e.name] = {"value": value, "low": low, "high": high, "told": told}
        rows.append(
            {
                "label": one.title,
                "truth": one.truth,
                "truth_ci": None if one.truth_ci is None else list(one.truth_ci),
                "estimates": estimates,
            }
        )
    keys = [Key(clean(name), place) for place, name in enumerate(names)]
    known = any(one.truth is not None for one in judged)
    spoken = "; ".join(
        f"{one.title}: "
        + ", ".join(f"{e.name} {number(e.value)}" for e in one.estimates if e.value is not None)
        + (f", truth {number(one.truth)}" if one.truth is not None else "")
        for one in judged
    )
    truth = " Each solid line is the truth, the shade its 95% interval." if known else ""
    return Chart(
        id=id,
        title=task.title,
        spoken=typeset(f"Estimates at discount {discount:g}, {task.title}: {spoken}"),
        keys=keys,
        spec={
            "kind": "forest",
            "x": f"value at discount {discount:g}",
            "arms": [{"label": key.label, "number": key.number} for key in keys],
            "rows": rows,
            "behavior": judged[0].behavior,
        },
        note=f"The dotted line is the value of the behavior that made the log.{truth}",
    )

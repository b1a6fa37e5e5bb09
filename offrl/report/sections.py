"""The sections of a report on runs, each left out where there is nothing to say."""

from collections.abc import Sequence

from offrl.plain import clean, number, typeset
from offrl.plain import interval as written
from offrl.report import acting, critics
from offrl.report.arms import Gathered, Task
from offrl.report.cards import card_by_name
from offrl.report.charts import curves_chart, forest_chart
from offrl.report.curves import Curves
from offrl.report.final import Final
from offrl.report.judged import Judged
from offrl.report.parts import Cell, Section, Span, Table, cell, table, valued, without_empty
from offrl.report.repeating import repeat

WIDTH = 130  # of the drawing of an interval
OVER = (
    "A return is the undiscounted sum of an episode's rewards. With two or more seeds an interval"
    " is over the means of seeds, else over episodes, and then it says nothing about other seeds."
    " The last checkpoint is the headline; the best of many evaluations is best by luck too."
)
BANDS = (
    "The line is the mean over seeds, the band its 95% Student-t interval at each step. Of long"
    " curves evenly spaced points are drawn."
)


def results(finals: Sequence[Final]) -> Section:
    """The final table of each task."""
    tables: list[Table] = []
    for task in dict.fromkeys(one.arm.task for one in finals):
        mine = [one for one in finals if one.arm.task == task]
        tables.append(_final_table(task, mine))
    return Section("results", "Final results", OVER, tables=tables)


def _final_table(task: Task, finals: Sequence[Final]) -> Table:
    spans = _spans(finals)
    rows: list[list[Cell]] = []
    for k, one in enumerate(finals):
        drawing = Cell("", _key(one), span=spans[k]) if k in spans else cell("-")
        end = [one.over or "-", str(one.n_seeds), number(one.n_episodes), one.checkpoint]
        rows.append(
            [
                Cell(one.arm.label, one.arm.label.casefold()),
                valued(one.return_mean, one.return_ci),
                drawing,
                valued(one.score, one.score_ci),
                *(cell(text) for text in (*end, number(one.hindsight), one.state)),
            ]
        )
    return without_empty(Table(task.title, _FINAL, rows), usual="finished")


_FINAL = (
    "arm", "return, 95% interval", "on a scale", "score", "interval over", "seeds", "episodes",
    "checkpoint", "hindsight best", "state",
)  # fmt: skip


def _key(one: Final) -> str:
    return "" if one.return_mean is None else repr(one.return_mean)


def _spans(finals: Sequence[Final]) -> dict[int, Span]:
    """Drawings of the intervals of a table, on the scale of all that have a mean."""
    known = {k: one for k, one in enumerate(finals) if one.return_mean is not None}
    ends = [v for one in known.values() for v in (one.return_ci or (one.return_mean or 0.0,))]
    if len(known) < 2 or min(ends) == max(ends):
        return {}
    low, width = min(ends), max(ends) - min(ends)

    def place(value: float) -> float:
        return round(5 + (WIDTH - 10) * (value - low) / width, 2)

    spans: dict[int, Span] = {}
    for k, one in known.items():
        mean = one.return_mean or 0.0
        ends = one.return_ci or (mean, mean)
        told = typeset(f"{number(mean)}, interval {written(one.return_ci)}")
        spans[k] = Span(place(ends[0]), place(mean), place(ends[1]), one.arm.number, told)
    return spans


def learning(found: Gathered, curves: Curves) -> Section:
    """Learning curves of the arms that learned from a log."""
    charts = [
        chart
        for k, (task, arms) in enumerate(found.tasks.items())
        if not task.acts
        and (chart := curves_chart(f"learning-{k}", task, arms, curves, step="gradient steps"))
    ]
    return Section("learning", "Learning curves", BANDS, charts=charts)


def worked_online(found: Gathered, curves: Curves) -> Section:
    """What acting did: curves over environment steps, the dip, and the regret."""
    rows = acting.acted(found)
    charts = [
        chart
        for k, (task, arms) in enumerate(found.tasks.items())
        if task.acts
        and (chart := curves_chart(f"acting-{k}", task, arms, curves, step="environment steps"))
    ]
    tables = []
    for task in dict.fromkeys(one.arm.task for one in rows):
        mine = [one.cells() for one in rows if one.arm.task == task]
        tables.append(table(task.title, acting.HEADINGS, mine))
    text = (
        "The dip is the lowest evaluation less the first, the early dip that of the first tenth of"
        " the steps; a policy has recovered at the first"
        " evaluation after it that is as good as the first. Regret is the mean of 1 - score/100"
        " over the evaluations, or over the episodes that were lived. Means over seeds, with 95%"
        " intervals."
    )
    return Section("acting", "Acting and fine-tuning", text, tables=tables, charts=charts)


def evaluated_from_logs(judged: Sequence[Judged]) -> Section:
    """Off-policy estimates beside the truth."""
    charts, tables, decisions = [], [], []
    groups: dict[tuple[Task, float], list[Judged]] = {}
    for one in judged:
        groups.setdefault((one.arm.task, one.discount), []).append(one)
    for k, ((task, discount), mine) in enumerate(groups.items()):
        charts.append(forest_chart(f"ope-{k}", task, discount, mine))
        title = f"{task.title}, discount {discount:g}"
        tables.append(without_empty(Table(title, _OPE, _ope_rows(mine))))
        for one in mine:
            if one.decision is not None:
                told = {name: clean(one.decision[name]) for name in ("verdict", "reason")}
                told["assumptions"] = clean(" ".join(one.decision["assumptions"]))
                told["would_settle"] = clean(one.decision["would_settle"])
                decisions.append({"title": one.title, **told})
    remarks = [text for one in judged for text in _refusals(one)]
    remarks += [f"{one.title}: {text}" for one in judged for text in one.remarks]
    text = (
        "Values are discounted sums of rewards from the first state on. The truth is the mean"
        " discounted return of the episodes that offrl eval ran with the same checkpoint, until"
        " they ended or were cut. What is left out by cuts is the weight that discounting leaves to"
        " what would have followed."
    )
    return Section(
        "ope", "Judged from logs", text, tables, charts,
        decisions=decisions, remarks=tuple(dict.fromkeys(remarks)),
    )  # fmt: skip


_OPE = (
    "policy", "estimator", "value", "interval by", "truth", "interval holds the truth",
    "left out by cuts", "effective episodes", "checkpoint",
)  # fmt: skip


def _ope_rows(judged: Sequence[Judged]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for one in judged:
        left = f"{one.left:.1%}" if one.truth is not None else "-"
        sample = ", in-sample" if one.in_sample else ""
        ess = "-" if one.ess is None else f"{number(float(one.ess))} of {one.episodes}"
        end = [cell(text) for text in (left, ess, f"{one.picked}{sample}")]
        name = Cell(one.title, one.title.casefold())
        for estimate in one.estimates:
            if estimate.value is None:
                continue
            held = one.covers(estimate)
            told = cell("-" if held is None else "yes" if held else "no")
            value = valued(estimate.value, estimate.bounds)
            truth = valued(one.truth, one.truth_ci)
            how = [cell(estimate.name), value, cell(estimate.by or "-")]
            rows.append([name, *how, truth, told, *end])
    nothing, first = cell("-"), judged[0]
    behavior = valued(first.behavior, first.behavior_ci)
    return [*rows, [cell("behavior of the log"), nothing, behavior, *[nothing] * 6]]


def _refusals(one: Judged) -> list[str]:
    refused: dict[str, list[str]] = {}
    for estimate in one.estimates:
        if estimate.refused:
            refused.setdefault(estimate.refused, []).append(estimate.name)
    return [f"{one.title}: refused {', '.join(names)}. {why}" for why, names in refused.items()]


def over_estimation(found: Gathered, curves: Curves) -> Section:
    """Critics beside what was earned."""
    rows = critics.critics(found)
    tables, charts = [], []
    for k, task in enumerate(dict.fromkeys(one.arm.task for one in rows)):
        mine = [one for one in rows if one.arm.task == task]
        tables.append(table(task.title, critics.HEADINGS, [one.cells() for one in mine]))
        lines = [
            (f"{name} ({number(value)})", value)
            for name, value in (
                ("most earned in the log", mine[0].earned[1]),
                ("most that is possible", mine[0].possible[1]),
            )
            if value is not None
        ]
        arms = [one.arm for one in mine]
        names = critics.NAMES
        step = "environment steps" if task.acts else "gradient steps"
        chart = curves_chart(f"critics-{k}", task, arms, curves, step=step, only=names, lines=lines)
        charts += [chart] if chart else []
    text = (
        "The mean value that a critic gives to actions at logged states, beside the discounted"
        " returns that the log earned from such states and the most that its rewards allow. Values"
        " above both come from no data. The value where it acted is from first states, so it need"
        " not be equal."
    )
    return Section("critics", "Q against returns", text, tables=tables, charts=charts)


def datasets(found: Gathered) -> Section:
    """A card for each dataset that the runs learned from."""
    told: dict[str, set[str]] = {}
    for run in found.runs:
        settings = run.run.settings
        if run.run.online is None or run.run.parent:
            told.setdefault(settings.dataset, set()).add(run.run.fingerprint)
    cards = [card_by_name(ref, one) for ref, many in told.items() for one in sorted(many) if one]
    return Section("data", "Data" if len(cards) == 1 else "Datasets", cards=cards)


def repeating(found: Gathered) -> Section:
    """How to make each run again."""
    text = (
        "Every setting is in the command; AGAIN is a new folder. run.toml holds the same, and which"
        " episodes were held out."
    )
    repeats = [repeat(run, found.result(run)) for run in found.runs]
    return Section("repeat", "How to repeat it", text, repeats=repeats)


def warnings_of(found: Gathered) -> list[str]:
    """What a reader must know before anything else, a sentence each."""
    told: list[str] = []
    for arm in found.arms:
        for run in arm.runs:
            result = found.result(run)
            said = result.get("warnings")
            told += (
                [f"{arm.label}: {clean(text)}" for text in said] if isinstance(said, list) else []
            )
            for name, what in (("diverged", "diverged"), ("rolled_back", "was rolled back")):
                ended = result.get(name)
                for seed, why in ended.items() if isinstance(ended, dict) else ():
                    reason = why.get("why", "") if isinstance(why, dict) else why
                    told.append(f"{arm.label}: seed {clean(seed)} {what}. {clean(reason)}")
    return list(dict.fromkeys(told))

"""Write docs/results.md from the table of a sweep: `python -m benchmarks.results_page TABLE`.

`--check` writes nothing and ends with 1 where the page is not what the table gives.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import parquet

from offrl.sweeps.table import summary_of

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "benchmarks" / "results" / "offline.parquet"
PAGE = ROOT / "docs" / "results.md"
NOTES = ROOT / "benchmarks" / "results" / "offline.md"  # what was found behind the numbers
HEAD = """\
# Results

Written by `make results` from [`{table}`](../{table}), the table of `offrl sweep` on
[`benchmarks/results/offline.toml`](../benchmarks/results/offline.toml): no number in its tables is
typed. {finished} of {trials} trials finished; each took {steps} gradient steps of {batch}
transitions with {layers}x{width} units, {hours:.1f} hours of training in all, on shared cores.
The last checkpoint acts, for {episodes} episodes a seed. Return is the mean over seeds; brackets
hold the 95 % Student t interval over seeds, which with few seeds is wide. Score: 0 is random, 100
is expert. Two algorithms whose intervals overlap have not been told apart.

{versions}
"""
FAILED = """
## Trials that failed

| trial | what it said |
|---|---|
{rows}
"""


def page_of(path: Path) -> str:
    """The page of a table."""
    table = parquet.read_table(path)
    rows = table.to_pylist()
    facts = json.loads((table.schema.metadata or {})[b"offrl"])
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise SystemExit(f"{path} holds no finished trial")
    head = HEAD.format(
        table=TABLE.relative_to(ROOT).as_posix(),
        finished=len(finished),
        trials=len(rows),
        steps=_all(finished, "steps"),
        batch=_all(finished, "batch_size"),
        layers=_all(finished, "hidden_layers"),
        width=_all(finished, "hidden_size"),
        hours=sum(row["seconds"] for row in finished) / 3600,
        episodes=_all(finished, "n_episodes"),
        versions="Versions: " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()) + ".",
    )
    parts = [head]
    summary = summary_of(rows)
    for dataset in dict.fromkeys(one["dataset"] for one in summary):
        parts.append(_section(dataset, [one for one in summary if one["dataset"] == dataset]))
    if broken := [row for row in rows if row["status"] == "failed"]:
        lines = (
            f"| {' '.join(filter(None, (row['algo'], row['point'])))} on {row['dataset']}, "
            f"seed {row['seed']} | {row['error']} |"
            for row in broken
        )
        parts.append(FAILED.format(rows="\n".join(lines)))
    if NOTES.is_file():
        parts.append("\n" + NOTES.read_text(encoding="utf-8"))
    return "".join(parts)


def _all(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    values = sorted({row[name] for row in rows if row[name] is not None})
    return " or ".join(f"{value:,}" for value in values)


def _section(dataset: str, summary: Sequence[Mapping[str, Any]]) -> str:
    varied = any(one["point"] for one in summary)
    names = ["algorithm", *(["settings"] if varied else [])]
    names += ["seeds", "return", "95 % interval", "score", "95 % interval"]
    best = sorted(summary, key=lambda one: _or(one["return_mean"], -math.inf), reverse=True)
    lines = [f"\n## {dataset}\n", _line(names), _line(["---"] * len(names))]
    for one in best:
        point = [one["point"]] if varied else []
        lines.append(
            _line(
                [
                    one["algo"],
                    *point,
                    f"{one['n_seeds']} of {one['of_seeds']}",
                    _number(one["return_mean"]),
                    _interval(one["return_ci"]),
                    _number(one["score"]),
                    _interval(one["score_ci"]),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"[{bounds[0]:.1f}, {bounds[1]:.1f}]"


def main() -> int:
    """Write or check the page; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results_page", description=__doc__)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="[default: %(default)s]")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    page = page_of(arguments.table)
    if arguments.check:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page)
    TABLE.parent.mkdir(exist_ok=True)
    if arguments.table != TABLE:
        TABLE.write_bytes(arguments.table.read_bytes())
    PAGE.write_text(page, encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

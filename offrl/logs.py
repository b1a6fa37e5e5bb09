"""metrics.csv and TensorBoard: consumers of a run's numbers."""

import atexit
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offrl.data.durable import write_file


class MetricsFile:
    """metrics.csv of one seed: a row a logged step, a column a metric, blank where there is none.

    A metric that appears late gets its column; rows after `up_to` are cut off when a run resumes,
    so the file equals that of a run that was never stopped. `key` is the column that rises.
    """

    def __init__(self, path: Path, up_to: int, key: str = "step") -> None:
        self.path, self._key = path, key
        self._rows: list[dict[str, str]] = []
        self._columns = [key]
        for row in _rows(path, up_to, key):
            self._rows.append(row)
            self._columns += [k for k in row if k not in self._columns]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._rewrite()

    def append(self, step: int, values: dict[str, float]) -> None:
        """Add a row, or values to the row of the same `step`, which the key column holds."""
        row = {self._key: str(step), **{name: repr(value) for name, value in values.items()}}
        new = [name for name in row if name not in self._columns]
        again = bool(self._rows) and self._rows[-1][self._key] == row[self._key]
        self._columns += new
        if again:
            self._rows[-1] |= row
        else:
            self._rows.append(row)
        if new or again:
            self._rewrite()
        else:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._text([row], header=False))

    def _rewrite(self) -> None:
        write_file(self.path, self._text(self._rows, header=True).encode())

    def _text(self, rows: list[dict[str, str]], *, header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def read_metrics(
    path: Path, up_to: int, key: str = "step"
) -> Iterator[tuple[int, dict[str, float]]]:
    """The step and the values of each row of a metrics.csv, up to `up_to` of the `key` column."""
    for row in _rows(path, up_to, key):
        yield int(row[key]), {name: float(row[name]) for name in row if name != key}


def _rows(path: Path, up_to: int, key: str = "step") -> Iterator[dict[str, str]]:
    if not path.exists():
        return
    last = -1  # steps rise, so a row cut short by a full disk is not taken for another
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = row.get(key) or ""
            if step.isdigit() and last < int(step) <= up_to:
                last = int(step)
                yield {k: v for k, v in row.items() if k and v}


class TensorBoard:
    """TensorBoard events of one seed, beside its metrics.csv."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow, so only where a run starts

        # Events of a stopped run beyond `step` are hidden by the reader, not shown twice.
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)
        # Events that nobody reads on are closed after the writer's thread has ended: it would hang.
        atexit.register(self._writer.close)

    def append(self, step: int, values: dict[str, float]) -> None:
        """Write each value as a scalar."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush to the disk."""
        atexit.unregister(self._writer.close)
        self._writer.close()
